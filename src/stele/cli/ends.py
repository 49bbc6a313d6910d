"""How a command line ends: whatever it raises becomes text for a person, and an exit code (docs/guide/exit-codes.md)."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from stele.cli.exits import BROKEN, USAGE, exit_code
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
        return said(error, argv)
    except BrokenPipeError:
        return _broken()
    except (KeyboardInterrupt, EOFError):
        sys.stderr.write("\naborted\n")
        return USAGE
    except Exception as error:
        if isinstance(error, OSError | MemoryError) and (meant := _of_the_host(error)) is not None:
            return said(meant, argv)
        if debug:
            raise
        reason, remedy = f"internal error: {type(error).__name__}: {error}", "run again with --debug and report what it prints"
        return said(SteleError(reason, remedy=remedy, code="cli.internal"), argv)
    return result if isinstance(result, int) else 0


def said(error: SteleError, argv: list[str]) -> int:
    """Say an error to whoever gave the command line `argv`; returns the exit code."""
    if "--debug" in argv:
        import logging

        logging.getLogger(__name__).error("the command failed", exc_info=error)
    from stele.cli.render import show_error

    show_error(error, as_json="--json" in argv)
    return exit_code(error)


def _of_the_host(error: OSError | MemoryError) -> SteleError | None:
    """What the system's answer means to a person, whichever file it was about; None: it should have been foreseen."""
    if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
        return SteleError(
            "there is not enough memory",
            remedy="raise what limits it (ulimit -v, or the memory of the container), or end what else takes memory; then try again",
            code="host.no-memory",
        )
    what = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "a file"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return SteleError(
            f"this user may not open, read or write {what}: {error.strerror}",
            remedy="run as the user it belongs to (sudo), or name a data folder of your own with --data",
            code="host.not-permitted",
        )
    if error.errno == errno.EROFS:
        return SteleError(
            f"{what} is on a file system that is mounted read-only",
            remedy="mount it for writing, or name another data folder with --data",
            code="host.read-only",
        )
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return SteleError(
            f"there is no room left for {what}: {error.strerror}",
            remedy="free space on its file system, then try again",
            code="host.no-room",
        )
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return SteleError(
            f"too many files are open to open {what}, too",
            remedy="raise the limit of open files (ulimit -n 1024), then try again",
            code="host.too-many-open",
        )
    return None
