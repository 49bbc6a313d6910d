"""What this host can do: every need of every stage, really tried where trying is harmless; the data of `stele doctor`.

What is decided here is decided by `ways`, so that what a person is told is what is done. Trials run in private mount
and network namespaces of a thread and leave nothing behind.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from stele.host import cgroup, landscape, loop, mounts, nft, proc, slots, trials, userns, verity_device, ways
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["ok", "degraded", "missing"]
OLDEST_KERNEL = (6, 1)
CANDIDATE_FOLDERS = ("/var/lib/stele/store/erofs", "/var/lib/stele", "/var/lib", "/var/tmp")  # noqa: S108  a real place, for a file without a name


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One need of a stage. `way`: what is used, or what is wrong. `remedy`: what to do; "" where nothing is needed."""

    need: str
    stage: str
    state: State
    way: str
    remedy: str = ""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, in the order of the stages."""

    kernel: str
    findings: tuple[Finding, ...]


class _Need(NamedTuple):
    """A need, how it is tried (returns state and way), and what helps if it is not met."""

    need: str
    stage: str
    try_it: Callable[[Path], tuple[State, str]]
    remedy: str
    without: State = "missing"


def _privileges(_: Path) -> tuple[State, str]:
    if ways.is_privileged():
        return "ok", "root over the machine"
    return "missing", "not root over the machine (no root, or an unprivileged container)"


def _kernel(_: Path) -> tuple[State, str]:
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal())
    return ("ok" if numbers >= OLDEST_KERNEL else "missing"), f"Linux {release}"


def _erofs(folder: Path) -> tuple[State, str]:
    return "ok", "mounted from the file" if ways.erofs_by_file(folder) else "mounted by a loop device"


def _loop(folder: Path) -> tuple[State, str]:
    image = folder / f".stele-probe-{os.getpid()}"
    try:
        image.write_bytes(ways.tiny_image())
        held, device = loop.attach(image)
        try:
            os.close(mounts.mount_erofs(device))
        finally:
            os.close(held)
    finally:
        image.unlink(missing_ok=True)
    return "ok", "works"


def _overlay(_: Path) -> tuple[State, str]:
    return "ok", {"lowerdir+": "layers one by one (fsconfig)", "options": "layers as one option string (mount)"}[ways.overlay_way()]


def _user_namespaces(_: Path) -> tuple[State, str]:
    with userns.mapped(slots.UID_FLOOR):
        return "ok", f"a block of {userns.IDS} ids per instance, from {slots.UID_FLOOR}"


def _cgroups(_: Path) -> tuple[State, str]:
    found = cgroup.find()
    missing = sorted({"memory", "pids"} - found.controllers())
    if found.layout == "none":
        return "missing", "no cgroup hierarchy is mounted"
    return ("missing", f"{found.layout}, without {', '.join(missing)}") if missing else ("ok", found.layout)


def _freezer(_: Path) -> tuple[State, str]:
    kinds = cgroup.find().kinds()
    return ("ok", f"{kinds[0]}" + (f" (also there: {', '.join(kinds[1:])})" if kinds[1:] else "")) if kinds else ("missing", "none")


def _verity(_: Path) -> tuple[State, str]:
    if verity_device.available():
        return "ok", "dm-verity over loop: the kernel checks every block it reads"
    return "degraded", "no dm-verity: images are verified at start, made immutable and watched"


def _fs_verity(_: Path) -> tuple[State, str]:
    return "ok", "there, and not needed" if Path("/proc/sys/fs/verity").is_dir() else "not there, and not needed"


def _subnet(_: Path) -> tuple[State, str]:
    routes = slots.parse_routes(Path("/proc/net/route").read_text(encoding="ascii"))
    return "ok", slots.free_subnet(routes)


def _forward(_: Path) -> tuple[State, str]:
    obstacles = landscape.forward_obstacles()
    if obstacles:
        return "degraded", f"dropped by {', '.join(obstacles)}: published ports answer on this host only"
    return "ok", "nobody drops them"


def _program(name: str, *argv: str) -> Callable[[Path], tuple[State, str]]:
    def try_it(_: Path) -> tuple[State, str]:
        said = proc.run([name, *argv], timeout=20).stdout.decode("utf-8", "replace").strip()
        return "ok", said.splitlines()[0][:80] if said else "there"

    return try_it


def _both(first: Callable[[Path], object], way: str) -> Callable[[Path], tuple[State, str]]:
    """A trial that works or raises."""

    def try_it(folder: Path) -> tuple[State, str]:
        first(folder)
        return "ok", way

    return try_it


def _kvm(folder: Path) -> tuple[State, str]:
    state, way = _program("qemu-system-x86_64", "--version")(folder)
    return state, f"{way}; {'KVM' if os.access('/dev/kvm', os.R_OK | os.W_OK) else 'emulated (no KVM)'}"


NEEDS = (
    _Need("privileges", "run", _privileges, "run the agent as root on the host or in a virtual machine; seal, verify and prove work here"),
    _Need("kernel", "run", _kernel, "Linux 6.1 or later: Debian 12, Ubuntu 24.04"),
    _Need("EROFS", "run", _erofs, "modprobe erofs; Debian: in every kernel package"),
    _Need("loop device", "run", _loop, "modprobe loop", "degraded"),
    _Need("overlay", "run", _overlay, "modprobe overlay"),
    _Need(
        "id-mapped mounts",
        "run",
        _both(trials.id_mapped_stack, "each stratum is mounted once, cloned and mapped per instance"),
        "Linux 6.1 or later",
    ),
    _Need("user namespaces", "run", _user_namespaces, "sysctl -w user.max_user_namespaces=15000"),
    _Need("cgroups", "run", _cgroups, "boot with systemd, or mount cgroup2 at /sys/fs/cgroup; memory: kernel option cgroup_enable=memory"),
    _Need("freezer", "run", _freezer, "mount cgroup v2, or the v1 freezer controller"),
    _Need("verification by the kernel", "run", _verity, "modprobe dm_verity; apt install cryptsetup-bin", "degraded"),
    _Need("fs-verity", "run", _fs_verity, "", "ok"),
    _Need("immutable files", "run", trials.immutable_file, "keep the data folder on ext4, xfs or btrfs", "degraded"),
    _Need("network namespaces", "run", _both(trials.veth, "one per instance, with a veth pair"), "modprobe veth"),
    _Need("nftables", "run", _both(trials.nat_table, nft.way()), "apt install nftables; modprobe nf_tables nft_chain_nat nft_fib_inet"),
    _Need("subnet", "run", _subnet, "free one of the ranges, or remove the route that overlaps them (ip route)"),
    _Need(
        "forwarded packets",
        "run",
        _forward,
        "allow forwarding to the links st*: Docker: iptables -I DOCKER-USER -o 'st+' -j ACCEPT; "
        "ufw: ufw default allow routed; firewalld: put st* into the zone trusted",
        "degraded",
    ),
    _Need("runc", "run", _program("runc", "--version"), "apt install runc"),
    _Need("conmon", "run", _program("conmon", "--version"), "apt install conmon"),
    _Need("published ports", "run", lambda _: ("ok", "on every IPv4 address and 127.0.0.1; not on ::1"), ""),
    _Need("seccomp notifications", "watch", trials.seccomp_notifications, "a kernel with CONFIG_SECCOMP_FILTER"),
    _Need(
        "permission events",
        "watch",
        _both(trials.permission_marks, "fanotify, on whole file systems"),
        "a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS",
    ),
    _Need("change events", "watch", _both(trials.change_marks, "fanotify, with names"), "a kernel with CONFIG_FANOTIFY"),
    _Need(
        "refused writes",
        "watch",
        _both(trials.raw_tracepoint, "raw tracepoint sys_exit"),
        "a kernel with CONFIG_BPF_SYSCALL, and lockdown not confidential: refused writes are not reported otherwise",
        "degraded",
    ),
    _Need("sealing", "seal", lambda _: ("ok", "needs nothing of the host"), ""),
    _Need("proving", "prove", lambda _: ("ok", "needs nothing of the host"), ""),
    _Need("QEMU", "test", _kvm, "apt install qemu-system-x86: only the tests on stock kernels need it", "degraded"),
)


def _folder() -> Path:
    for name in CANDIDATE_FOLDERS:
        if os.access(name, os.W_OK):
            return Path(name)
    return Path(tempfile.gettempdir())


def examine(folder: Path | None = None) -> Host:
    """Try everything; takes about half a second.

    Args:
        folder: where images lie or will lie; None: where the default data folder is.
    """
    where = folder if folder is not None and folder.is_dir() else _folder()
    return Host(kernel=os.uname().release, findings=tuple(_find(need, where) for need in NEEDS))


def _find(need: _Need, folder: Path) -> Finding:
    try:
        state, way = need.try_it(folder)
    except SteleError as error:
        state, way = need.without, error.reason
    except OSError as error:
        state, way = need.without, f"refused: {error.strerror or error}"
    return Finding(need=need.need, stage=need.stage, state=state, way=way[:200], remedy="" if state == "ok" else need.remedy)
