"""The `stele` command line, as the demo calls it: every call is shown as one would type it, and answers in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from examples.demo.screen import Screen

CALL_LIMIT_S = 180
Event = dict[str, Any]


class StepFailedError(Exception):
    """A command that should have succeeded did not."""

    def __init__(self, argv: list[str], status: int, said: str) -> None:
        super().__init__(f"{' '.join(argv)} ended with status {status}\n{said.strip()}")
        self.status = status
        self.said = said


class Stele:
    """Calls `stele --data DATA …` with the interpreter that runs the demo."""

    def __init__(self, data: Path, screen: Screen) -> None:
        self.data = data
        self._screen = screen

    def argv(self, *args: str) -> list[str]:
        """The whole command line of a call."""
        return [sys.executable, "-m", "stele", "--data", str(self.data), "--json", *args]

    def try_(self, *args: str, show: bool = True) -> tuple[int, Any]:
        """Call; returns the exit status and what it printed, decoded if it is JSON (stderr where stdout is empty)."""
        if show:
            self._screen.command(["stele", *args])
        env = {**os.environ, "LC_ALL": "C.UTF-8"}
        done = subprocess.run(self.argv(*args), stdin=subprocess.DEVNULL, capture_output=True, timeout=CALL_LIMIT_S, check=False, env=env)
        text = done.stdout.decode("utf-8", "replace") or done.stderr.decode("utf-8", "replace")
        try:
            return done.returncode, json.loads(text)
        except ValueError:
            return done.returncode, text

    def call(self, *args: str, show: bool = True) -> Any:
        """Call and return the decoded answer.

        Raises:
            StepFailedError: the exit status is not 0.
        """
        status, found = self.try_(*args, show=show)
        if status != 0:
            raise StepFailedError(["stele", *args], status, explain(found))
        return found

    def status(self, workload: str) -> dict[str, Any]:
        """The workload's entry of `stele status`; {} if there is none."""
        found: list[dict[str, Any]] = self.call("status", show=False)
        return next((entry for entry in found if entry["workload"] == workload), {})

    def events(self, workload: str, *, after: int = -1, last: int = 400) -> list[Event]:
        """Ledger entries of the workload with an index above `after`, oldest first."""
        done = subprocess.run(
            self.argv("log", "--workload", workload, "--last", str(last)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CALL_LIMIT_S,
            check=False,
        )
        if done.returncode != 0:
            raise StepFailedError(["stele", "log"], done.returncode, done.stderr.decode("utf-8", "replace"))
        found: list[Event] = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
        return [event for event in found if event["index"] > after]

    def await_events(self, workload: str, *, after: int, until: Callable[[list[Event]], bool], timeout: float) -> list[Event]:
        """Read the ledger until its newer entries satisfy `until`, or time is over; returns the newer entries."""
        limit = time.monotonic() + timeout
        while True:
            found = self.events(workload, after=after)
            if until(found) or time.monotonic() > limit:
                return found
            time.sleep(0.05)


def explain(answer: Any) -> str:
    """What an error answer says, for people."""
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        error = answer["error"]
        return f"{error.get('reason')}\n  remedy: {error.get('remedy')}\n  code: {error.get('code')}"
    return str(answer)
