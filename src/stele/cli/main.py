"""The `stele` command: finds the subcommand's module, imports only that, and maps errors to exit codes."""

from __future__ import annotations

import gc
import os
import sys

from stele import __version__

OBJECTS = 200_000  # that may come before unused ones are looked for: loading makes many that stay, a short call few that go


def main() -> None:
    """Entry point of the `stele` script."""
    argv = sys.argv[1:]
    if argv == ["--version"]:
        # before click is imported: this is the call that scripts make
        sys.stdout.write(f"stele {__version__}\n")
        return
    code = None
    if "seal" in argv:
        from stele.cli import warm_call

        try:
            code = warm_call.run(argv)
        except KeyboardInterrupt:  # before it had an answer: the warm process finds nobody, and ends what it may have begun
            from stele.cli.exits import USAGE

            sys.stderr.write("\naborted\n")
            code = USAGE
    if code is None:
        code = run(argv)
    if code < 0:
        _die_by(-code)
    if "seal" in argv:
        _leave(code)
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one command line here; returns its exit code."""
    code = None
    if "seal" in argv:
        gc.set_threshold(OBJECTS)
        from stele.cli import plain

        code = plain.run(argv)
    if code is None:
        from stele.cli import app

        code = app.run(argv)
    return code


def _die_by(number: int) -> None:
    """End by the signal by which the command ended."""
    import signal

    if number not in {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _leave(code: int) -> None:
    """End at once: all is done and closed, and taking a large seal's objects apart one by one takes longer than starting did."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # it was not even open
                stream.flush()
    except OSError:  # nobody reads: Python's own end says so
        sys.exit(code)
    os._exit(code)
