"""stele key, stele sign: who signs releases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stele.cli import render
from stele.cli.context import Call, with_call
from stele.cli.secret import Secrets, with_secrets
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.flow.keyring import Ring

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
PLAIN = click.option("--plain", is_flag=True, help="Without a passphrase: whoever reads the file can sign.")


@click.group(
    epilog="\b\nExample:\n  stele key list\n  stele key generate alice.key\n  stele key rotate release\n"
    "  stele key revoke 3244714e --from 1100 --reason stolen"
)
def key() -> None:
    """Who signs releases: keys, rules, rotation and revocation (docs/guide/keys.md).

    Every change is an entry of the ledger; from when until when a key counts is said by indexes of the ledger, never by a clock.
    """


@key.command("list", epilog="\b\nExample:\n  stele key list\n  stele key list --json")
@with_call
def list_(call: Call) -> None:
    """The keys that may sign releases here, and the rules: how many of whom each workload needs."""
    call.need_keys()
    from stele.flow import keyring

    found = keyring.show(call.places)
    if call.json:
        render.show_json(found)
        return
    rows = [
        (
            item["signer"],
            item["key"][:16],
            f"{item['from']}..{'' if item['until'] is None else item['until']}",
            "" if item["revoked"] is None else f"from {item['revoked']['from']}: {item['revoked']['reason']}",
            {"": "elsewhere", "plain": "here, without passphrase", "passphrase": "here, with passphrase"}[item["here"]],
        )
        for item in found["keys"]
    ]
    render.show_table(("SIGNER", "KEY", "VALID", "REVOKED", "PRIVATE KEY"), rows)
    for rule in found["rules"]:
        render.say_line(f"workloads {rule['workloads']}: {rule['threshold']} of {', '.join(rule['signers'])}")


@key.command(epilog="\b\nExample:\n  stele key generate alice.key          (asks for a passphrase)\n  stele key generate ci.key --plain")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@PLAIN
@with_secrets
@with_call
def generate(call: Call, path: Path, plain: bool, passphrase_file: Path | None) -> None:
    """Make a key pair for a signer: the private half in PATH, the public one beside it with the ending .pub.

    PKCS#8; `cosign import-key-pair` reads it. With a passphrase: scrypt and AES-256.
    """
    from stele.flow import keyring

    made = keyring.generate(path, None if plain else Secrets(passphrase_file).new(f"new passphrase for {path.name}"))
    if call.json:
        render.show_json(made)
        return
    render.say_line(f"made {made['private']} and {made['public']} (key {made['key'][:16]})")


@key.command(
    epilog="\b\nExample:\n  stele key protect                     (this data folder's own key)\n  stele key protect alice.key --plain"
)
@click.argument("path", type=FILE, required=False)
@PLAIN
@click.option("--new-passphrase-file", type=FILE, default=None, help="File whose first line is the new passphrase [default: asked for].")
@with_secrets
@with_call
def protect(call: Call, path: Path | None, plain: bool, new_passphrase_file: Path | None, passphrase_file: Path | None) -> None:
    """Put a private key under a passphrase, or under another one (--plain: under none)."""
    from stele.flow import keyring
    from stele.trust import key_files

    path = path or call.places.release_key
    if not path.exists():
        raise SteleError(f"there is no private key {path}", remedy="name the key file", code="trust.no-such-key")
    old = Secrets(passphrase_file)
    # for a key without one, the passphrase that is given is the new one
    asked = old if new_passphrase_file is None and not key_files.is_encrypted(path.read_bytes()) else Secrets(new_passphrase_file)
    done = keyring.protect(path, old, None if plain else asked.new(f"new passphrase for {path.name}"))
    if call.json:
        render.show_json(done)
    else:
        render.say_line(f"{path} is {'under a passphrase' if done['passphrase'] else 'under no passphrase'} (key {done['key'][:16]})")


@key.command(epilog="\b\nExample:\n  stele key public 'hsm:2?label=release' -o hsm.pub\n  stele key public alice.key")
@click.argument("name", metavar="KEY")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default=None, help="File to write [default: print it].")
@with_secrets
@with_call
def public(call: Call, name: str, output: Path | None, passphrase_file: Path | None) -> None:
    """The public half of KEY, a key file or the URI of a key service, as PEM: what `stele key add` takes."""
    from stele.flow import keyring

    found = keyring.public(call.places, name, Secrets(passphrase_file), output)
    if call.json:
        render.show_json(found)
    elif output is None:
        render.say_line(found["public"].rstrip("\n"))
    else:
        render.say_line(f"wrote {output} (key {found['key'][:16]})")


@key.command(epilog="\b\nExample:\n  stele key add alice alice.pub\n  stele key add release build-server.pub   (a further key of a signer)")
@click.argument("signer")
@click.argument("public", type=FILE)
@with_call
def add(call: Call, signer: str, public: Path) -> None:
    """Trust the PUBLIC key (PEM, as `stele key generate` and cosign write it) as one of SIGNER's. Rules say what a signer may sign."""
    from stele.flow import keyring
    from stele.trust.release_key import PublicKey

    done = keyring.add(_ring(call), signer, PublicKey.from_pem(public.read_bytes()))
    _say(call, done, f"{signer} signs with {done['key'][:16]}, too; `stele key require` says for which workloads that counts")


@key.command(epilog="\b\nExample:\n  stele key require shop 2 release alice bob\n  stele key require '*' 1 release")
@click.argument("pattern")
@click.argument("threshold", type=click.IntRange(1))
@click.argument("signers", nargs=-1, required=True)
@with_call
def require(call: Call, pattern: str, threshold: int, signers: tuple[str, ...]) -> None:
    """Releases of workloads that match PATTERN need signatures by THRESHOLD of SIGNERS. The first rule that matches counts."""
    from stele.flow import keyring

    done = keyring.require(_ring(call), pattern, threshold, signers)
    _say(call, done, f"workloads {pattern}: {threshold} of {', '.join(signers)}")


@key.command(epilog="\b\nExample:\n  stele key rotate release\n  stele key rotate alice --public alice-new.pub")
@click.argument("signer", default="release")
@click.option("--public", type=FILE, default=None, help="The new key [default: one is made, in this data folder].")
@PLAIN
@with_secrets
@with_call
def rotate(call: Call, signer: str, public: Path | None, plain: bool, passphrase_file: Path | None) -> None:
    """Replace SIGNER's present key. What the ledger recorded of the old one still counts; nothing later does.

    A new key that is made here is under a passphrase if the old one was, or if one is given.
    """
    from stele.flow import keyring, signers
    from stele.trust import key_files
    from stele.trust.release_key import PublicKey

    ring = _ring(call)
    given = None if public is None else PublicKey.from_pem(public.read_bytes())
    passphrase = None
    if given is None and not plain:
        old, asked = signers.own_key(call.places, signer), Secrets(passphrase_file)
        if asked.given or (old.exists() and key_files.is_encrypted(old.read_bytes())):
            passphrase = asked.new("passphrase of the new key")
    done = keyring.rotate(ring, signer, given, passphrase)
    _say(call, done, f"{signer} signs with {done['key'][:16]} from index {done['from']} on, and no longer with {done['old'][:16]}")
    if not call.json and done["private"]:
        render.say_line(f"the new private key is {done['private']}; give the new {call.places.trust} to whoever is to verify")


@key.command(
    epilog="\b\nExample:\n  stele key revoke 3244714e --reason 'laptop stolen'\n  stele key revoke 3244714e --from 1100 --reason stolen"
)
@click.argument("name", metavar="KEY")
@click.option("--reason", required=True, help="Why; goes into policy and ledger.")
@click.option("--from", "start", type=click.IntRange(0), help="What was recorded from this index on does not count [default: now].")
@with_call
def revoke(call: Call, name: str, reason: str, start: int | None) -> None:
    """Revoke KEY (its id or 8 digits of it): what it signed counts only if the ledger had recorded it before. `--from 0`: never.

    What runs goes on running and is reported by `stele status`; nothing of it is started again, unless others have signed it.
    """
    from stele.flow import keyring

    done = keyring.revoke(_ring(call, urgent=True), name, start, reason)
    _say(call, done, f"the key {done['key'][:16]} of {done['signer']} is revoked from index {done['from']} on")


@click.command(epilog="\b\nExample:\n  stele sign shop --key alice.key\n  stele sign 4be1 --key 'hsm:2?label=release'")
@click.argument("release")
@click.option("--key", "name", default="", help="Private key file, signer of this data folder, or URI of a key service [default: its own].")
@with_secrets
@with_call
def sign(call: Call, release: str, name: str, passphrase_file: Path | None) -> None:
    """Add a signature to RELEASE, which is in the store; what is signed is checked in full first."""
    call.need_keys()
    from stele.flow import sealing, signing

    record = sealing.event_recorder(call.places, lambda body: call.agent.call("POST", "/v1/record", body))
    secrets = Secrets(passphrase_file)
    secrets.warm(call.places, name)
    with render.progress(f"signing {release}", quiet=call.json):
        done = signing.sign(call.places, release, key=name, ask=secrets, record=record)
    if call.json:
        render.show_json(done)
        return
    render.say_line(f"{done['workload']} {done['release']} is signed with {done['key'][:16]}")
    render.say_line("it may run here" if done["accepted"] else f"it may not run here yet: {done['lacks']}")


def _ring(call: Call, *, urgent: bool = False) -> Ring:
    """What changes keys. `urgent`: also where nothing can be published: from an earlier index on, less counts."""
    call.need_keys()
    from stele.flow import keyring, sealing

    try:
        call.publish_committed()  # indexes are those of the published ledger
    except SteleError:
        if not urgent:
            raise
    record = sealing.event_recorder(call.places, lambda body: call.agent.call("POST", "/v1/keys", {"kind": body.pop("kind"), "data": body}))
    return keyring.Ring(call.places, record)


def _say(call: Call, done: dict[str, Any], text: str) -> None:
    if call.json:
        render.show_json(done)
    else:
        render.say_line(text)
