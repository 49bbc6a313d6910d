"""What an instance is confined to, seen from inside it; and that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from stele.host import mounts, verity_device
from stele.trust.errors import SteleError

pytestmark = pytest.mark.root
in_guest = pytest.mark.guest  # what differs between kernels; the rest is seen on the host alone
MOUNT_CALL = 165  # x86_64


@in_guest
def test_sealed_root_refuses_every_write(bench) -> None:
    _, lines = bench.script("touch /new; echo x > /etc/settings; mkdir /bin/dir; chmod 777 /www; cat /etc/settings", user="0:0")
    assert sum("Read-only file system" in line for line in lines) == 4
    assert lines[-1] == "one"


@in_guest
def test_files_of_root_belong_to_root_inside_and_to_nobody_outside(bench) -> None:
    _, lines = bench.script("stat -c %u:%g /bin/busybox / /www /home /proc/1; id -u")
    assert lines == ["0:0", "0:0", "0:0", "33:33", "0:0", "0"]
    instance = bench.create()
    assert Path(instance.rootfs).stat().st_uid == instance.uid_base
    assert Path(f"/proc/{instance.pid}/uid_map").read_text().split() == ["0", str(instance.uid_base), "65536"]


@in_guest
def test_there_are_no_capabilities_and_no_new_privileges(bench) -> None:
    _, lines = bench.script("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status")
    values = dict(line.split(":\t") for line in lines)
    assert {values[name] for name in values if name.startswith("Cap")} == {"0000000000000000"}
    assert (values["NoNewPrivs"], values["Seccomp"]) == ("1", "2")


@in_guest
def test_nothing_writable_is_executable(bench) -> None:
    writable = [{"path": "/tmp"}, {"path": "/data", "kind": "volume", "volume": "d"}]
    script = "for d in /tmp /data /dev/shm; do cp /bin/busybox $d/true && chmod 755 $d/true && $d/true; echo $?; done; echo x > /dev/x"
    _, lines = bench.script(script, writable=writable)
    assert [line for line in lines if line.isdecimal()] == ["126"] * 3
    assert any("/dev/x" in line and "Read-only" in line for line in lines)


@in_guest
def test_every_mount_inside_is_read_only_or_confined(bench) -> None:
    _, lines = bench.script("cat /proc/self/mountinfo", writable=[{"path": "/tmp"}, {"path": "/data", "kind": "volume", "volume": "d"}])
    for item in mounts.parse_mountinfo("\n".join(lines)):
        options = set(item.options.split(","))
        devices = item.target.startswith("/dev/") and item.fstype == "devtmpfs"  # single device nodes, bound one by one
        masked = item.target.startswith("/proc/")
        assert "ro" in options or devices or masked or {"nosuid", "noexec"} <= options, item


def test_tmpfs_is_limited(bench) -> None:
    _, lines = bench.script(
        "dd if=/dev/zero of=/tmp/fill bs=64k count=64; stat -c %s /tmp/fill", writable=[{"path": "/tmp", "size": "1MiB"}]
    )
    assert lines[-1] == str(1 << 20)
    assert any("No space left" in line for line in lines)


@in_guest
def test_volume_keeps_its_content_and_owners_between_instances(bench) -> None:
    declared = {"writable": [{"path": "/data", "kind": "volume", "volume": "d", "owner": "33:33", "mode": "0750"}], "user": "33:33"}
    keeper = bench.create()  # holds the first slot, so that the next ones have other ids
    assert bench.script("echo kept > /data/file", **declared) == (0, [])
    other = bench.create()
    assert bench.script("cat /data/file; stat -c %u:%g /data /data/file", **declared) == (0, ["kept", "33:33", "33:33"])
    assert keeper.slot != other.slot
    assert (bench.data / "volumes/tiny/d/file").stat().st_uid == 33


@in_guest
def test_nested_writable_paths_and_missing_mount_points(bench) -> None:
    writable = [{"path": "/var/cache/app", "owner": "7:7", "mode": "0700"}, {"path": "/var/cache"}]
    _, lines = bench.script("stat -c %u:%a /var/cache/app; touch /var/cache/a /var/b; ls /var/cache", writable=writable)
    assert lines[0] == "7:700"
    assert lines[-2:] == ["a", "app"]
    assert any("/var/b" in line and "Read-only" in line for line in lines)


@in_guest
def test_forbidden_call_and_every_exec_reach_the_listener(bench) -> None:
    bench.script("mount -t tmpfs x /tmp; ls /; true")
    calls = [number for _, _, number in bench.listener.seen]
    assert calls.count(59) >= 2  # the entry point, and what it runs
    assert MOUNT_CALL in calls


def test_cannot_see_the_host(bench) -> None:
    _, lines = bench.script(
        "hostname; ls /sys 2>&1 | wc -l; cat /proc/kcore 2>&1 | wc -c; ls /proc | grep -c '^[0-9]'; echo 1 > /proc/sys/kernel/panic"
    )
    assert lines[0] == "tiny"
    assert int(lines[3]) <= 6
    assert "Read-only" in lines[4] or "denied" in lines[4]


@in_guest
def test_stop_asks_first_and_returns_the_exit_status(bench) -> None:
    instance = bench.create(command=["/bin/sh", "-c", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.01; done"])
    assert bench.runtime.ended(instance) == ""
    bench.runtime.start(instance)
    bench.await_true(lambda: bench.output(instance) == ["up"])
    assert bench.runtime.stop(instance, "TERM", 60_000) == 7
    assert bench.runtime.ended(instance) == "exit status 7"
    bench.runtime.remove(instance)
    bench.runtime.remove(instance)
    assert bench.output(instance) == ["up", "bye"]


def test_stop_kills_after_the_grace(bench) -> None:
    instance = bench.create(command=["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"])
    bench.runtime.start(instance)
    bench.await_true(lambda: bench.output(instance) == ["up"])
    assert bench.runtime.stop(instance, "TERM", 1) == 137
    assert bench.runtime.ended(instance) == "killed by signal 9"


def test_an_entry_point_that_does_not_exist_ends_with_a_reason(bench) -> None:
    with pytest.raises(SteleError) as caught:
        bench.create(command=["/bin/absent"])
    assert caught.value.code == "run.create-failed"
    assert "absent" in caught.value.reason
    assert bench.runtime.adopt() == []


def test_started_twice_is_refused(bench) -> None:
    instance = bench.serve()
    with pytest.raises(SteleError) as caught:
        bench.runtime.start(instance)
    assert caught.value.code == "run.start-failed"


@in_guest
def test_a_stratum_is_mounted_once_for_all_instances(bench) -> None:
    first, second = bench.serve(), bench.create()
    assert len(mounts.mounted_below(bench.run_dir / "strata")) == 2
    assert first.slot != second.slot
    bench.runtime.remove(first)
    assert len(mounts.mounted_below(bench.run_dir / "strata")) == 2
    bench.runtime.remove(second)
    assert mounts.mounted_below(bench.run_dir / "strata") == []


def test_no_listener_means_no_instance_and_nothing_left(bench) -> None:
    release, images = bench.release()
    deaf = bench.with_ways()
    object.__setattr__(deaf, "listener", bench.run_dir / "nobody.sock")
    with pytest.raises(SteleError) as caught:
        deaf.create(release, images, bench.data / "volumes")
    assert caught.value.code == "run.create-failed"
    assert bench.runtime.adopt() == []
    assert mounts.mounted_below(bench.run_dir) == []


@in_guest
@pytest.mark.parametrize(("erofs", "overlay"), [("loop", "options"), ("file", "options")])
def test_the_other_ways_serve_too(bench, erofs, overlay) -> None:
    release, images = bench.release()
    runtime = bench.with_ways(erofs=erofs, overlay=overlay)
    instance = runtime.create(release, images, bench.data / "volumes")
    runtime.start(instance)
    sources = [item.source for item in mounts.mounted_below(bench.run_dir / "strata")]
    assert len(sources) == 2
    if erofs == "loop":
        assert all(source.startswith("/dev/loop") for source in sources)
    runtime.remove(instance)


@in_guest
def test_kernel_verified_where_dm_verity_is_and_a_flipped_byte_is_an_error(bench) -> None:
    if not verity_device.available():
        # said truthfully: nothing on this kernel checks blocks as they are read
        assert bench.create().enforcement == "verified at start, watched since"
        return
    release, images = bench.release(verity=True)
    runtime = bench.with_ways(verity=True)
    instance = runtime.create(release, images, bench.data / "volumes")
    assert instance.enforcement == "kernel-verified"
    runtime.start(instance)
    runtime.remove(instance)
    with images[0].open("r+b") as file:
        file.seek(release.strata[0].data_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    Path("/proc/sys/vm/drop_caches").write_text("3")
    refused = False
    try:
        instance = runtime.create(release, images, bench.data / "volumes")
        with open(f"{instance.rootfs}/bin/busybox", "rb") as file:
            file.read()
    except (OSError, SteleError):
        refused = True
    with contextlib.suppress(SteleError):
        for left in runtime.adopt():
            runtime.remove(left)
    assert refused


def test_instances_survive_their_creator_and_are_adopted(bench) -> None:
    from stele.run import sweep

    instance = bench.serve()
    assert sweep.sweep(bench.run_dir, bench.runtime.ways.cgroups, bench.network) == []
    assert bench.runtime.adopt() == [instance]
    assert bench.runtime.ended(instance) == ""
