"""Where passphrases and PINs come from: a file, the environment, or a terminal; never the command line, where others could read them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.flow.places import Places

PASSPHRASE, PIN = "STELE_KEY_PASSPHRASE", "STELE_KEY_PIN"


class Secrets:
    """Gives passphrases and PINs. Each is asked for once; what was in the environment is taken out of it, so that no child gets it."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known: dict[str, str] = {}
        self._given = {name: os.environ.pop(name) for name in (PASSPHRASE, PIN) if name in os.environ}

    def __repr__(self) -> str:
        return "Secrets()"

    def __call__(self, what: str) -> str:
        """See `flow.signers.Ask`."""
        if what not in self._known:
            self._known[what] = self._find(what)
        return self._known[what]

    @property
    def given(self) -> bool:
        """Whether a passphrase was given without asking."""
        return self._file is not None or PASSPHRASE in self._given

    def warm(self, places: Places, key: str) -> None:
        """On a terminal, ask for what a key needs now, before a spinner stands where a person would type."""
        if sys.stdin.isatty():
            from stele.flow import signers

            signers.open_signer(places, key, self)

    def new(self, what: str) -> str:
        """A new passphrase, typed twice where a person types it. Raises `trust.no-passphrase`, also for an empty one."""
        found = self._find(what, again=True)
        if not found:
            raise SteleError("a passphrase must not be empty", remedy="give one, or use --plain", code="trust.no-passphrase")
        return found

    def _find(self, what: str, *, again: bool = False) -> str:
        if what == "pin":
            if PIN in self._given:
                return self._given[PIN]
        elif self._file is not None:
            return _first_line(self._file)
        elif PASSPHRASE in self._given:
            return self._given[PASSPHRASE]
        if not sys.stdin.isatty():
            from stele.flow import signers

            return signers.nobody(what)
        import click  # which who signs with a key without a passphrase need not wait for

        try:
            return str(click.prompt(what, hide_input=True, confirmation_prompt=again, err=True))
        except click.Abort as error:
            raise KeyboardInterrupt from error


def _first_line(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.readline(4096).removesuffix("\n")
    except OSError as error:
        raise SteleError(
            f"the passphrase file {path} cannot be read: {error.strerror}",
            remedy="name a file that you may read",
            code="trust.no-passphrase",
        ) from error


def with_secrets(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --passphrase-file; the command gets `passphrase_file`, and makes `Secrets` of it."""
    import click

    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        help=f"File whose first line is the key's passphrase [default: {PASSPHRASE} in the environment, else asked for].",
    )(function)
