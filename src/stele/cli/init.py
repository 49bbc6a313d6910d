"""stele init: keys and a starter spec."""

from __future__ import annotations

import json
from pathlib import Path

import click

from stele.cli import render
from stele.cli.context import Call, with_call


@click.command(
    epilog="\b\nExample:\n  stele init --name shop\n  stele init --keys-only --data ./demo\n  stele init --schema > stele.schema.json"
)
@click.option("--name", default="myapp", show_default=True, help="Name of the workload in the starter spec.")
@click.option("--keys-only", is_flag=True, help="Only make the keys of the data folder; write no spec here.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of stele.yaml and do nothing else.")
@with_call
def init(call: Call, name: str, keys_only: bool, schema: bool) -> None:
    """Make the data folder's keys (release, ledger, host) and a commented stele.yaml in the current folder.

    Existing keys are kept as they are; an existing stele.yaml is never overwritten.
    """
    from stele.flow import initialise
    from stele.model import spec

    if schema:
        render.show_json(spec.json_schema())
        return
    made = initialise.make_keys(call.places)
    written: list[str] = []
    if not keys_only:
        from stele.cli.starter import STARTER

        text = STARTER.format(name=name)
        spec.parse_yaml(text.encode())
        written = initialise.write_new(
            Path.cwd(), {"stele.yaml": text, "stele.schema.json": json.dumps(spec.json_schema(), indent=2) + "\n"}
        )
    if call.json:
        render.show_json({"keys": made, "written": written, "trust": str(call.places.trust)})
        return
    render.say_line(f"keys: {', '.join(made) + ' made' if made else 'were there already'} in {call.places.keys}")
    for path in written:
        render.say_line(f"wrote {path}")
    render.say_line(f"give {call.places.trust} to whoever is to verify; keep the .key files to yourself")
