"""Collecting evidence from a frozen instance, most volatile first (RFC 3227; docs/spec/evidence.md).

Only reads: nothing here thaws, signals, traces or writes to the instance. Everything of it is untrusted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stele.host import evidence_proc
from stele.respond import bundle, elfcore, files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
FILE_LIMIT = 256 << 20


class Bounds(NamedTuple):
    """Limits of one bundle, in bytes: memory over all processes, and files of writable places."""

    memory: int
    files: int


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
        SteleError: `evidence.no-space`, `evidence.failed`.
    """
    with bundle.Writer(folder) as out:
        if report is not None:
            import msgspec

            out.add("report.json", json.dumps(msgspec.to_builtins(report), indent=1, sort_keys=True).encode())
        if pids:
            _network(out, pids[0])
        for pid in pids:
            _process(out, pid)
        left = bounds.memory
        for pid in pids:
            left -= _memory(out, pid, left, machine)
        if pids:
            files.collect(out, pids[0], [item.path for item in spec.writable if item.kind == "tmpfs"] + ["/dev/shm"], bounds.files)  # noqa: S108
        for name, data in extras.items():
            out.add(name, data)
        return out.seal(
            {**facts, "instance": instance.id, "workload": instance.workload, "release": instance.release, "pids": list(pids)}, signer
        )


def _network(out: bundle.Writer, pid: int) -> None:
    # /proc/PID/net shows the process's network namespace without anybody entering it
    for table in NET_TABLES:
        data = evidence_proc.read(f"/proc/{pid}/net/{table}", TEXT_LIMIT)
        if data:
            out.add(f"network/{table}", data)


def _process(out: bundle.Writer, pid: int) -> None:
    base = f"processes/{pid}"
    for name in PROC_TEXTS:
        data = evidence_proc.read(f"/proc/{pid}/{name}", TEXT_LIMIT)
        if data is not None:
            out.add(f"{base}/{name}", data)
    links = {name: evidence_proc.link(f"/proc/{pid}/{name}") for name in LINKS}
    descriptors = {}
    for fd in evidence_proc.listing(f"/proc/{pid}/fd"):
        target = evidence_proc.link(f"/proc/{pid}/fd/{fd}")
        descriptors[fd] = target
        if target.endswith(" (deleted)") or target.startswith("/memfd:"):
            data = evidence_proc.read_file(f"/proc/{pid}/fd/{fd}", FILE_LIMIT)
            if data is not None:
                out.add(f"{base}/deleted/fd-{fd}", data)
    infos = {fd: (evidence_proc.read(f"/proc/{pid}/fdinfo/{fd}", 65536) or b"").decode("utf-8", "replace") for fd in descriptors}
    out.add(f"{base}/links.json", json.dumps({"links": links, "fds": descriptors, "fdinfo": infos}, indent=1, sort_keys=True).encode())
    for tid in evidence_proc.listing(f"/proc/{pid}/task"):
        for name in ("status", "stat", "syscall"):
            data = evidence_proc.read(f"/proc/{pid}/task/{tid}/{name}", TEXT_LIMIT)
            if data is not None:
                out.add(f"{base}/task/{tid}/{name}", data)
    _injected(out, pid, base)


def _injected(out: bundle.Writer, pid: int, base: str) -> None:
    """Which executable file mappings hold private pages: text that was written over (`/proc/PID/mem`, ptrace)."""
    smaps = evidence_proc.read(f"/proc/{pid}/smaps", 4 * TEXT_LIMIT)
    if smaps is None:
        return
    out.add(f"{base}/smaps", smaps)
    current, found = "", []
    for line in smaps.decode("utf-8", "replace").splitlines():
        fields = line.split(None, 5)
        if len(fields) > 1 and "-" in fields[0] and not fields[0].endswith(":"):
            current = line if "x" in fields[1] and len(fields) > 5 and fields[5].startswith("/") else ""
        elif current and line.startswith("Anonymous:") and not line.endswith(" 0 kB"):
            found.append(f"{current} {line}")
    if found:
        out.add(f"{base}/rewritten-text", "\n".join(found).encode())


def _memory(out: bundle.Writer, pid: int, budget: int, machine: str) -> int:
    mappings = elfcore.parse_maps(evidence_proc.read(f"/proc/{pid}/maps", TEXT_LIMIT) or b"")
    if not mappings or budget <= 0:
        return 0
    threads = []
    for tid in sorted(evidence_proc.listing(f"/proc/{pid}/task"), key=int):
        text = evidence_proc.read(f"/proc/{pid}/task/{tid}/syscall", 4096) or b""
        threads.append(elfcore.parse_syscall(int(tid), text.decode("ascii", "replace")))
    core = elfcore.Core(0, 0, ())

    def fill(fd: int) -> None:
        nonlocal core
        core = elfcore.write(f"/proc/{pid}", pid, threads, mappings, fd, budget=budget, machine=machine)

    try:
        out.add_with(f"memory/{pid}.core", fill)
    except ProcessLookupError:
        return 0
    if core.unreadable:
        out.add(f"memory/{pid}.unreadable", "\n".join(core.unreadable).encode())
    return core.read


def sweep(root: Path) -> list[str]:
    """Remove what collections that were killed left unfinished; returns the incidents."""
    found = []
    for path in sorted(root.glob("*.partial")):
        bundle.remove_tree(path)
        found.append(path.name.removesuffix(".partial"))
    return found
