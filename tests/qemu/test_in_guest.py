"""The guests are what the other guest tests take them for."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

pytestmark = [pytest.mark.guest, pytest.mark.root]


def test_kernel_is_one_that_stele_supports():
    major, minor = (int(part) for part in platform.release().split(".")[:2])
    assert (major, minor) >= (6, 1)


@pytest.mark.cgroups
def test_cgroup_v2_hands_controllers_down_or_stands_beside_v1():
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    unified = next(fields[1] for fields in mounts if fields[2] == "cgroup2")
    assert (Path(unified) / "cgroup.procs").exists()
    if unified == "/sys/fs/cgroup":
        assert "memory" in (Path(unified) / "cgroup.subtree_control").read_text().split()
    else:
        assert any(fields[2] == "cgroup" and "freezer" in fields[3].split(",") for fields in mounts)


def test_stele_and_its_compiled_dependencies_load():
    import cryptography.hazmat.primitives.asymmetric.ec
    import msgspec
    import zstandard

    import stele

    assert stele.__version__
    assert msgspec.json.decode(zstandard.decompress(zstandard.compress(b"[1]"))) == [1]
    assert cryptography.hazmat.primitives.asymmetric.ec.generate_private_key(cryptography.hazmat.primitives.asymmetric.ec.SECP256R1())


@pytest.mark.parametrize("program", ["runc", "conmon", "nft", "ip", "veritysetup", "mkfs.erofs", "gdb", "nsenter"])
def test_the_programs_that_stele_runs_are_there(program):
    assert any(os.access(f"{folder}/{program}", os.X_OK) for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"))
