"""What every command needs: the data folder, how to answer, and where the agent is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stele.flow.person import person
from stele.flow.places import Places, default_data
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.api.client import AgentClient


class Call:
    """One command call."""

    def __init__(self, ctx: click.Context, *, json: bool = False) -> None:
        """`json`: asked for after the subcommand, too."""
        options = ctx.find_root().obj or {}
        self.places = Places(options.get("data") or default_data())
        self.json = json or bool(options.get("json"))
        self.debug = bool(options.get("debug"))

    @property
    def agent(self) -> AgentClient:
        """The client of this data folder's agent."""
        from stele.api.client import AgentClient  # most commands need none

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


def with_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Pass a `Call` as the first argument, and accept --json after the subcommand too."""

    @click.option("--json", "sub_json", is_flag=True, help="Print JSON instead of tables.")
    @click.pass_context
    def wrapped(ctx: click.Context, /, *args: Any, sub_json: bool, **kwargs: Any) -> Any:
        return ctx.invoke(function, Call(ctx, json=sub_json), *args, **kwargs)

    wrapped.__doc__ = function.__doc__
    wrapped.__name__ = function.__name__
    # options that decorators below have put on the function
    wrapped.__click_params__ = [*getattr(wrapped, "__click_params__", []), *getattr(function, "__click_params__", [])]  # type: ignore[attr-defined]
    return wrapped
