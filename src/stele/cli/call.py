"""What every command needs: the data folder, how to answer, and where the agent is. Knows nothing of click."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.flow.places import Places, default_data
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from pathlib import Path

    from stele.api.client import AgentClient


class Call:
    """One command call."""

    def __init__(self, data: Path | None, *, json: bool = False, debug: bool = False) -> None:
        """`data`: the data folder that was named. `json`, `debug`: whether these were asked for."""
        self.places = Places(data or default_data())
        self.json, self.debug = json, debug

    @property
    def agent(self) -> AgentClient:
        """The client of this data folder's agent."""
        from stele.api.client import AgentClient  # most commands need none
        from stele.flow.person import person

        return AgentClient(self.places.agent_socket, person())

    def publish_committed(self) -> None:
        """Have everything committed covered by a checkpoint; without an agent, what is published is all there is."""
        try:
            self.agent.call("POST", "/v1/publish")
        except SteleError as error:
            if error.code not in {"agent.not-running", "agent.not-permitted"}:
                raise

    def need_keys(self) -> None:
        """Raise `init.no-keys` unless `stele init` has been run for this data folder."""
        if not self.places.trust.exists():
            raise SteleError(
                f"{self.places.data} has no keys yet", remedy="run `stele init` (with the same --data) first", code="init.no-keys"
            )
