"""stele agent: start, stop, run, status."""

from __future__ import annotations

import click

from stele.cli import render
from stele.cli.context import Call, with_call


@click.group()
def agent() -> None:
    """The one process per host that supervises, watches and responds. It needs root."""


@agent.command(epilog="\b\nExample:\n  sudo stele agent start")
@with_call
def start(call: Call) -> None:
    """Start the agent in the background; returns when it answers."""
    call.need_keys()
    from stele.agent.main import start_in_background

    with render.progress("starting the agent", quiet=call.json):
        started = start_in_background(call.places)
    if call.json:
        render.show_json({"started": started})
    else:
        render.say_line("the agent runs" if started else "the agent ran already")


@agent.command(epilog="\b\nExample:\n  sudo stele agent run        (for a systemd unit: Type=simple)")
@with_call
def run(call: Call) -> None:
    """Run the agent in the foreground until SIGTERM. Instances keep running when it ends; the gate keeps guarding them."""
    call.need_keys()
    from stele.agent.main import run as run_agent

    run_agent(call.places)


@agent.command(
    epilog="\b\nExample:\n  sudo stele agent stop\n  sudo stele agent stop --remove   (stop every instance too, and clean the host)"
)
@click.option(
    "--remove", is_flag=True, help="Stop all instances too, frozen ones included (their evidence bundles stay), and clean the host."
)
@with_call
def stop(call: Call, remove: bool) -> None:
    """Stop the agent. Without --remove instances keep running, guarded, and the next agent takes them over."""
    from stele.agent.main import stop as stop_agent

    with render.progress("stopping the agent", quiet=call.json) as say:
        was_running = stop_agent(call.places, remove=remove, say=say)
    if call.json:
        render.show_json({"was_running": was_running, "removed": remove})
    else:
        render.say_line("the agent is stopped" if was_running else "no agent ran")
