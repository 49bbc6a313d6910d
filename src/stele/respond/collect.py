"""Collecting evidence from a frozen instance, most volatile first (RFC 3227; docs/spec/evidence.md).

Only reads: nothing here thaws, signals, traces or writes to the instance. Everything of it is untrusted.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stele.host import evidence_proc
from stele.respond import archive, bundle, elfcore, files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from stele.model.instance import Instance
    from stele.model.report import Report
    from stele.model.spec import Spec
    from stele.trust.release_key import PrivateKey

NET_TABLES = ("tcp", "tcp6", "udp", "udp6", "unix", "raw", "route", "ipv6_route", "arp", "dev", "sockstat", "nf_conntrack")
PROC_TEXTS = (
    "status",
    "stat",
    "cmdline",
    "environ",
    "maps",
    "mountinfo",
    "cgroup",
    "limits",
    "syscall",
    "wchan",
    "uid_map",
    "gid_map",
    "oom_score_adj",
)
LINKS = ("exe", "cwd", "root", "ns/mnt", "ns/net", "ns/pid", "ns/user", "ns/ipc", "ns/uts", "ns/cgroup")
TEXT_LIMIT = 8 << 20
SMAPS_LIMIT = 64 << 20
MAX_NOTES = 10_000
SHARED_MEMORY = "/dev/shm"  # noqa: S108  a path in the instance


class Bounds(NamedTuple):
    """Limits of one bundle, in bytes: memory over all processes, files of writable places and deleted ones, texts of /proc."""

    memory: int
    files: int
    texts: int = 512 << 20


def collect(
    folder: Path,
    instance: Instance,
    spec: Spec,
    report: Report | None,
    *,
    pids: Sequence[int],
    extras: Mapping[str, bytes],
    bounds: Bounds,
    signer: PrivateKey,
    machine: str,
    facts: Mapping[str, Any],
) -> bundle.Sealed:
    """Collect, seal and sign one bundle at `folder`, which appears under its name only when it is whole.

    Args:
        folder: where the bundle goes; `<folder>.partial` is used meanwhile.
        instance: frozen.
        spec: its sealed spec.
        report: what led here.
        pids: host pids in its freezer.
        extras: further files by name (log, spec, host facts).
        bounds: limits.
        signer: signs the manifest.
        machine: `uname -m`.
        facts: go into the manifest.

    Raises:
        SteleError: `evidence.no-space`. A process that vanished or a file that cannot be read is listed in `left-out`.
    """
    with bundle.Writer(folder) as out:
        work = _Work(out, bounds)
        if report is not None:
            out.add("report.json", json.dumps(msgspec.to_builtins(report), indent=1, sort_keys=True).encode("ascii"))
        work.part("network", lambda: work.network(pids))
        for pid in pids:
            work.part(f"processes/{pid}", functools.partial(work.process, pid))
        offender = report.pid if report is not None else 0
        sizes = {pid: work.wanted(pid) for pid in pids}
        others = sum(size for pid, size in sizes.items() if pid != offender)
        # who offended first, yet with half of the room if the others need theirs; then the small ones
        for pid in sorted(pids, key=lambda pid: (pid != offender, sizes[pid])):
            room = max(bounds.memory // 2, bounds.memory - others) if pid == offender else bounds.memory
            work.part(f"memory/{pid}.core", functools.partial(work.memory, pid, room, machine))
        paths = [item.path for item in spec.writable if item.kind == "tmpfs"] + [SHARED_MEMORY]
        work.part("files", lambda: work.files(pids, paths))
        for name, data in extras.items():
            out.add(name, data)
        if work.left_out:
            out.add("left-out", _lines(work.left_out))
        return out.seal(
            {**facts, "instance": instance.id, "workload": instance.workload, "release": instance.release, "pids": list(pids)}, signer
        )


class _Work:
    """One collection: what room is left, and what was left out. A part that fails is noted, and the others go on."""

    def __init__(self, out: bundle.Writer, bounds: Bounds) -> None:
        self.out = out
        self.left_out: list[str] = []
        self._memory = bounds.memory
        self._texts = bounds.texts
        self._files = archive.Budget(bounds.files, files.MAX_ENTRIES)
        self._smaps: dict[int, dict[int, int]] = {}
        self._deleted: dict[tuple[int, int], str] = {}

    def part(self, what: str, do: Callable[[], None]) -> None:
        """Do one part. Processes vanish and files are odd; only a full disk ends the collection.

        Raises:
            SteleError: `evidence.no-space`.
        """
        try:
            do()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise
            self.left_out.append(f"{what}: {type(error).__name__}: {error}")

    def text(self, name: str, path: str, limit: int = TEXT_LIMIT) -> bytes:
        """Copy a file of /proc; its content, or nothing if there is none or no room."""
        data = evidence_proc.read(path, limit)
        if data is None:
            return b""
        if len(data) > self._texts:
            self.left_out.append(f"{name}: {len(data)} bytes, over the limit of texts")
            return data
        if len(data) == limit:
            self.left_out.append(f"{name}: cut at {limit} bytes")
        self._texts -= len(data)
        self.out.add(name, data)
        return data

    def network(self, pids: Sequence[int]) -> None:
        """Sockets and routes. /proc/PID/net shows the network namespace of a process without anybody entering it."""
        for pid in pids:
            if evidence_proc.read(f"/proc/{pid}/net/dev", TEXT_LIMIT):
                for table in NET_TABLES:
                    self.text(f"network/{table}", f"/proc/{pid}/net/{table}")
                return

    def process(self, pid: int) -> None:
        """What /proc tells of a process and its tasks, and files of it that have no name."""
        base = f"processes/{pid}"
        for name in PROC_TEXTS:
            self.text(f"{base}/{name}", f"/proc/{pid}/{name}")
        for tid in evidence_proc.numbers(f"/proc/{pid}/task"):
            for name in ("status", "stat", "syscall"):
                self.text(f"{base}/task/{tid}/{name}", f"/proc/{pid}/task/{tid}/{name}")
        smaps = self.text(f"{base}/smaps", f"/proc/{pid}/smaps", SMAPS_LIMIT)
        # cut short, it does not tell which of the last mappings are empty
        self._smaps[pid] = elfcore.parse_smaps(smaps) if len(smaps) < SMAPS_LIMIT else {}
        rewritten = _rewritten(smaps)
        if rewritten:
            self.out.add(f"{base}/rewritten-text", "\n".join(rewritten).encode("utf-8", "backslashreplace"))
        links = {name: evidence_proc.link(f"/proc/{pid}/{name}") for name in LINKS}
        fds = {str(fd): evidence_proc.link(f"/proc/{pid}/fd/{fd}") for fd in evidence_proc.numbers(f"/proc/{pid}/fd")}
        infos = {fd: (evidence_proc.read(f"/proc/{pid}/fdinfo/{fd}", 65536) or b"").decode("utf-8", "replace") for fd in fds}
        known = json.dumps({"links": links, "fds": fds, "fdinfo": infos}, indent=1, sort_keys=True).encode("ascii")
        if len(known) <= self._texts:
            self._texts -= len(known)
            self.out.add(f"{base}/links.json", known)
        else:
            self.left_out.append(f"{base}/links.json: over the limit of texts")
        nameless = {f"fd-{fd}": f"/proc/{pid}/fd/{fd}" for fd, target in fds.items() if _is_nameless(target)}
        for item in elfcore.read_maps(f"/proc/{pid}"):
            if item.inode and _is_nameless(os.fsdecode(item.name)):
                span = f"{item.begin:x}-{item.end:x}"
                nameless[f"map-{span}"] = f"/proc/{pid}/map_files/{span}"
        files.deleted(self.out, f"{base}/deleted", nameless, self._deleted, self._files)

    def wanted(self, pid: int) -> int:
        """Bytes of memory that a core of the process would hold if there were no others."""
        with contextlib.suppress(OSError):
            return elfcore.plan(f"/proc/{pid}", elfcore.read_maps(f"/proc/{pid}"), self._smaps.get(pid, {}), self._memory).size
        return 0

    def memory(self, pid: int, room: int, machine: str) -> None:
        """The core of a process, within `room` bytes and what is left of the budget."""
        if machine not in elfcore.EM:
            self.left_out.append(f"memory/{pid}.core: not done on {machine}")
            return
        mappings = elfcore.read_maps(f"/proc/{pid}")
        if not mappings:
            self.left_out.append(f"memory/{pid}.core: it has no memory (any more)")
            return
        planned = elfcore.plan(f"/proc/{pid}", mappings, self._smaps.get(pid, {}), min(room, self._memory))
        threads = []
        for tid in sorted(evidence_proc.numbers(f"/proc/{pid}/task"), key=lambda tid: (tid != pid, tid)):
            text = evidence_proc.read(f"/proc/{pid}/task/{tid}/syscall", 4096) or b""
            threads.append(elfcore.parse_syscall(tid, text.decode("ascii", "replace")))
        missing = list(planned.left_out)

        def fill(stream: bundle.Stream) -> None:
            missing.extend(elfcore.write(f"/proc/{pid}", pid, threads, mappings, planned, stream, machine=machine))

        self.out.add_with(f"memory/{pid}.core", fill)
        self._memory -= planned.size
        if missing:
            self.out.add(f"memory/{pid}.left-out", _lines(missing))

    def files(self, pids: Sequence[int], paths: Sequence[str]) -> None:
        """The instance's tmpfs, seen from the first process whose root can be opened."""
        for pid in pids:
            if os.path.isdir(f"/proc/{pid}/root/"):
                files.collect(self.out, pid, paths, self._files)
                break
        if self._files.left_out:
            self.out.add("files/left-out", _lines(self._files.left_out))


def _lines(notes: Sequence[str]) -> bytes:
    """One note a line, whatever is in a hostile name; at most MAX_NOTES of them."""
    more = [f"… and {len(notes) - MAX_NOTES} more"] if len(notes) > MAX_NOTES else []
    plain = (note.replace("\\", "\\\\").replace("\n", "\\n") for note in [*notes[:MAX_NOTES], *more])
    return "".join(f"{note}\n" for note in plain).encode("utf-8", "backslashreplace")


def _is_nameless(target: str) -> bool:
    return target.endswith(" (deleted)") or target.startswith("/memfd:")


def _rewritten(smaps: bytes) -> list[str]:
    """Which executable file mappings hold private pages: text that was written over (`/proc/PID/mem`, ptrace)."""
    current, found = "", []
    for line in smaps.decode("utf-8", "surrogateescape").split("\n"):
        fields = line.split(None, 5)
        if len(fields) > 1 and "-" in fields[0] and not fields[0].endswith(":"):
            current = line if "x" in fields[1] and len(fields) > 5 and fields[5].startswith("/") else ""
        elif current and line.startswith("Anonymous:") and not line.endswith(" 0 kB"):
            found.append(f"{current} {line}")
    return found


def sweep(root: Path) -> list[str]:
    """Remove what collections that were killed left unfinished; returns the incidents."""
    found = []
    for path in sorted(root.glob(f"*{bundle.PARTIAL}")):
        bundle.remove_tree(path)
        found.append(path.name.removesuffix(bundle.PARTIAL))
    return found
