"""How a command that click reads gets its `Call`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stele.cli.call import Call

__all__ = ["Call", "call_of", "with_call"]
if TYPE_CHECKING:
    from collections.abc import Callable


def call_of(ctx: click.Context, *, json: bool) -> Call:
    """The call of a click context. `json`: asked for after the subcommand, too."""
    options = ctx.find_root().obj or {}
    return Call(options.get("data"), json=json or bool(options.get("json")), debug=bool(options.get("debug")))


def with_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Pass a `Call` as the first argument, and accept --json after the subcommand too."""

    @click.option("--json", "sub_json", is_flag=True, help="Print JSON instead of tables.")
    @click.pass_context
    def wrapped(ctx: click.Context, /, *args: Any, sub_json: bool, **kwargs: Any) -> Any:
        return ctx.invoke(function, call_of(ctx, json=sub_json), *args, **kwargs)

    wrapped.__doc__ = function.__doc__
    wrapped.__name__ = function.__name__
    # options that decorators below have put on the function
    wrapped.__click_params__ = [*getattr(wrapped, "__click_params__", []), *getattr(function, "__click_params__", [])]  # type: ignore[attr-defined]
    return wrapped
