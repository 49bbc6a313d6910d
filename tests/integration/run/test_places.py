"""Data folders on file systems that cannot back a mount, and what doctor says where little works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stele.host import mounts, probe, syscalls, ways
from stele.trust.errors import SteleError
from tests import tiny_release

pytestmark = pytest.mark.root
in_guest = pytest.mark.guest  # what differs between kernels; the rest is seen on the host alone
ROOT = Path(__file__).parents[3]
VOLUME = [{"path": "/data", "kind": "volume", "volume": "d"}]


@pytest.fixture(params=["tmpfs", "overlay"])
def odd_folder(request, bench):
    place = bench.data / "odd"
    place.mkdir()
    if request.param == "tmpfs":
        syscalls.mount("stele-test", str(place), "tmpfs", 0, "")
    else:
        parts = [bench.data / name for name in ("lower", "upper", "work")]
        for part in parts:
            part.mkdir()
        syscalls.mount("stele-test", str(place), "overlay", 0, "lowerdir={},upperdir={},workdir={}".format(*parts))
    yield place
    mounts.unmount(place)


@in_guest
def test_images_on_any_file_system_are_mounted(bench, odd_folder) -> None:
    assert not ways.erofs_by_file(odd_folder)
    release, images = tiny_release.build(odd_folder)
    instance = bench.runtime.create(release, images, bench.data / "volumes")
    bench.runtime.start(instance)
    assert {mount.source[:9] for mount in mounts.mounted_below(bench.run_dir / "strata")} == {"/dev/loop"}
    bench.runtime.remove(instance)


@in_guest
def test_volumes_on_any_file_system_work_or_name_the_cause_and_leave_nothing(bench, odd_folder) -> None:
    release, images = bench.release(writable=VOLUME)
    try:
        instance = bench.runtime.create(release, images, odd_folder / "volumes")
    except SteleError as error:
        assert error.code == "run.idmap-unsupported"
        assert str(odd_folder) in error.reason
        assert bench.runtime.adopt() == []
    else:
        bench.runtime.remove(instance)


def _mounted(own: Path) -> list[str]:
    """Without what other tests on this machine mount meanwhile."""
    targets = [item.target for item in mounts.parse_mountinfo(Path("/proc/self/mountinfo").read_text())]
    return sorted(target for target in targets if str(own) in target or not ("stele" in target or "pytest-of-" in target))


@in_guest
def test_doctor_finds_every_need_of_run_and_watch_met_and_leaves_nothing(tmp_path) -> None:
    before = _mounted(tmp_path)
    found = probe.examine(tmp_path)
    assert {
        (item.need, item.state, item.way) for item in found.findings if item.stage in {"run", "watch"} and item.state == "missing"
    } == set()
    assert all(item.remedy for item in found.findings if item.state != "ok")
    assert _mounted(tmp_path) == before
    assert list(tmp_path.iterdir()) == []


@in_guest
def test_doctor_and_ways_agree(bench) -> None:
    chosen = ways.find(bench.data)
    said = {item.need: item.way for item in probe.examine(bench.data).findings}
    assert ("file" in said["EROFS"]) == (chosen.erofs == "file")
    assert ("one by one" in said["overlay"]) == (chosen.overlay == "lowerdir+")
    assert said["freezer"].split()[0] == chosen.freezer
    assert said["cgroups"] == chosen.cgroups.layout
    assert ("dm-verity over loop" in said["verification by the kernel"]) == chosen.verity


DROP_ROOT = "import os; os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"


@pytest.mark.parametrize(("prefix", "first"), [([], DROP_ROOT), (["unshare", "--user", "--map-root-user"], "")])
def test_without_privileges_doctor_says_so_and_does_not_fail(prefix, first) -> None:
    code = f"from stele.host import probe\n{first}\nfor f in probe.examine().findings: print(f.stage, f.need, f.state, sep='|')"
    env = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    said = subprocess.run([*prefix, sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd="/", check=False)
    lines = said.stdout.splitlines()
    assert "run|privileges|missing" in lines, said.stderr
    assert "seal|sealing|ok" in lines
    assert len(lines) == len(probe.NEEDS)


def test_ways_refuse_an_unprivileged_agent_with_a_remedy() -> None:
    code = "from pathlib import Path\nfrom stele.host import ways\ntry: ways.find(Path('/var/tmp'))\nexcept Exception as e: print(e.code)"
    env = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    said = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert said.stdout.strip() == "run.unprivileged", said.stderr
