"""What the demo prints: plain text and a few colours; none where the output is not a terminal or NO_COLOR is set."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def printable(text: str) -> str:
    """`text` with control characters made visible: what an attacker's answer holds must not drive the terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def took(seconds: float) -> str:
    """A duration as people write it."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


class Screen:
    """Writes to standard output, and keeps the list of what did not come out as it should."""

    def __init__(self) -> None:
        self._tty = sys.stdout.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}
        self._colour = self._tty and not os.environ.get("NO_COLOR")
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self._yes, self._no, self._rule = ("✓", "✗", "─") if utf8 else ("ok", "FAILED:", "-")
        self._width = min(shutil.get_terminal_size((100, 24)).columns, 110)
        self._begun = time.monotonic()
        self._sections = 0
        self.failed: list[str] = []
        if not utf8:
            sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]

    def _paint(self, text: str, *styles: str) -> str:
        if not self._colour or not styles:
            return text
        return f"\x1b[{';'.join(_STYLES[style] for style in styles)}m{text}\x1b[0m"

    def _write(self, text: str, *styles: str, indent: int = 2) -> None:
        for line in text.split("\n"):
            wrapped = textwrap.wrap(line, self._width - indent, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) or [
                ""
            ]
            for part in wrapped:
                sys.stdout.write(" " * indent + self._paint(part, *styles) + "\n")
        sys.stdout.flush()

    def title(self, text: str) -> None:
        """The first line."""
        self._write(text, "bold", indent=0)

    def section(self, text: str) -> None:
        """Begin a numbered section."""
        self._sections += 1
        head = f"{self._sections}  {text} "
        clock = f" {time.monotonic() - self._begun:.0f} s"
        rule = self._rule * max(3, self._width - len(head) - len(clock))
        sys.stdout.write(f"\n{self._paint(head, 'bold', 'cyan')}{self._paint(rule + clock, 'dim')}\n")
        sys.stdout.flush()

    def sub(self, text: str) -> None:
        """Begin a part of a section."""
        sys.stdout.write("\n")
        self._write(text, "bold")

    def say(self, text: str) -> None:
        """A line for the reader."""
        self._write(text)

    def note(self, text: str) -> None:
        """A line that may be skipped."""
        self._write(text, "dim")

    def warn(self, text: str) -> None:
        """A line that must not be skipped."""
        self._write(text, "yellow")

    def command(self, argv: Sequence[str]) -> None:
        """A command as one would type it."""
        self._write(f"$ {shlex.join(argv)}", "dim")

    def quote(self, text: str) -> None:
        """Somebody else's words: a page, an attacker's answer."""
        for line in text.splitlines() or [""]:
            self._write("│ " + printable(line), "cyan", indent=4)

    def expect(self, text: str, *, holds: bool) -> bool:
        """A claim, checked: shown with its outcome; one that does not hold makes the demo fail. Returns `holds`."""
        if holds:
            self._write(f"{self._yes} {text}", "green")
        else:
            self._write(f"{self._no} {text}", "red", "bold")
            self.failed.append(text)
        return holds

    @contextlib.contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show what is being done while it takes long; the line goes away when it is done (a terminal only)."""
        if self._tty:
            sys.stdout.write("  " + self._paint(f"… {text}", "dim"))
            sys.stdout.flush()
        try:
            yield
        finally:
            if self._tty:
                sys.stdout.write("\r\x1b[K")
                sys.stdout.flush()

    def table(self, rows: Sequence[Sequence[str]], *, head: Sequence[str] = ()) -> None:
        """Columns, left-aligned; the last one is wrapped to the width."""
        every = [*([head] if head else []), *rows]
        widths = [max(len(row[column]) for row in every) for column in range(len(every[0]) - 1)]
        left = sum(widths) + 2 * len(widths) + 2
        for number, row in enumerate(every):
            lead = "  " + "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
            parts = textwrap.wrap(row[-1], max(20, self._width - left)) or [""]
            for line, part in enumerate(parts):
                text = (lead if line == 0 else " " * left) + part
                sys.stdout.write((self._paint(text, "bold") if head and number == 0 else text).rstrip() + "\n")
        sys.stdout.flush()
