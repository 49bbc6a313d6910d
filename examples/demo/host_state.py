"""What a run of Stele could leave behind on a host: taken before and after, and compared.

Looked at: mounts, network namespaces and links, nftables tables, control groups, sysctls, loop devices, /run/stele, and
processes that belong to the data folder. Needs root to see nftables; without it that part is empty both times.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Literal, NamedTuple

# what the kernel changes by itself
VOLATILE = re.compile(
    r"fs/(dentry-state|inode-nr|inode-state|file-nr|aio-nr|epoll/|quota/)|kernel/(random/|ns_last_pid|pty/nr|perf_event_max_sample_rate"
    r"|perf_cpu_time_max_percent|sched_domain/|hung_task_detect_count)|net/netfilter/nf_conntrack_count|net/ipv4/(route/flush|tcp_fastopen_key)"
    r"|debug/"
)
PER_LINK = re.compile(r"net/(?:ipv4|ipv6)/(?:neigh|conf)/([^/]+)/")
STELE_LIKE = re.compile(r"stele|^st[0-9]+[a-z]?$")
Parts = dict[str, dict[str, str]]


class Snapshot(NamedTuple):
    """State by kind, then by name; and the tags of all data folders that /run/stele knows."""

    parts: Parts
    tags: frozenset[str]


class Change(NamedTuple):
    """One difference. `owner`: ours (a leak), somebody else's, or not of a kind that Stele makes."""

    kind: str
    name: str
    what: Literal["appeared", "vanished", "changed"]
    owner: Literal["ours", "others", "unrelated"]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.what}"


def take(tag: str, data: Path) -> Snapshot:
    """Look at the host now.

    Args:
        tag: the 8 hex digits that every name made for the data folder carries.
        data: the data folder, by which its processes and loop devices are known.
    """
    parts: Parts = {
        "mount": _mounts(),
        "network namespace": dict.fromkeys(_names("/run/netns"), ""),
        "link": dict.fromkeys(_names("/sys/class/net"), ""),
        "nft table": _nft(),
        "cgroup": _cgroups(),
        "sysctl": _sysctls(),
        "loop device": _loops(),
        "run file": {f"/run/stele/{name}": "" for name in _names("/run/stele") if name != "slots"}
        | {f"/run/stele/slots/{name}": "" for name in _names("/run/stele/slots")},
        "process": _processes((tag, str(data))),
    }
    tags = frozenset(name for name in _names("/run/stele") if re.fullmatch(r"[0-9a-z]{8}", name))
    return Snapshot(parts, tags)


def compare(before: Snapshot, after: Snapshot, tag: str, data: Path) -> list[Change]:
    """All differences, each with whose it is.

    A name that carries our tag or data folder is ours. One that carries another's tag is theirs. One that Stele could have made
    without a tag (a link, a sysctl) is ours unless another data folder is at work on this host too.
    """
    foreign = (before.tags | after.tags) - {tag}
    lasting = {"all", "default", *(before.parts["link"].keys() & after.parts["link"].keys())}
    changes = []
    for kind, old in before.parts.items():
        new = after.parts[kind]
        for name in sorted(old.keys() | new.keys()):
            per_link = PER_LINK.match(name) if kind == "sysctl" else None
            if old.get(name) == new.get(name) or (per_link and per_link[1] not in lasting):
                continue  # a link's settings come and go with it; the link itself is compared
            what: Literal["appeared", "vanished", "changed"] = "changed"
            if name not in old:
                what = "appeared"
            elif name not in new:
                what = "vanished"
            changes.append(Change(kind, name, what, _owner(kind, name, what, tag, str(data), foreign)))
    return changes


def _owner(kind: str, name: str, what: str, tag: str, data: str, foreign: frozenset[str]) -> Literal["ours", "others", "unrelated"]:
    if tag in name or data in name:
        return "ours"
    if any(other in name for other in foreign):
        return "others"
    if kind == "sysctl" and what == "appeared":
        return "unrelated"  # a kernel module was loaded and brought its settings; their values are its defaults
    if kind == "sysctl" or STELE_LIKE.search(name):
        return "others" if foreign else "ours"
    return "unrelated"


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return file.read(65536).decode("utf-8", "replace").strip()
    except OSError:
        return None


def _mounts() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (_read_all("/proc/self/mountinfo")).splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        name = fields[4]
        while name in found:
            name += " (stacked)"
        found[name] = f"{kind[0]} {fields[3]} {fields[5]}"
    return found


def _read_all(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _nft() -> dict[str, str]:
    program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None or os.geteuid() != 0:
        return {}
    done = subprocess.run([program, "-s", "list", "ruleset"], capture_output=True, text=True, timeout=30, check=False)
    tables = re.findall(r"^table (\S+ \S+) \{\n(.*?)^\}", done.stdout, re.MULTILINE | re.DOTALL)
    return dict(tables)


def _cgroups() -> dict[str, str]:
    tops = [line.split(" ")[4] for line in _read_all("/proc/self/mountinfo").splitlines() if " - cgroup" in line]
    return {folder: "" for top in tops for folder, _, _ in os.walk(top)}


def _sysctls() -> dict[str, str]:
    found = {}
    for folder, _, names in os.walk("/proc/sys"):
        for name in names:
            key = os.path.join(folder, name)[len("/proc/sys/") :]
            if not VOLATILE.match(key):
                value = _read(f"/proc/sys/{key}")
                if value is not None:
                    found[key] = value
    return found


def _loops() -> dict[str, str]:
    found = {}
    for name in _names("/sys/block"):
        backing = _read(f"/sys/block/{name}/loop/backing_file") if name.startswith("loop") else None
        if backing:
            found[f"{name} of {backing}"] = ""
    return found


def _processes(marks: tuple[str, ...]) -> dict[str, str]:
    """Processes that name the data folder or its tag in their arguments or control group; not this one or its ancestors."""
    found = {}
    mine = _ancestors()
    for name in _names("/proc"):
        if not name.isdecimal() or int(name) in mine:
            continue
        line = (_read(f"/proc/{name}/cmdline") or "").replace("\0", " ")
        if any(mark in line or mark in (_read(f"/proc/{name}/cgroup") or "") for mark in marks):
            found[f"{name}: {line[:120]} ({marks[0]})"] = ""
    return found


def _ancestors() -> set[int]:
    pid, seen = os.getpid(), set()
    while pid > 0 and pid not in seen:
        seen.add(pid)
        stat = _read(f"/proc/{pid}/stat")
        with contextlib.suppress(IndexError):
            pid = int(stat.rpartition(")")[2].split()[1]) if stat else 0
    return seen


def cgroups_named(name: str) -> list[Path]:
    """The control group folders, in every hierarchy, whose name is `name`."""
    return [Path(folder) for folder in _cgroups() if folder.rpartition("/")[2] == name]
