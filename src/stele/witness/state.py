"""A witness's folder: keys, the logs that it serves, and the last checkpoint that it cosigned of each (docs/spec/witness.md)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from stele.host import durable, locks
from stele.trust import note, quorum, witnessing
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.witness import journal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_HEAD = b"# stele witness keys: "
MAX_EVIDENCE = 64  # of each kind for each log: whoever can sign for it shall not fill the disk


class Keys(NamedTuple):
    """A witness's two keys, under one name."""

    ed25519: note.Key
    ml_dsa_44: note.Key

    @property
    def verifiers(self) -> tuple[note.Verifier, note.Verifier]:
        """The public keys."""
        return self.ed25519.verifier, self.ml_dsa_44.verifier

    def lines(self, body: bytes, seconds: int) -> bytes:
        """A cosignature by each, of a checkpoint's text."""
        return self.ed25519.line(body, seconds) + self.ml_dsa_44.line(body, seconds)


def _bad_key() -> SteleError:
    return SteleError(
        "this is not a witness's key: a name, an Ed25519 and an ML-DSA-44 key",
        remedy="name the folder that `stele witness init` made",
        code="trust.bad-key",
    )


def _keys(name: str, ed25519: Ed25519PrivateKey, ml_dsa_44: MLDSA44PrivateKey) -> Keys:
    return Keys(note.Key(name, ed25519, cosigner=True), note.Key(name, ml_dsa_44))


def _pem(keys: Keys) -> bytes:
    return _HEAD + keys.ed25519.verifier.name.encode() + b"\n" + keys.ed25519.pem() + keys.ml_dsa_44.pem()


def _from_pem(data: bytes) -> Keys:
    try:
        keys = _keys(*note.two_keys(data, _HEAD))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_key() from error
    if _pem(keys) != data:
        raise _bad_key()
    return keys


def make(folder: Path, name: str) -> Keys:
    """Make a witness's folder with new keys.

    Raises:
        SteleError: `witness.exists`: keys are never replaced; `trust.bad-note`: the name has spaces or plus signs.
    """
    keys = _keys(name, Ed25519PrivateKey.generate(), MLDSA44PrivateKey.generate())
    durable.make_dirs(folder, 0o700)
    if (folder / "witness.key").exists():
        raise SteleError(
            f"{folder} is a witness's already", remedy="`stele witness status` shows its keys; name another folder", code="witness.exists"
        )
    durable.write(folder / "witness.vkeys", "".join(key.encode() + "\n" for key in keys.verifiers).encode())
    if not (folder / "logs").exists():
        durable.write(folder / "logs", b"")
    durable.write(folder / "heads", journal.MAGIC)
    # last: a folder without it is not a witness's yet, and can be made again
    durable.write(folder / "witness.key", _pem(keys), mode=0o600)
    return keys


def read_keys(folder: Path) -> Keys:
    """The keys of a witness's folder.

    Raises:
        SteleError: `witness.none`, `trust.bad-key`.
    """
    try:
        data = (folder / "witness.key").read_bytes()
    except FileNotFoundError as error:
        raise SteleError(f"{folder} is not a witness's folder", remedy="make one with `stele witness init`", code="witness.none") from error
    return _from_pem(data)


def parse_logs(data: bytes) -> dict[str, tuple[note.Verifier, ...]]:
    """The keys of every log, by its origin, from lines `log <vkey>` as in a policy.

    Raises:
        SteleError: `witness.bad-policy`, `trust.bad-note`.
    """
    found: dict[str, tuple[note.Verifier, ...]] = {}
    for log in quorum.parse(data + b"quorum none\n").logs:
        found[log.verifier.name] = (*found.get(log.verifier.name, ()), log.verifier)
    return found


def add_logs(folder: Path, verifiers: Sequence[note.Verifier]) -> list[str]:
    """Add keys of logs, unless they are there; returns the origins of those that were added. A running witness notices.

    Raises:
        SteleError: `witness.none`, `witness.bad-policy`.
    """
    read_keys(folder)
    with durable.alone(folder):
        data = (folder / "logs").read_bytes()
        known = {key for keys in parse_logs(data).values() for key in keys}
        fresh = [key for key in verifiers if key not in known]
        data += "".join(f"log {key.encode()}\n" for key in fresh).encode()
        parse_logs(data)
        if fresh:
            durable.write(folder / "logs", data)
    return list(dict.fromkeys(key.name for key in fresh))


class State:
    """What a running witness has cosigned. One process at a time; for each log, one thread at a time (the caller sees to it)."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        """Take the lock, and read all heads.

        Raises:
            SteleError: `witness.locked`, `witness.damaged`: what it signed last of a log cannot be read, so it can sign nothing more.
        """
        self._folder, self._keys = folder, keys
        lock = locks.hold(folder / "lock")
        if lock is None:
            raise SteleError("another process is this witness", remedy="let one run; two could sign two histories", code="witness.locked")
        self._lock = lock
        try:
            for left in folder.glob(".heads.*.tmp"):
                left.unlink()  # of a write that a crash cut off
            self._journal = _journal(folder)
            self._heads = {name: (raw, _own(folder, raw, keys.verifiers)) for name, raw in self._journal.notes.items()}
        except BaseException:
            os.close(self._lock)
            raise

    def head(self, origin_hash: str) -> bytes | None:
        """The last note that was cosigned of a log, with the cosignatures; None if there is none."""
        found = self._heads.get(origin_hash)
        return found[0] if found else None

    def last(self, origin: str) -> note.Opened | None:
        """The last checkpoint that was cosigned of a log, with when."""
        found = self._heads.get(witnessing.origin_hash(origin))
        return found[1] if found else None

    def advance(self, raw: bytes, opened: note.Opened) -> None:
        """Make a cosigned note the last one of its log; when this returns, it is on disk.

        Raises:
            OSError: the head on disk is the old one or the new one, which nobody was given; in memory the old one stays.
        """
        name = witnessing.origin_hash(opened.checkpoint.origin)
        self._journal.put(name, raw)
        self._heads[name] = raw, opened

    def keep_evidence(self, raw: bytes, origin: str, why: str) -> None:
        """Keep a signed checkpoint that does not continue what was cosigned, with that: they may prove that the log shows two histories.

        Raises:
            OSError: it could not be kept.
        """
        folder = self._folder / "evidence" / witnessing.origin_hash(origin)
        durable.make_dirs(folder)
        name = sha256(raw)[7:39]
        if (folder / f"{name}.{why}").exists() or sum(each.endswith(f".{why}") for each in os.listdir(folder)) >= MAX_EVIDENCE:
            return
        durable.write(folder / f"{name}.cosigned", self.head(witnessing.origin_hash(origin)) or b"")
        durable.write(folder / f"{name}.{why}", raw)

    def close(self) -> None:
        """Let go of the lock."""
        self._journal.close()
        os.close(self._lock)


def _journal(folder: Path) -> journal.Journal:
    path = folder / "heads"
    try:
        return journal.Journal(path, _name)
    except (FileNotFoundError, journal.DamagedError, SteleError) as error:
        raise damaged(path) from error


def _name(raw: bytes) -> str:
    return witnessing.origin_hash(note.unverified(raw).origin)


def _own(folder: Path, raw: bytes, verifiers: Sequence[note.Verifier]) -> note.Opened:
    opened = open_own(raw, verifiers)
    if opened is None:
        raise damaged(folder / "heads")
    return opened


def open_own(raw: bytes, verifiers: Sequence[note.Verifier]) -> note.Opened | None:
    """A note that this witness cosigned, by its own signatures alone; None if these do not hold."""
    try:
        body, lines = note.split_note(raw)
        checkpoint = note.parse_body(body)
    except SteleError:
        return None
    known = {(key.name, key.key_id): key for key in verifiers}
    held = []
    for name, identity, signature in lines:
        key = known.get((name, identity))
        if key is not None:
            if not key.verify(body, signature):
                return None
            held.append(note.Signature(key, int.from_bytes(signature[:8])))
    return note.Opened(checkpoint, tuple(held)) if len({each.verifier for each in held}) == len(verifiers) else None


def damaged(path: Path) -> SteleError:
    """The error for a head that cannot be read: whoever does not know what it signed must not sign."""
    return SteleError(
        f"what this witness signed last cannot be read: {path} was damaged or altered",
        remedy="do not start it without it: it could sign a second history. Make a new witness with new keys, and tell who trusts the old",
        code="witness.damaged",
    )


def evidence(folder: Path) -> list[Path]:
    """What was kept of logs that may have misbehaved: `.split-view` proves it with the `.cosigned` beside it, `.unproven` may not."""
    return sorted(path for path in (folder / "evidence").glob("*/*") if path.suffix in {".split-view", ".unproven"})


def describe(folder: Path) -> dict[str, Any]:
    """What a folder holds, for people; does not need the lock, and verifies nothing.

    Raises:
        SteleError: `witness.none`, `witness.damaged`, `trust.*`, `witness.bad-policy`.
    """
    keys, logs, kept = read_keys(folder), parse_logs((folder / "logs").read_bytes()), evidence(folder)
    try:
        heads = {_name(raw): raw for raw in journal.read((folder / "heads").read_bytes())[0]}
    except (FileNotFoundError, journal.DamagedError) as error:
        raise damaged(folder / "heads") from error
    found: list[dict[str, Any]] = []
    for origin in sorted(logs):
        name = witnessing.origin_hash(origin)
        opened = open_own(heads[name], keys.verifiers) if name in heads else None
        split = sum(path.parent.name == name and path.suffix == ".split-view" for path in kept)
        size, seconds = (opened.checkpoint.size, max(each.seconds or 0 for each in opened.signatures)) if opened else (0, 0)
        found.append({"origin": origin, "size": size, "seconds": seconds, "split_views": split})
    return {"vkeys": [key.encode() for key in keys.verifiers], "logs": found, "evidence": [str(path) for path in kept]}
