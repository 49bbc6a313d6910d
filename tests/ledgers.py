"""Ledgers for tests: real ones, with fixed keys and a clock that counts, and what a proof of them needs."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from stele.ledger.sequencer import Ledger
from stele.model import private
from stele.model import spec as specs
from stele.model.event import Event
from stele.model.release import ReleaseEvidence
from stele.model.tree import Tree
from stele.seal import release as sealing
from stele.trust import canonical, cosign, dsse, note
from stele.trust.release_key import PrivateKey
from stele.trust.trust_keys import Trust
from tests.trees import Held, MemorySink, file, folder

START = 1_800_000_000_000_000_000
SECOND = 1_000_000_000


def signer(seed: bytes, name: str = "test.example/ledger") -> note.Signer:
    """A ledger's keys, the same for the same seed of 32 bytes."""
    return note.Signer(name, Ed25519PrivateKey.from_private_bytes(seed), MLDSA44PrivateKey.from_seed_bytes(seed))


SIGNER = signer(bytes(range(32)))
OTHER = signer(bytes(range(1, 33)))
KEY = PrivateKey(ec.derive_private_key(0x57E1E, ec.SECP256R1()))
TRUSTED = SIGNER.verifiers
TRUST = Trust(TRUSTED, (KEY.public,))


class Clock:
    """A clock that moves a second at every look."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        self.now += SECOND
        return self.now


def event(number: int = 0, /, workload: str = "shop", kind: str = "instance.healthy", **data: Any) -> Event:
    """What is private of the kind is private, as `Recorder` does it."""
    clear, hidden = private.split(kind, data or {"number": number})
    return Event(workload=workload, kind=kind, time_ns=START + number, actor="test", data=clear, private=hidden)


def opened(folder_: Path, signer: note.Signer = SIGNER, clock: Clock | None = None, **more: Any) -> contextlib.closing[Ledger]:
    return contextlib.closing(Ledger.open(folder_, signer=signer, clock=clock or Clock(), **more))


def quiet(folder_: Path, monkeypatch: Any) -> Ledger:
    """A ledger that publishes only when it is told to."""
    monkeypatch.setattr("stele.ledger.sequencer.PUBLISH_EVERY_S", 3600)
    monkeypatch.setattr("stele.ledger.sequencer.MOST_ENTRIES", 1 << 40)
    return Ledger.open(folder_, signer=SIGNER, clock=Clock())


def rows(folder_: Path) -> list[tuple[Any, ...]]:
    """What the projection has of each entry."""
    db = sqlite3.connect(folder_ / "projection.sqlite")
    try:
        return db.execute("SELECT idx, workload, seq, kind FROM entries ORDER BY idx").fetchall()
    finally:
        db.close()


@cache
def sealed(name: str = "shop", content: bytes = b"one") -> tuple[str, ReleaseEvidence]:
    """Digest and evidence of a small release, signed by KEY."""
    held = Held()
    tree = Tree.build([folder(b""), file(b"app", content, held), file(b"conf", b"y", held)])
    spec = specs.from_builtins({"stele": 0, "name": name, "command": ["/app"], "settings": [{"path": "/conf"}]})
    made = sealing.seal(tree, held, spec, MemorySink(), compression="none")
    envelope = dsse.decode(canonical.decode(cosign.make_bundle(made.release.digest, KEY))["dsseEnvelope"])
    return made.release.digest, ReleaseEvidence(made.manifest, made.config, envelope.payload, (envelope.signature,))
