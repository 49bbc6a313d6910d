"""The `stele` command: finds the subcommand's module, imports only that, and maps errors to exit codes."""

from __future__ import annotations

import os
import sys

from stele import __version__


def main() -> None:
    """Entry point of the `stele` script."""
    if sys.argv[1:] == ["--version"]:
        # before click is imported: this is the call that scripts make
        sys.stdout.write(f"stele {__version__}\n")
        return
    code = None
    if "seal" in sys.argv:
        from stele.cli import plain

        code = plain.run(sys.argv[1:])
    if code is None:
        from stele.cli.app import run

        code = run(sys.argv[1:])
    if "seal" in sys.argv:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> None:
    """End at once: all is done and closed, and taking a large seal's objects apart one by one takes longer than starting did."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads: Python's own end says so
        sys.exit(code)
    os._exit(code)
