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


def test_cgroup_v2_is_mounted_and_hands_controllers_down():
    roots = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"]
    assert roots
    assert (Path(roots[0]) / "cgroup.procs").exists()
    if roots[0] == "/sys/fs/cgroup":
        assert "memory" in (Path(roots[0]) / "cgroup.subtree_control").read_text().split()


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
