"""Plain calls of `stele seal`, the command that is given again and again: reading them with click takes longer than what they ask for.

Whatever is not as plain as that is click's; what is means the same to it (tests/unit/test_plain_calls.py).
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_VALUES = {"-f": "file", "--file": "file", "--compression": "compression", "--kind": "kind"}
_MEANT = {"compression": {"zstd", "gzip", "none"}, "kind": {"auto", "folder"}}


class Plain(NamedTuple):
    """What was asked. `data`: "" where none was named."""

    source: str
    data: str
    json: bool
    file: str
    compression: str
    kind: str


def read(argv: Sequence[str]) -> Plain | None:
    """`[--data DATA] [--json] seal SOURCE [-f FILE] [--compression …] [--kind …] [--json]`; None: it is something else. Pure."""
    data, at = "", 0
    json = False
    while at < len(argv) and argv[at] != "seal":
        if argv[at] == "--json":
            json, at = True, at + 1
        elif argv[at] == "--data" and at + 1 < len(argv):
            data, at = argv[at + 1], at + 2
            if not data:
                return None
        else:
            return None
    found = {"file": "stele.yaml", "compression": "zstd", "kind": "auto"}
    source, at = "", at + 1
    while at < len(argv):
        word = argv[at]
        if name := _VALUES.get(word):
            if at + 1 == len(argv) or argv[at + 1] not in _MEANT.get(name, {argv[at + 1]}):
                return None
            found[name], at = argv[at + 1], at + 2
        elif word == "--json":
            json, at = True, at + 1
        elif word and not word.startswith("-") and not source:
            source, at = word, at + 1
        else:
            return None
    return Plain(source, data, json, **found) if source else None


def is_for_here(asked: Plain) -> bool:
    """Whether click would find nothing to refuse in the paths."""
    data = asked.data or os.environ.get("STELE_DATA") or ""
    if data and os.path.exists(data) and not (os.path.isdir(data) and os.access(data, os.R_OK)):
        return False
    return os.path.isfile(asked.file) and os.access(asked.file, os.R_OK)


def run(argv: list[str]) -> int | None:
    """Run a plain call; returns its exit code, None where it is for click."""
    asked = read(argv)
    if asked is None or not is_for_here(asked):
        return None
    _load_msgspec()
    from stele.cli.ends import exit_of

    return exit_of(lambda: _seal(asked), argv)


def _load_msgspec() -> None:
    """Load it as it loads where typing_extensions is not installed: what it would take from there, `typing` has as well.

    With it come inspect, ast, dis and tokenize, which take as long to load as a tenth of the whole call.
    """
    name = "typing_extensions"
    if name in sys.modules:
        return
    sys.modules[name] = None  # type: ignore[assignment]  # as the import system has it for what is not to be found
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules[name]


def _seal(asked: Plain) -> None:
    from pathlib import Path

    from stele.cli import sealed
    from stele.cli.call import Call

    given = {"compression": asked.compression, "kind": asked.kind, "key": ""}
    call = Call(Path(asked.data) if asked.data else None, json=asked.json)
    sealed.seal(call, asked.source, "", Path(asked.file), None, delta=False, given=given)
