"""Writes note.json and ledger.json anew: python -m tests.vectors.make_ledger. Only for a new version of a format."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from stele.ledger import sequencer
from stele.ledger.openings import Openings
from stele.ledger.reader import LedgerReader
from stele.model.event import decode_entry
from stele.trust import merkle, note
from tests import ledgers
from tests.ledgers import OTHER, SIGNER, Clock, event, opened, sealed

HERE = Path(__file__).parent


def write(name: str, value: object) -> None:
    (HERE / name).write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def notes() -> None:
    body = note.Checkpoint(SIGNER.name, 1234, bytes(range(32))).body()
    when = ledgers.START // ledgers.SECOND
    good = SIGNER.sign(body, when).decode()
    first = good[: good.rindex("\u2014")]  # without the ML-DSA-44 line
    name, root = SIGNER.name, base64.b64encode(bytes(32)).decode()
    ed25519 = note.Key("witness.example/w1", Ed25519PrivateKey.from_private_bytes(bytes(32)), cosigner=True)
    ml_dsa_44 = note.Key("witness.example/w2", MLDSA44PrivateKey.from_seed_bytes(bytes(32)))
    cosigned = good + (ed25519.line(body, when + 1) + ml_dsa_44.line(body, when + 2)).decode()
    keys = {"ed25519": SIGNER.verifier, "ml-dsa-44": SIGNER.verifiers[1], "w1": ed25519.verifier, "w2": ml_dsa_44.verifier}

    def signed(text: str) -> str:  # a hand that signs anything with the Ed25519 key
        return text + "\n" + note.Key(name, Ed25519PrivateKey.from_private_bytes(bytes(range(32)))).line(text.encode()).decode()

    rows = [
        ("", "as signed", good),
        ("", "two witnesses more", cosigned),
        ("", "by a stranger, too", good + f"\u2014 stranger.example {base64.b64encode(bytes(99)).decode()}\n"),
        ("trust.bad-signature", "another size than was signed", good.replace("1234", "1235")),
        ("trust.unknown-signer", "the same name, another key", OTHER.sign(body).decode()),
        ("trust.bad-note", "no signature", body.decode()),
        ("trust.bad-note", "every line twice", good + good.partition("\n\n")[2]),
        ("trust.missing-signature", "the ML-DSA-44 line left out", first),
        ("trust.bad-signature", "the time of the ML-DSA-44 line altered", first + _later(good[len(first) :])),
        ("trust.bad-signature", "the time of a witness altered", good + _later(ed25519.line(body, when).decode())),
        ("trust.bad-signature", "a witness's signature of another size", good + ed25519.line(body.replace(b"1234", b"1235"), 1).decode()),
        ("trust.bad-note", "size with a leading zero", signed(f"{name}\n01\n{root}\n")),
        ("trust.bad-note", "size with an underscore", signed(f"{name}\n1_000\n{root}\n")),
        ("trust.bad-note", "negative size", signed(f"{name}\n-5\n{root}\n")),
        ("trust.bad-note", "size in Arabic digits", signed(f"{name}\n٣\n{root}\n")),
        ("trust.bad-note", "root with trailing bits", signed(f"{name}\n5\n{'A' * 42}B=\n")),
        ("trust.bad-note", "root of 31 bytes", signed(f"{name}\n5\n{base64.b64encode(bytes(31)).decode()}\n")),
        ("trust.bad-note", "an extension line", signed(f"{name}\n5\n{root}\nmore\n")),
        ("trust.unknown-signer", "another origin than the signer", signed(f"other.example/log\n5\n{root}\n")),
        ("trust.bad-note", "hyphen in place of the dash", good.replace("\u2014", "-")),
        ("trust.bad-note", "two spaces", good.replace("\u2014 ", "\u2014  ")),
        ("trust.bad-note", "text after the signature", good + "\n"),
    ]
    known: dict[str, Any] = {"ledgers": ["ed25519", "ml-dsa-44"], "witnesses": ["w1", "w2"]}
    rendered = [{"code": code, "why": why, "note": text, **known} for code, why, text in rows]
    rendered.append(
        {
            "code": "",
            "why": "the Ed25519 line alone, for one who knows no other key",
            "note": first,
            "ledgers": ["ed25519"],
            "witnesses": [],
        }
    )
    for row in rendered:
        if not row["code"]:
            found = note.open_note(
                str(row["note"]).encode(), [keys[key] for key in row["ledgers"]], [keys[key] for key in row["witnesses"]]
            )
            row["checkpoint"] = [name, 1234, bytes(range(32)).hex()]
            row["signatures"] = [[each.verifier.name, each.verifier.algorithm, each.seconds] for each in found.signatures]
    write("note.json", {"keys": {each: key.encode() for each, key in keys.items()}, "notes": rendered})


def _later(line: str) -> str:
    """The signature line of a key that tells a time, with another time."""
    head, _, blob = line.rstrip("\n").rpartition(" ")
    raw = bytearray(base64.b64decode(blob))
    raw[11] ^= 1
    return f"{head} {base64.b64encode(raw).decode()}\n"


def salts() -> Callable[[int], bytes]:
    """Salts that anyone can make again: SHA-256 of a counter. For vectors only."""
    counter = itertools.count()
    return lambda count: b"".join(hashlib.sha256(str(next(counter)).encode()).digest() for _ in range(count // 32))


def demo(folder: Path) -> str:
    """A workload that is sealed, serves, is frozen and replaced."""
    digest, _ = sealed()
    one, two = {"instance": "shop-aaaaaa", "release": digest}, {"instance": "shop-bbbbbb", "release": digest}
    second = ledgers.SECOND
    never = mock.patch.object(sequencer, "PUBLISH_EVERY_S", 3600)  # only when it is closed: the same bytes on any machine
    with never, opened(folder, clock=Clock(ledgers.START + 100 * second), random=salts()) as ledger:
        ledger.append([event(0, workload="", kind="agent.started", swept=[])])
        ledger.append([event(1 * second, kind="release.sealed", release=digest)])
        ledger.append(
            [event(2 * second, kind="instance.starting", role="candidate", **one), event(3 * second, kind="instance.active", **one)]
        )
        ledger.append([event(3 * second, workload="other", kind="release.sealed", release="sha256:" + "0" * 64)])
        seen = {"path": "/tmp/x", "argv": ["/tmp/x", "-q"], "pid": 7}
        ledger.append(
            [
                event(4 * second, kind="violation", incident="shop-i1", **one, **seen),
                event(4 * second, kind="instance.frozen", incident="shop-i1", **one),
            ]
        )
        ledger.append(
            [event(5 * second, kind="instance.starting", role="replacement", **two), event(6 * second, kind="instance.active", **two)]
        )
    return digest


def main() -> None:
    notes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "ledger"
        demo(folder)
        log = LedgerReader(folder)
        raws = list(log.raw_entries(0, log.size))
        write(
            "ledger.json",
            {
                "vkeys": [key.encode() for key in SIGNER.verifiers],
                "checkpoint": log.note.decode(),
                "entries": [raw.decode() for raw in raws],
                "leaf_hashes": [merkle.leaf_hash(raw).hex() for raw in raws],
                "inclusion_of_3": [item.hex() for item in log.inclusion(3)],
                "consistency_from_5": [item.hex() for item in log.consistency(5)],
                "bundle": base64.b64encode((folder / f"tile/entries/000.p/{log.size}").read_bytes()).decode(),
                "tile": base64.b64encode((folder / f"tile/0/000.p/{log.size}").read_bytes()).decode(),
                "openings": [
                    {"index": index, "field": field, "salt": found.salt.hex(), "value": found.value}
                    for index, entry in log.entries()
                    for field, found in Openings(folder).of(index, entry).items()
                ],
                "epoch": decode_entry(raws[-1]).event.data,
            },
        )


if __name__ == "__main__":
    main()
