"""`make run`: the whole loop on this host. Run it as `.venv/bin/python -m examples.demo`.

Environment: PORT (18080), STELE_DEMO (the folder it may use and delete), STELE_CACHE, NO_COLOR.
Exit codes: 0 all came out as it should; 1 something did not; 4 something is missing or busy; 77 this host cannot run
instances: what can be done without was done.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from examples.demo import assault, change, evidence, host_state, prepare, proofs, summary
from examples.demo.prepare import NotReadyError
from examples.demo.screen import Screen
from examples.demo.show import Show
from examples.demo.stele import Stele, StepFailedError
from examples.shop import build

if TYPE_CHECKING:
    from examples.demo.prepare import Ground

HOST_CANNOT = 77


class StoppedError(BaseException):
    """Somebody asked the demo to stop (SIGINT, SIGTERM)."""


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="make run", description="Seal, run, upgrade, attack, freeze, replace, roll back and prove a real nginx."
    )
    parser.add_argument("--sealed-only", action="store_true", help="only what needs no instances: seal, prove, verify")
    options = parser.parse_args()
    screen = Screen()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        where = prepare.ground(os.environ.get("PORT", ""), os.environ.get("STELE_DEMO", ""))
        with prepare.locked(where):
            return _perform(screen, where, sealed_only=options.sealed_only)
    except (NotReadyError, build.BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return prepare.NOT_READY
    except StoppedError:
        print("\nstopped; what was running has been cleaned up", file=sys.stderr)
        return 130


def _stop(number: int, frame: object) -> None:
    del frame
    signal.signal(number, signal.SIG_IGN)
    raise StoppedError


def _perform(screen: Screen, where: Ground, *, sealed_only: bool) -> int:
    begun = time.monotonic()
    stele = Stele(where.data, screen)
    screen.title("Stele: a real web server, sealed, run, upgraded, attacked, frozen, replaced, rolled back and proved")
    cannot = prepare.what_is_missing(stele)
    prepare.clear(where, stele, screen)
    if not cannot and not sealed_only:
        prepare.need_port(where.port)
    screen.note(f"`stele` below is {Path(sys.executable).parent / 'stele'} --data {where.data}")
    with screen.working("building the application"):
        layout = build.build(say=screen.note)
    show = Show(screen, stele, where, layout)
    if cannot or sealed_only:
        return _sealed_only(show, cannot)
    before = host_state.take(where.tag, where.data)
    try:
        change.seal(show)
        change.run(show)
        change.upgrade(show)
        assault.assault(show)
        evidence.evidence(show)
        change.rollback(show)
        proofs.prove(show)
        proofs.tamper(show)
    except StepFailedError as error:
        screen.expect(str(error), holds=False)
        screen.warn(f"the agent's log: {where.data / 'agent' / 'agent.log'}")
    except Exception as error:  # noqa: BLE001  a fault of the demo: the host is cleaned all the same, and it is said
        traceback.print_exc()
        screen.expect(f"the demo itself: {type(error).__name__}: {error}", holds=False)
    finally:
        summary.leave(show, before)
    summary.table(show, time.monotonic() - begun)
    return summary.verdict(show)


def _sealed_only(show: Show, cannot: list[str]) -> int:
    """What works for anyone, anywhere."""
    for line in cannot:
        show.screen.warn(line)
    if cannot:
        show.screen.warn("so nothing can be run here: no instance, no attack, no rollback. Sealing, verifying and proving work:")
    try:
        change.seal(show)
        proofs.sealed_only(show)
    except StepFailedError as error:
        show.screen.expect(str(error), holds=False)
    code = summary.verdict(show)
    if cannot and not code:
        show.screen.warn(f"but nothing was run: this host, or this user, cannot. Exit code {HOST_CANNOT}.")
    return code or (HOST_CANNOT if cannot else 0)


if __name__ == "__main__":
    sys.exit(main())
