"""The `stele` command: finds the subcommand's module, imports only that, and maps errors to exit codes."""

from __future__ import annotations

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
    sys.exit(code)
