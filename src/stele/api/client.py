"""Talking to the agent over its Unix socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stele.host import http
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIMEOUT_S = 600.0
PING_S = 30.0  # a loaded host is slow, and slow is not gone
PINGS = 3


class AgentClient:
    """Requests to one agent, in the name of a person. Every call raises `SteleError`: `agent.not-running`, or what it refused with."""

    def __init__(self, sock: Path, person: str = "") -> None:
        self._sock = sock
        self._person = person

    def call(
        self,
        method: str,
        target: str,
        body: dict[str, Any] | None = None,
        *,
        say: Callable[[str], None] | None = None,
        timeout: float = TIMEOUT_S,
    ) -> Any:
        """Send a request and return its `result`; `say` hears each step while it is worked on."""
        if method == "POST" and self._person:
            body = {**(body or {}), "person": self._person}
        for line in http.unix_request(self._sock, method, target, body, timeout=timeout):
            if "error" in line:
                error = line["error"]
                raise SteleError(error["reason"], remedy=error["remedy"], code=error["code"], retryable=error["retryable"])
            if "result" in line:
                return line["result"]
            if say is not None and "step" in line:
                say(line["step"])
        raise SteleError(
            "the agent ended its answer without a result",
            remedy="see the agent's log in the data folder (agent/agent.log)",
            code="agent.broke-off",
            retryable=True,
        )

    def is_running(self) -> bool:
        """Whether an agent answers.

        One that is being killed still takes connections and then drops them: asked again, its socket says that nobody is there.
        """
        for left in reversed(range(PINGS)):
            try:
                self.call("GET", "/v1/ping", timeout=PING_S)
            except SteleError as error:
                if error.code in {"agent.not-running", "agent.not-permitted"}:
                    return False
                if error.code != "agent.broke-off" or not left:
                    raise
            else:
                return True
        raise AssertionError
