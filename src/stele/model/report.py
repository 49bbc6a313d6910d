"""Reports: what the watchers say they saw (docs/spec/report.md). What follows from them is decided in `respond`."""

from __future__ import annotations

from typing import Literal

import msgspec

ReportKind = Literal[
    "exec-unsealed",  # executing a file that is not in the sealed tree
    "script-unsealed",  # an interpreter was started on a script outside the sealed tree
    "forbidden-call",  # a system call that the policy forbids
    "write-refused",  # the kernel refused a write to the sealed root
    "change",  # something changed on a declared writable path
    "mount-change",  # the instance's mount table changed
    "foreign-process",  # a process that is not the instance's own tried to execute something in a frozen instance
    "watcher-lost",  # overflow, a dead watcher: what it would have seen is unknown
]

MAX_TEXT = 4096


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Text from a hostile process, safe to print: undecodable bytes become escapes, the end is cut at `limit`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")[:limit]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One observation.

    Times are CLOCK_MONOTONIC nanoseconds; 0 where it does not apply. `seen`: taken from the kernel; `decided`;
    `frozen`: the freezer reported frozen. `refused`: the action did not happen. `detail`: plain further facts.
    """

    instance: str
    kind: ReportKind
    path: str = ""
    syscall: str = ""
    pid: int = 0
    tid: int = 0
    comm: str = ""
    exe: str = ""
    argv: tuple[str, ...] = ()
    refused: bool = False
    is_frozen: bool = False
    seen: int = 0
    decided: int = 0
    frozen: int = 0
    count: int = 1
    detail: dict[str, str] = {}
