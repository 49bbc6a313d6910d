"""Custody from the command line: through the agent where one holds the ledger, directly where none runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stele.flow.person import person

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.cli.context import Call
    from stele.flow.custody import Custody


def through(call: Call, target: str, body: dict[str, Any], direct: Callable[[Custody, str], dict[str, Any]]) -> dict[str, Any]:
    """Ask the agent, or do it here.

    Args:
        call: the command's.
        target: of the agent's API.
        body: for it; the client adds who asks.
        direct: the same with the ledger in our own hands, and who asks.

    Raises:
        SteleError: what either of them refuses with.
    """
    from stele.flow import custody, opening

    call.need_keys()

    def here() -> dict[str, Any]:
        with custody.alone(call.places) as mine:
            return direct(mine, person())

    def through_agent() -> dict[str, Any]:
        found = call.agent.call("POST", target, body)
        assert isinstance(found, dict)
        return found

    return opening.in_turn(here, through_agent)
