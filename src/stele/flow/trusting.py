"""Changing the root of trust: proposed on the host, signed by holders wherever they are, carried by hand, applied on the host."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stele.flow import rooted, signers
from stele.flow.record import Recorder
from stele.host import durable
from stele.ledger import recorded
from stele.ledger.sequencer import Ledger
from stele.trust import holder_key, key_files, note, trust_keys
from stele.trust import policy as policies
from stele.trust import root as roots
from stele.trust.errors import SteleError
from stele.trust.root import LogKey, Stolen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from stele.flow.places import Places
    from stele.flow.signers import Ask
    from stele.trust.note import Verifier
    from stele.trust.root import Root

MARGIN = 256  # entries that a ledger may grow by while holders sign


def make_holder(name: str, path: Path, passphrase: str | None) -> dict[str, Any]:
    """Make a holder's key: `path` (mode 0600), and its public half in `.vkey` beside it. Nothing is overwritten.

    Raises:
        SteleError: `trust.key-exists`, `trust.bad-note` (the name).
    """
    key = note.Key(name, Ed25519PrivateKey.generate())
    data = holder_key.encode(key, signers.as_bytes(passphrase), secrets.token_bytes(key_files.RANDOM_BYTES))
    public = path.with_suffix(".vkey")
    if path.exists() or public.exists() or public == path:
        raise SteleError(
            f"{path} is the name of a public key" if public == path else f"{path} or {public} is there already",
            remedy="name another file: a key is never overwritten",
            code="trust.key-exists",
        )
    durable.write(path, data, mode=0o600)
    durable.write(public, key.verifier.encode().encode() + b"\n")
    return {"private": str(path), "public": str(public), "vkey": key.verifier.encode()}


def begin(places: Places, holders: Sequence[str], threshold: int, *, with_policy: bool) -> bytes:
    """The text of version 1 for this data folder's ledger, to be signed by its holders.

    Raises:
        SteleError: `trust.bad-root`, `trust.rooted`: there is one already.
    """
    if rooted.present(places) is not None:
        raise SteleError("this data folder has a root of trust already", remedy="change it: `stele trust propose`", code="trust.rooted")
    signer = note.Signer.from_pem(places.ledger_key.read_bytes())
    lines = policies.parse(places.policy.read_bytes()).lines if with_policy else ()
    keys = [LogKey(0, None, key) for key in signer.verifiers]
    return roots.encode(signer.name, 1, threshold, vkeys(holders), keys, (), lines)


def vkeys(texts: Iterable[str]) -> list[Verifier]:
    """Holders' keys, each a vkey or a file that holds one. Raises `trust.bad-note`."""
    return [note.parse_vkey(text.strip()) for text in texts]


def propose(
    places: Places, *, add: Sequence[str] = (), remove: Sequence[str] = (), threshold: int | None = None, policy: bytes | None = None
) -> bytes:
    """The text of the next version, with other holders, threshold, or policy.

    Raises:
        SteleError: `trust.bad-root`, `trust.no-root`, `trust.bad-policy`.
    """
    root = _root(places)
    holders = [key for key in root.holders if key.name not in remove] + vkeys(add)
    lines = root.policy.lines if policy is None else policies.parse(policy).lines
    return roots.encode(root.origin, root.version + 1, threshold or root.threshold, holders, root.logs, root.stolen, lines)


def rotate(places: Places, at: int | None) -> bytes:
    """The text of the next version, in which a new key of the ledger signs from size `at` on, and the present one before it.

    Raises:
        SteleError: `trust.bad-root`, `trust.no-root`.
    """
    root = _root(places)
    reader = recorded.open_reader(places.ledger)
    size = at if at is not None else (reader.size if reader else 0) + MARGIN
    _, signer = rooted.next_signer(places, root.origin, root.version + 1)
    ended = [msgspec.structs.replace(key, end=size) if key.end is None else key for key in root.logs]
    return _with_logs(root, [*ended, *(LogKey(size, None, key) for key in signer.verifiers)], root.stolen)


def recover(places: Places) -> bytes:
    """The text of the next version after the ledger's key was stolen: this ledger's published head is the last good one.

    The ledger must not be written to until the document is applied.

    Raises:
        SteleError: `trust.bad-root`, `trust.no-root`, `ledger.locked`, `ledger.none`.
    """
    root = _root(places)
    # no witness is asked: one that was shown the thief's history first would hold this up
    signer = rooted.RootedSigner(root, rooted.own_signers(places))
    with contextlib.closing(Ledger.open(places.ledger, signer=signer, clock=time.time_ns, trusted=root)) as ledger:
        ledger.publish()  # what is committed and not published yet belongs to the good part
        size = ledger.size
    reader = recorded.open_reader(places.ledger)
    assert reader is not None
    assert reader.size == size
    _, following = rooted.next_signer(places, root.origin, root.version + 1)
    gone = {item.verifier for item in root.stolen}
    stolen = [Stolen(size, reader.checkpoint.root, key) for key in root.ledger_keys(size) if key not in gone]
    return _with_logs(root, [*root.logs, *(LogKey(size + 1, None, key) for key in following.verifiers)], [*root.stolen, *stolen])


def _with_logs(root: Root, logs: Iterable[LogKey], stolen: Iterable[Stolen]) -> bytes:
    return roots.encode(root.origin, root.version + 1, root.threshold, root.holders, logs, stolen, root.policy.lines)


def _root(places: Places) -> Root:
    root = rooted.present(places)
    if root is None:
        raise SteleError("this data folder has no root of trust", remedy="begin one: `stele trust init`", code="trust.no-root")
    return root


def sign(path: Path, key: Path, ask: Ask) -> dict[str, Any]:
    """Add a holder's signature to a document, in its file. Needs no data folder.

    Raises:
        SteleError: `trust.bad-root`, `trust.bad-key`, `trust.wrong-passphrase`, `trust.no-passphrase`, `trust.no-such-key`.
    """
    document = _read(path)
    root = roots.parse(document)
    data = _read(key)
    holder = holder_key.load(data, signers.secret_of(key, data, ask))
    if not roots.signers(document, [holder.verifier]):
        head = document if b"\n\n" in document else document + b"\n"
        document = head + holder.line(root.text)
        durable.write(path, document)
    return describe(document, None)


def describe(document: bytes, present: Root | None) -> dict[str, Any]:
    """What a document says, who signed it, and what is missing. Raises `trust.bad-root`."""
    root = roots.parse(document)
    every = (*root.holders, *(present.holders if present else ()))
    signed = [key.name for key in roots.signers(document, every)]
    missing = [key.name for key in root.holders if key.name not in signed]
    return {
        "ledger": root.origin,
        "version": root.version,
        "digest": root.pin.digest,
        "threshold": root.threshold,
        "holders": [key.name for key in root.holders],
        "signed": signed,
        "missing": missing if len(root.holders) - len(missing) < root.threshold else [],
        "ledger_keys": [
            {"key": key.verifier.key_id.hex(), "type": key.verifier.algorithm, "from": key.start, "until": key.end} for key in root.logs
        ],
        "stolen": [{"key": item.verifier.key_id.hex(), "good_size": item.size, "good_root": item.root.hex()} for item in root.stolen],
        "rules": [{"workloads": rule.pattern, "threshold": rule.threshold, "signers": list(rule.signers)} for rule in root.policy.rules],
        "trust": f"root {root.origin} {root.version} {root.pin.digest[7:]}",
    }


def show(places: Places, path: Path | None) -> dict[str, Any]:
    """`describe` of a file, or of the document in force. Raises also `trust.no-root`."""
    if path is not None:
        with contextlib.suppress(SteleError):
            return describe(_read(path), rooted.present(places))
        return describe(_read(path), None)
    _root(places)
    return describe(places.root.read_bytes(), None)


def apply(places: Places, path: Path) -> dict[str, Any]:
    """Put a document that enough holders have signed in force: verified, then in the ledger, then in use. No agent may run meanwhile.

    Raises:
        SteleError: `trust.bad-root`, `trust.root-order`, `trust.root-unsigned`, `trust.too-late`, `ledger.*`.
    """
    document = _read(path)
    pending = rooted.pending(places)
    if pending.exists() and pending.read_bytes() == document:  # it was interrupted: what it replaces has not changed
        before = roots.parse(places.root.read_bytes()) if places.root.exists() else None
    else:
        before = rooted.present(places)
    root = roots.follow(document, before) if before else roots.first(document, roots.parse(document).pin)
    signers = rooted.own_signers(places)
    if (root.version != 1 and before is None) or root.origin != signers[0].name:
        raise SteleError(
            f"the document is version {root.version} of {root.origin}, and this ledger is {signers[0].name}",
            remedy="apply the document of this ledger; the first one has version 1",
            code="trust.root-order",
        )
    durable.write(pending, document)
    try:
        index = _log(places, document, root, before, signers)
    except SteleError:
        if document not in rooted.documents(places):
            durable.remove(pending)
        raise
    os.rename(pending, places.root)
    durable.sync_dir(places.keys)
    write_trust(places, root)
    return {**describe(document, before), "index": index}


def _log(places: Places, document: bytes, root: Root, before: Root | None, signers: Sequence[note.Signer]) -> int:
    """The index of the document in the ledger; it is written there, unless it is there already."""

    def known() -> list[int]:
        return [index for index, text in recorded.documents(places.ledger) if text == document]

    def in_time(index: int) -> None:
        if late := roots.logged(root, before, index):
            raise SteleError(
                f"the document cannot be entry {index} of the ledger: {late}",
                remedy="propose it again, and keep the ledger unchanged until it is applied",
                code="trust.too-late",
            )

    reader = recorded.open_reader(places.ledger)
    if reader is not None and not known():
        in_time(reader.size)
    ledger = Ledger.open(places.ledger, signer=rooted.RootedSigner(root, signers), clock=time.time_ns, trusted=root)
    with contextlib.closing(ledger):
        if found := known():
            return found[0]
        index = ledger.size
        in_time(index)
        record = Recorder.of_caller(ledger.append)
        record("", "trust.root", version=root.version, digest=root.pin.digest, document=document.decode())
        ledger.publish()
        return index


def restore(places: Places) -> dict[str, Any]:
    """Take the newest root document from the ledger, if the documents there lead to it from the one that is here.

    Raises:
        SteleError: `trust.*`; `trust.no-root`: the ledger has none.
    """
    logged = rooted.documents_of(places.ledger)
    if not logged:
        raise SteleError("the ledger holds no root document", remedy="begin one: `stele trust init`", code="trust.no-root")
    first = roots.parse(places.root.read_bytes()) if places.root.exists() else roots.first(logged[0], roots.parse(logged[0]).pin)
    root = roots.verify_chain(logged, first)
    if root.version > first.version or not places.root.exists():
        durable.write(places.root, logged[-1])
    write_trust(places, root)
    return describe(places.root.read_bytes(), None)


def write_trust(places: Places, root: Root) -> None:
    """What verifiers get: the root in place of the ledger's keys."""
    trust = trust_keys.parse(places.trust.read_bytes())
    pins = (*(pin for pin in trust.roots if pin.origin != root.origin), root.pin)
    ledgers = tuple(key for key in trust.ledgers if key.name != root.origin)
    durable.write(places.trust, trust_keys.encode(trust._replace(ledgers=ledgers, roots=pins)))


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError as error:
        raise SteleError(
            f"{path} cannot be read: {error.strerror}", remedy="name a file that is there", code="trust.no-such-key"
        ) from error
