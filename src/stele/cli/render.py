"""Rendering for people and for programs. The only module that knows rich."""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stele.trust.errors import SteleError


def show_json(value: Any) -> None:
    """Print a value as one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True) + "\n")


def show_error(error: SteleError, *, as_json: bool) -> None:
    """What happened and why, what to do, and the code to look up."""
    if as_json:
        show_json({"error": {"code": error.code, "reason": error.reason, "remedy": error.remedy, "retryable": error.retryable}})
        return
    # others' words may be in it: a registry's, a key service's
    sys.stderr.write(printable(f"error: {error.reason}\n  remedy: {error.remedy}\n  code:   {error.code}\n"))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", empty: str = "nothing yet") -> None:
    """A table that fits the terminal, or tab-separated lines when it is piped."""
    if not rows:
        sys.stdout.write(f"{empty}\n")
        return
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            sys.stdout.write("\t".join(printable(cell.replace("\t", " ").replace("\n", " ")) for cell in row) + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, not markup: paths and messages come from attackers
        table.add_row(*[Text(printable(cell)) for cell in row])
    Console().print(table)


class Styled:
    """Lines of styled parts on a terminal; NO_COLOR and TERM=dumb take the colours away."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)

    def line(self, *parts: tuple[str, str], cut: bool = True) -> None:
        """Write (text, style) parts; what does not fit is cut off, or wrapped."""
        from rich.text import Text

        # Text, not markup: names and messages come from attackers
        text = Text.assemble(*((printable(part.replace("\n", " ")), style) for part, style in parts))
        self._console.print(text, no_wrap=cut, overflow="ellipsis" if cut else "fold", crop=cut)


def say_line(text: str) -> None:
    """A line of plain output."""
    sys.stdout.write(printable(text) + "\n")


def warn(what: str, remedy: str) -> None:
    """Something that a person must know, beside the output proper."""
    sys.stderr.write(f"{printable(what)}\n  {printable(remedy)}\n")


def flush() -> None:
    """Let whoever reads standard output through a pipe see what was said so far."""
    sys.stdout.flush()


def printable(text: str) -> str:
    """`text` with control characters made visible, so that no file name can drive the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)


@contextlib.contextmanager
def progress(first: str, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A spinner with the current step on a terminal; one line per step on stderr otherwise; silent if `quiet`."""
    if quiet:
        yield lambda step: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(first)) as status:
            yield lambda step: status.update(Text(printable(step)))
    else:
        sys.stderr.write(f"{first}\n")
        yield lambda step: print(f"  {printable(step)}", file=sys.stderr, flush=True)  # noqa: T201


def short(digest: str) -> str:
    """The first 12 hex digits of a digest, enough for people."""
    return digest[7:19] if digest.startswith("sha256:") else digest


def when(time_ns: int) -> str:
    """UTC time with milliseconds, as people and `--at` write it."""
    if not time_ns:
        return ""
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns // 1_000_000 % 1000:03d}Z"


def size(count: int) -> str:
    """Bytes as people write them."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def took(nanoseconds: int) -> str:
    """A duration as people write it."""
    return f"{nanoseconds / 1e6:.2f} ms" if nanoseconds < 1_000_000_000 else f"{nanoseconds / 1e9:.2f} s"
