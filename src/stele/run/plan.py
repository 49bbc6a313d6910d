"""What runc is told: a pure function from a sealed spec and the instance's place on the host (docs/spec/instance.md).

Nothing here depends on the host beyond its arguments; everything a spec can ask for is confined by construction.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stele.model.spec import Spec, Writable, parse_mode, parse_owner
from stele.model.units import parse_size
from stele.run.syscall_policy import oci_seccomp

IDS = 65536
OCI_VERSION = "1.0.2"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
CONFINED = ["nosuid", "nodev", "noexec"]
SHM_SIZE = 16 << 20
CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where on the host an instance is to run.

    `id`: the instance's. `uid_base`: first host id of its block. `rootfs`: folder of its sealed root.
    `volumes`, `data`: path inside -> prepared folder outside. `netns`: path of its network namespace.
    `cgroup`: path below every hierarchy's root. `listener`: Unix socket for the seccomp descriptor.
    `machine`: as uname -m says. `open_files`: the largest limit of open files that may be set.
    """

    id: str
    uid_base: int
    rootfs: str
    volumes: dict[str, str]
    data: dict[str, str]
    netns: str
    cgroup: str
    listener: str
    machine: str
    open_files: int


def mount_points(spec: Spec) -> tuple[str, ...]:
    """Every path that something is mounted on inside, parents first; the root must have them."""
    return ("/proc", "/dev", *sorted([*(item.path for item in spec.writable), *(item.path for item in spec.data)]))


def writable_paths(spec: Spec) -> tuple[str, ...]:
    """Every path inside that can be written to: the declared ones, and what POSIX shared memory and queues need."""
    return ("/dev/shm", "/dev/mqueue", *sorted(item.path for item in spec.writable))  # noqa: S108  a path inside


def oci_config(spec: Spec, place: Place) -> dict[str, Any]:
    """The OCI runtime configuration (config.json) of an instance."""
    return {
        "ociVersion": OCI_VERSION,
        "process": _process(spec, place),
        "root": {"path": place.rootfs, "readonly": True},
        "hostname": spec.hostname or spec.name,
        "mounts": _mounts(spec, place),
        "annotations": {"dev.stele.instance": place.id},
        "linux": _linux(spec, place),
    }


def _process(spec: Spec, place: Place) -> dict[str, Any]:
    uid, gid = parse_owner(spec.user)
    env = {"PATH": DEFAULT_PATH, **spec.env}
    limits = (("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", place.open_files), ("RLIMIT_MEMLOCK", 64 << 10))
    return {
        "terminal": False,
        "user": {"uid": uid, "gid": gid},
        "args": list(spec.command),
        "env": [f"{key}={value}" for key, value in sorted(env.items())],
        "cwd": spec.workdir,
        "capabilities": {name: [] for name in CAPABILITY_SETS},
        "rlimits": [{"type": name, "hard": value, "soft": value} for name, value in limits],
        "noNewPrivileges": True,
    }


def _mount(destination: str, fstype: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": fstype, "source": fstype, "options": options}


def _mounts(spec: Spec, place: Place) -> list[dict[str, Any]]:
    """No /sys: sysfs can be mounted only by the owner of the network namespace, which is the host here."""
    fixed = [
        _mount("/proc", "proc", CONFINED),
        _mount("/dev", "tmpfs", ["ro", "nosuid", "noexec", "strictatime", "mode=755", "size=64k"]),
        _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        _mount("/dev/shm", "tmpfs", [*CONFINED, "mode=1777", f"size={SHM_SIZE}"]),  # noqa: S108  a path inside
        _mount("/dev/mqueue", "mqueue", CONFINED),
    ]
    # a path below another writable path comes after it, or it would be covered
    writable = [_writable(item, place) for item in sorted(spec.writable, key=lambda item: item.path)]
    return fixed + writable + [_bind(item.path, place.data[item.path], "ro") for item in spec.data]


def _bind(path: str, source: str, access: str) -> dict[str, Any]:
    return {"destination": path, "type": "bind", "source": source, "options": ["bind", access, *CONFINED]}


def _writable(item: Writable, place: Place) -> dict[str, Any]:
    if item.kind == "volume":
        return _bind(item.path, place.volumes[item.path], "rw")
    uid, gid = parse_owner(item.owner)
    size = f"size={parse_size(item.size)}"
    return _mount(item.path, "tmpfs", ["rw", *CONFINED, size, f"mode={parse_mode(item.mode):04o}", f"uid={uid}", f"gid={gid}"])


def _linux(spec: Spec, place: Place) -> dict[str, Any]:
    identity = [{"containerID": 0, "hostID": place.uid_base, "size": IDS}]
    namespaces: list[dict[str, str]] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "user", "cgroup")]
    return {
        "uidMappings": identity,
        "gidMappings": identity,
        "namespaces": [*namespaces, {"type": "network", "path": place.netns}],
        "cgroupsPath": f"/{place.cgroup}",
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}],
            "memory": {"limit": parse_size(spec.resources.memory)},
            "pids": {"limit": spec.resources.pids},
        },
        "seccomp": oci_seccomp(place.machine, place.listener, place.id),
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READONLY),
    }
