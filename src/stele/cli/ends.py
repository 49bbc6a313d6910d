"""How a command line ends: whatever it raises becomes text for a person, and an exit code (docs/guide/exit-codes.md)."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from stele.cli.exits import BROKEN, INTERNAL, USAGE, exit_code
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable


def exit_of(work: Callable[[], object], argv: list[str]) -> int:
    """Run `work` for the command line `argv`; returns the exit code."""
    code = _exit_of(work, argv)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        broken = _broken()  # also where there is another code: else Python's end would meet it again
        return code or broken
    except OSError:
        pass  # Python meets it again at its end, and says so
    return code


def _broken() -> int:
    """The reader (head, less) has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN


def _exit_of(work: Callable[[], object], argv: list[str]) -> int:
    debug = "--debug" in argv
    try:
        result = work()
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        return end.code or 0
    except SteleError as error:
        if debug:
            import logging

            logging.getLogger(__name__).exception("the command failed")
        from stele.cli.render import show_error

        show_error(error, as_json="--json" in argv)
        return exit_code(error)
    except BrokenPipeError:
        return _broken()
    except (KeyboardInterrupt, EOFError):
        sys.stderr.write("\naborted\n")
        return USAGE
    except Exception as error:
        if debug:
            raise
        sys.stderr.write(
            f"error: internal error: {type(error).__name__}: {error}\n  remedy: run again with --debug and report what it prints\n"
        )
        return INTERNAL
    return result if isinstance(result, int) else 0
