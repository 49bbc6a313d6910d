"""stele trust: the root of trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.cli.secret import Secrets, with_secrets

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
OUTPUT = click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The document, to be signed.")


@click.group(
    epilog="\b\nExample:\n  stele trust init --holder alice.vkey --holder bob.vkey --holder carol.vkey --threshold 2 -o root.1\n"
    "  stele trust sign root.1 --key alice.holder\n  stele trust apply root.1"
)
def trust() -> None:
    """The root of trust: holders of offline keys say by threshold who signs the ledger and the releases (docs/guide/root-of-trust.md).

    A document is proposed on the host, carried to the holders, signed by each, carried back, and applied.
    """


@trust.command(epilog="\b\nExample:\n  stele trust holder alice alice.holder        (asks for a passphrase)")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--plain", is_flag=True, help="Without a passphrase: whoever reads the file can sign.")
@with_secrets
@with_call
def holder(call: Call, name: str, path: Path, plain: bool, passphrase_file: Path | None) -> None:
    """Make the key of the holder NAME, on a machine that is kept offline: the private half in PATH, the public one beside it (.vkey)."""
    from stele.flow import trusting

    made = trusting.make_holder(name, path, None if plain else Secrets(passphrase_file).new(f"new passphrase for {path.name}"))
    if call.json:
        render.show_json(made)
        return
    render.say_line(f"made {made['private']}; give {made['public']} to whoever proposes the root:")
    render.say_line(made["vkey"])


@trust.command(epilog="\b\nExample:\n  stele trust init --holder alice.vkey --holder bob.vkey --holder carol.vkey --threshold 2 -o root.1")
@click.option(
    "--holder", "holders", multiple=True, required=True, metavar="VKEY", help="A holder's public key: the .vkey file, or the text."
)
@click.option("--threshold", type=click.IntRange(1), required=True, help="How many of them must sign.")
@click.option(
    "--with-policy", is_flag=True, help="Put the rules of keys/trust.policy under the root: then it alone says who signs releases."
)
@OUTPUT
@with_call
def init(call: Call, holders: tuple[str, ...], threshold: int, with_policy: bool, output: Path) -> None:
    """Write version 1 of this ledger's root of trust, for its holders to sign."""
    call.need_keys()
    from stele.flow import trusting

    _write(call, output, trusting.begin(call.places, [_text(item) for item in holders], threshold, with_policy=with_policy))


@trust.command(
    epilog="\b\nExample:\n  stele trust propose --add dave.vkey --remove carol -o root.2\n"
    "  stele trust propose --policy new.policy -o root.2"
)
@click.option("--add", multiple=True, metavar="VKEY", help="A further holder: the .vkey file, or the text.")
@click.option("--remove", multiple=True, metavar="NAME", help="Who is a holder no more.")
@click.option("--threshold", type=click.IntRange(1), default=None, help="How many must sign from then on.")
@click.option("--policy", type=FILE, default=None, help="Who signs releases from then on: a file like keys/trust.policy.")
@OUTPUT
@with_call
def propose(call: Call, add: tuple[str, ...], remove: tuple[str, ...], threshold: int | None, policy: Path | None, output: Path) -> None:
    """Write the next version, with other holders, another threshold, or other signers of releases."""
    from stele.flow import trusting

    given = None if policy is None else policy.read_bytes()
    text = trusting.propose(call.places, add=[_text(item) for item in add], remove=remove, threshold=threshold, policy=given)
    _write(call, output, text)


@trust.command(epilog="\b\nExample:\n  stele trust rotate -o root.2\n  stele trust rotate --at 20000 -o root.2")
@click.option(
    "--at", type=click.IntRange(1), default=None, help="Size of the ledger from which the new key signs [default: 256 more than now]."
)
@OUTPUT
@with_call
def rotate(call: Call, at: int | None, output: Path) -> None:
    """Write the next version, with a new key of the ledger. Once it is applied, the change of keys happens by itself at that size."""
    from stele.flow import trusting

    _write(call, output, trusting.rotate(call.places, at))


@trust.command(epilog="\b\nExample:\n  stele agent stop\n  stele trust recover -o root.2")
@OUTPUT
@with_call
def recover(call: Call, output: Path) -> None:
    """Write the next version after the ledger's key was STOLEN: this ledger's head is the last good one, a new key goes on from there.

    The ledger must not be written to until it is applied: stop the agent (what runs keeps running). docs/guide/stolen-ledger-key.md
    is the whole procedure.
    """
    from stele.flow import trusting

    _write(call, output, trusting.recover(call.places))


@trust.command(epilog="\b\nExample:\n  stele trust show root.2\n  stele trust show\n  stele trust show --documents root-documents")
@click.argument("document", type=FILE, required=False)
@click.option(
    "--documents", type=click.Path(path_type=Path, file_okay=False), default=None, help="Folder to write all of this ledger's to."
)
@with_call
def show(call: Call, document: Path | None, documents: Path | None) -> None:
    """What a document says, who has signed it and who has not; without one, the root in force and the line for trust.keys."""
    from stele.flow import rooted, trusting
    from stele.host import durable
    from stele.trust import root as roots

    if documents is not None:
        durable.make_dirs(documents)
        for text in rooted.documents(call.places):
            durable.write(documents / f"root.{roots.parse(text).version}", text)
    _say(call, trusting.show(call.places, document))


@trust.command(epilog="\b\nExample:\n  stele trust show root.1\n  stele trust sign root.1 --key alice.holder")
@click.argument("document", type=FILE)
@click.option("--key", type=FILE, required=True, help="Your key, as `stele trust holder` made it.")
@with_secrets
@with_call
def sign(call: Call, document: Path, key: Path, passphrase_file: Path | None) -> None:
    """Add your signature to DOCUMENT, in its file. Read it first: `stele trust show DOCUMENT`. Needs no data folder and no network."""
    from stele.flow import trusting

    _say(call, trusting.sign(document, key, Secrets(passphrase_file)))


@trust.command(epilog="\b\nExample:\n  stele agent stop\n  stele trust apply root.2\n  stele agent start")
@click.argument("document", type=FILE)
@with_call
def apply(call: Call, document: Path) -> None:
    """Put DOCUMENT in force: its signatures are verified, it becomes an entry of the ledger, and then it counts.

    The agent must be stopped meanwhile; what runs keeps running, guarded.
    """
    call.need_keys()
    from stele.flow import trusting

    with render.progress("applying", quiet=call.json):
        done = trusting.apply(call.places, document)
    _say(call, done)
    if not call.json:
        render.say_line(f"in force since entry {done['index']}; give {call.places.trust} to whoever is to verify")


@trust.command(epilog="\b\nExample:\n  stele trust restore")
@with_call
def restore(call: Call) -> None:
    """Bring keys/trust.root back from the ledger, where it is missing or older than the one there."""
    from stele.flow import trusting

    _say(call, trusting.restore(call.places))


def _text(vkey: str) -> str:
    path = Path(vkey)
    return path.read_text("ascii", "replace") if path.is_file() else vkey


def _write(call: Call, output: Path, text: bytes) -> None:
    from stele.flow import trusting
    from stele.host import durable

    durable.write(output, text)
    _say(call, trusting.show(call.places, output))
    if not call.json:
        render.say_line(f"wrote {output}; each holder signs it: stele trust sign {output.name} --key NAME.holder")


def _say(call: Call, found: dict[str, Any]) -> None:
    if call.json:
        render.show_json(found)
        return
    render.say_line(f"root of trust of {found['ledger']}, version {found['version']}, {found['digest']}")
    render.say_line(f"  holders  {found['threshold']} of {', '.join(found['holders'])}")
    render.say_line(f"  signed   {', '.join(found['signed']) or 'by nobody'}")
    if found["missing"]:
        render.say_line(f"  missing  {', '.join(found['missing'])}")
    for key in found["ledger_keys"]:
        kind = {1: "Ed25519", 6: "ML-DSA-44"}[key["type"]]
        render.say_line(f"  ledger   {key['key']} {kind}, sizes {key['from']}..{'' if key['until'] is None else key['until']}")
    for item in found["stolen"]:
        render.say_line(f"  STOLEN   {item['key']}; the last good head is {item['good_size']} {item['good_root']}")
    for rule in found["rules"]:
        render.say_line(f"  rule     workloads {rule['workloads']}: {rule['threshold']} of {', '.join(rule['signers'])}")
    render.say_line(f"  trust    {found['trust']}")
