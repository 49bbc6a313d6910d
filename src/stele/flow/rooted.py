"""The root of trust of a data folder: the document in force, who signs under it, and how it is changed (docs/spec/root.md)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from stele.host import durable
from stele.ledger import recorded
from stele.trust import note
from stele.trust import root as roots
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stele.flow.places import Places
    from stele.trust.root import Root
    from stele.trust.trust_keys import Trust


def pending(places: Places) -> Path:
    """The document that is being applied."""
    return places.root.with_name("trust.root.next")


def present(places: Places) -> Root | None:
    """The root in force; None if this data folder has none.

    Raises:
        SteleError: `trust.bad-root`; `trust.root-missing`, `trust.root-order`: the ledger has one, or a later one.
    """
    logged = recorded.documents(places.ledger)
    if pending(places).exists():
        raise SteleError(
            "a new root of trust was applied, and that was interrupted",
            remedy="apply it again: `stele trust apply FILE`, with the same file",
            code="trust.root-order",
        )
    try:
        document = places.root.read_bytes()
    except FileNotFoundError:
        if not logged:
            return None
        raise SteleError(
            f"{places.root} is missing, and entry {logged[-1][0]} of the ledger is a root document",
            remedy="`stele trust restore` takes it from there, if you know that this ledger is your own",
            code="trust.root-missing",
        ) from None
    root = roots.parse(document)
    if logged and (newest := roots.parse(logged[-1][1])).version > root.version:
        raise SteleError(
            f"{places.root} is version {root.version}, and entry {logged[-1][0]} of the ledger is version {newest.version}",
            remedy="`stele trust restore` takes the later one from there; an old root undoes nothing",
            code="trust.root-order",
        )
    roots.first(document, root.pin)
    if logged and root.text != newest.text:
        raise SteleError(
            f"{places.root} is not the root document in entry {logged[-1][0]} of the ledger",
            remedy="remove it and `stele trust restore` that one; a new one is signed by its holders and applied: `stele trust apply`",
            code="trust.root-order",
        )
    return root


class RootedSigner:
    """Signs each checkpoint with the keys that the root lists for its size; fails where one of them is not here."""

    def __init__(self, root: Root, signers: Iterable[note.Signer]) -> None:
        self.name = root.origin
        self._root = root
        self._signers = tuple(signers)

    def __repr__(self) -> str:
        return f"RootedSigner({self.name})"

    @property
    def verifiers(self) -> tuple[note.Verifier, ...]:
        """All keys that may sign, whenever."""
        return tuple(key.verifier for key in self._root.logs)

    def sign(self, body: bytes, seconds: int = 0) -> bytes:
        """See `note.Signer.sign`.

        Raises:
            SteleError: `trust.no-ledger-key`.
        """
        return self.at(note.parse_body(body).size).sign(body, seconds)

    def at(self, size: int) -> note.Signer:
        """What signs a checkpoint of this size. Raises `trust.no-ledger-key`."""
        keys = set(self._root.ledger_keys(size))
        for signer in self._signers:
            if keys and keys == set(signer.verifiers):
                return signer
        raise SteleError(
            f"no private key here signs checkpoints of size {size}, as version {self._root.version} of the root of trust lists them",
            remedy="bring the ledger's key back to keys/, or propose another one with `stele trust rotate` or `stele trust recover`",
            code="trust.no-ledger-key",
        )


def own_signers(places: Places) -> tuple[note.Signer, ...]:
    """The ledger's private keys that are here: `ledger.key`, and those that were made to follow it.

    Raises:
        SteleError: `trust.bad-key`.
    """
    return tuple(note.Signer.from_pem(path.read_bytes()) for path in sorted(places.keys.glob("ledger*.key")))


def next_signer(places: Places, origin: str, version: int) -> tuple[Path, note.Signer]:
    """The key that is to follow, made when it is first asked for; it signs nothing before a root in force says so."""
    path = places.keys / f"ledger-{version}.key"
    if not path.exists():
        durable.write(path, note.Signer.generate(origin).pem(), mode=0o600)
    return path, note.Signer.from_pem(path.read_bytes())


def documents_of(ledger: Path, *, whole: bool = False) -> list[bytes]:
    """All root documents that a published ledger holds, oldest first. `whole`: as `recorded.documents`."""
    return [document for _, document in recorded.documents(ledger, whole=whole)]


def documents(places: Places) -> list[bytes]:
    """All root documents of the ledger, oldest first, and the one in force if it is not published yet: what a verifier needs."""
    found = documents_of(places.ledger)
    with contextlib.suppress(FileNotFoundError):
        own = places.root.read_bytes()
        if not found or roots.parse(found[-1]).version < roots.parse(own).version:
            found.append(own)
    return found


def believed(trust: Trust, ledger: Path, *, whole: bool = False) -> tuple[note.Verifier, ...] | Root:
    """Whom a verifier believes of a ledger in a folder: its root, if he trusts one of it, else keys. `whole`: as `recorded.documents`.

    Raises:
        SteleError: `trust.bad-root`, `trust.root-order`, `trust.root-unsigned`, `ledger.none`.
    """
    if not trust.roots:
        return trust.ledgers
    reader = recorded.open_reader(ledger)
    root = trust.root(reader.checkpoint.origin, documents_of(ledger, whole=whole)) if reader else None
    return root or trust.ledgers


def problems(ledger: Path, root: Root) -> list[str]:
    """What is wrong with the root documents in a ledger, for whoever trusts `root`: each must follow the one before, logged in time."""
    found: list[str] = []
    before: Root | None = None
    for index, document in recorded.documents(ledger, whole=True):
        try:
            if before is None:
                now = roots.parse(document)
                roots.first(document, now.pin)
            else:
                now = roots.follow(document, before)
        except SteleError as error:
            return [*found, f"root document in entry {index}: {error.reason}"]
        if late := roots.logged(now, before, index):
            found.append(f"root document in entry {index}: {late}")
        if now.version == root.version and now.text != root.text:
            found.append(f"root document in entry {index}: it is not the one that you trust")
        before = now
    if before is None or before.version < root.version:
        found.append(f"the ledger does not hold version {root.version} of its root of trust")
    return found
