"""stele witness: init, add-log, run, status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.trust.note import Verifier

_FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="The witness's folder [default: witness/ in the data folder].",
)


def _folder(call: Call, folder: Path | None) -> Path:
    return folder or call.places.data / "witness"


@click.group()
def witness() -> None:
    """Be an independent witness: cosign other ledgers' checkpoints, and never two histories of one.

    Run it on a machine that those who run the ledgers do not control (docs/guide/witness.md).
    """


@witness.command(epilog="\b\nExample:\n  stele witness init --name witness.example.org/w1")
@click.option("--name", required=True, help="Under which it signs: an address without scheme that it need not answer at.")
@_FOLDER
@with_call
def init(call: Call, name: str, folder: Path | None) -> None:
    """Make a witness's keys and print their vkeys, for those who shall trust it."""
    from stele.witness import state

    place = _folder(call, folder)
    keys = state.make(place, name)
    if call.json:
        render.show_json({"folder": str(place), "name": name, "vkeys": [key.encode() for key in keys.verifiers]})
        return
    render.say_line(f"made the witness {name} in {place}. Lines for the policies of ledgers that shall ask it:\n")
    for line in _policy_lines(name, keys.verifiers):
        render.say_line(line)
    render.say_line("\nNext: `stele witness add-log trust.keys` for each ledger, then `stele witness run`.")
    render.say_line(
        "Keep the folder, and never bring it back from a backup: a witness that forgets what it signed can sign a second history."
    )


def _policy_lines(name: str, keys: tuple[Verifier, ...]) -> list[str]:
    short = name.rstrip("/").rpartition("/")[2] or "w"
    parts = [f"{short}-{'ed25519' if key.algorithm == 4 else 'mldsa'}" for key in keys]
    out = [f"witness {part} {key.encode()} https://ADDRESS" for part, key in zip(parts, keys, strict=True)]
    return [*out, f"group {short} all {' '.join(parts)}"]


@witness.command(
    "add-log", epilog="\b\nExample:\n  stele witness add-log shop-trust.keys\n  stele witness add-log log.example/one+3f2a…+AbC…"
)
@click.argument("keys", nargs=-1, required=True)
@_FOLDER
@with_call
def add_log(call: Call, keys: tuple[str, ...], folder: Path | None) -> None:
    """Serve a log: KEYS are vkeys, or trust.keys files, whose ledger keys are taken.

    Get them from the log's operator by a way that you trust. A running witness notices within its next request. Logs are never taken
    out, only their keys: what was cosigned stays known.
    """
    from stele.trust import note, trust_keys
    from stele.witness import state

    verifiers: list[Verifier] = []
    for text in keys:
        path = Path(text)
        found = trust_keys.parse(path.read_bytes()).ledgers if path.is_file() else (note.parse_vkey(text),)
        if not found:
            raise SteleError(
                f"{text} names a root of trust and no keys of a ledger",
                remedy="give the vkeys that sign now (`stele trust show` where the ledger is), and the new ones at a rotation",
                code="witness.bad-policy",
            )
        verifiers += found
    added = state.add_logs(_folder(call, folder), verifiers)
    if call.json:
        render.show_json({"added": added})
    else:
        for origin in added:
            render.say_line(f"serves {origin}")
        if not added:
            render.say_line("these keys are served already")


@witness.command(
    epilog="\b\nExample:\n  stele witness run\n  stele witness run --listen 0.0.0.0:7380 --tls-cert chain.pem --tls-key key.pem",
)
@click.option("--listen", default="127.0.0.1:7380", show_default=True, help="Address and port; port 0 takes a free one.")
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False), default=None, help="PEM: the certificate and its chain.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), default=None, help="PEM: its key, if it is not in the same file.")
@_FOLDER
@with_call
def run(call: Call, listen: str, tls_cert: str | None, tls_key: str | None, folder: Path | None) -> None:
    """Answer requests for cosignatures until SIGTERM. Needs no root; everything that it signs is on disk first."""
    from stele.api import listening
    from stele.api import witness as serving

    sock = listening.listen(listen)
    url = listening.url_of(sock, tls=bool(tls_cert))

    def ready(running: Any) -> None:
        origins = sorted(running.logs())
        if call.json:
            render.show_json({"url": url, "vkeys": [key.encode() for key in running.keys.verifiers], "logs": origins})
        else:
            render.say_line(f"{running.keys.verifiers[0].name} cosigns at {url}/add-checkpoint for {len(origins)} logs")
        render.flush()

    serving.serve(_folder(call, folder), sock, certificate=tls_cert, key=tls_key, ready=ready)


@witness.command(epilog="\b\nExample:\n  stele witness status")
@_FOLDER
@with_call
def status(call: Call, folder: Path | None) -> None:
    """The witness's keys, the logs that it serves, what it cosigned last of each, and evidence of logs that misbehaved.

    Exit code 1 if there is proof that a log showed two histories.
    """
    from stele.witness import state

    place = _folder(call, folder)
    found = state.describe(place)
    if call.json:
        render.show_json(found)
    else:
        for vkey in found["vkeys"]:
            render.say_line(vkey)
        rows = [
            (each["origin"], str(each["size"]), render.when(each["seconds"] * 1_000_000_000), str(each["split_views"]))
            for each in found["logs"]
        ]
        render.show_table(("LOG", "COSIGNED SIZE", "AT (UTC)", "SPLIT VIEWS"), rows, empty="it serves no logs: `stele witness add-log`")
        for path in found["evidence"]:
            render.say_line(f"kept: {path}")
    if any(each["split_views"] for each in found["logs"]):
        raise SystemExit(1)
