"""Whom this data folder's ledger asks for cosignatures and timestamps, and how it stands with them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from stele.flow import log_view, rooted
from stele.host import durable
from stele.ledger.reader import archived
from stele.model.event import HOST_WORKLOAD
from stele.model.selection import Selection
from stele.trust import canonical, note, quorum, trust_keys
from stele.trust import root as roots
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stele.flow.places import Places
    from stele.trust import timestamp
    from stele.trust.trust_keys import Trust
    from stele.witness.collect import Collector

FORMAT = "stele-cosigning v0"
BEHIND = "witness.behind"
SHOWN = 2000  # checkpoints that are looked at for how it stands


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`block`: without the quorum nothing is published. `timeout_ms`: how long publishing waits for it.

    `authorities`: addresses of timestamp authorities, asked in this order. `stamp_every_ms`: between two timestamps.
    """

    format: str = FORMAT
    block: bool = False
    timeout_ms: int = 5000
    authorities: tuple[str, ...] = ()
    stamp_every_ms: int = 60_000


def settings(places: Places) -> Settings:
    """What was set, or what counts where nothing was.

    Raises:
        SteleError: `witness.bad-settings`, `trust.not-canonical`.
    """
    try:
        raw = canonical.decode((places.cosigning / "settings.json").read_bytes())
        found = msgspec.convert(raw, Settings)
    except FileNotFoundError:
        return Settings()
    except msgspec.ValidationError as error:
        raise _bad(str(error)) from error
    _check(found)
    return found


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"the settings of witnesses and timestamps cannot be used: {reason}",
        remedy="set them again with `stele log witnesses set` and `stele log timestamps set`; waiting is 0.1 s to 10 min",
        code="witness.bad-settings",
    )


def policy(places: Places) -> quorum.Policy:
    """The policy that was set; that of nobody where none was.

    Raises:
        SteleError: `witness.bad-policy`.
    """
    with contextlib.suppress(FileNotFoundError):
        return quorum.parse((places.cosigning / "policy").read_bytes())
    return quorum.NOBODY


def collector(places: Places, ledgers: Sequence[note.Verifier], believed: Callable[[bytes], note.Checkpoint]) -> Collector | None:
    """The collector of cosignatures for this ledger; None if nobody is asked. `believed`: what a note says that the ledger's key signed.

    Raises:
        SteleError: `witness.bad-policy`, `witness.bad-settings`, `http.bad-address`.
    """
    found = policy(places)
    if not found.witnesses:
        return None
    from stele.witness.collect import Collector  # with HTTP, which those who only look at how it stands do not need

    chosen = settings(places)
    cosigned = _cosigned(places, found)
    return Collector(found, ledgers, block=chosen.block, timeout=chosen.timeout_ms / 1000, cosigned=cosigned, believed=believed)


def _cosigned(places: Places, asked: quorum.Policy) -> dict[note.Verifier, int]:
    """The largest size of which the archive has a cosignature that holds, by each key: none of them may ever know less."""
    found: dict[note.Verifier, int] = {}
    for size, path in reversed(archived(places.ledger)[-SHOWN:]):
        sought = {(key.name, key.key_id): key for key in asked.verifiers if key not in found}
        if not sought:
            break
        with contextlib.suppress(OSError, SteleError):  # a damaged archive is for whoever opens the ledger to find
            text, lines = note.split_note(path.read_bytes())
            for name, identity, signature in lines:
                key = sought.get((name, identity))
                if key is not None and key.verify(text, signature):
                    found[key] = size
    return found


def set_witnesses(places: Places, data: bytes, *, block: bool, timeout_ms: int) -> quorum.Policy:
    """Set the policy; it counts from the next opening of the ledger on. `trust.keys` gets its keys and quorum.

    Raises:
        SteleError: `witness.bad-policy`, `witness.bad-settings`, `http.bad-address`.
    """
    found = quorum.parse(data)
    trust = _trust(places)
    names = {key.name for key in trust.ledgers} | {pin.origin for pin in trust.roots}
    if found.logs and not {log.verifier.name for log in found.logs} & names:
        raise quorum.bad("its log lines do not name this ledger")
    if found.witnesses:
        from stele.witness.collect import Collector

        Collector(found, trust.ledgers, block=block, timeout=1.0).close()  # refuses what cannot be asked
    _set(places, block=block, timeout_ms=timeout_ms)
    durable.write(places.cosigning / "policy", data)
    kept = found._replace(logs=()) if found.witnesses else quorum.NOBODY
    durable.write(places.trust, trust_keys.encode(trust._replace(policy=kept)))
    return found


def set_timestamps(places: Places, urls: Sequence[str], certificates: Sequence[bytes], *, every_ms: int) -> None:
    """Set the authorities that are asked, and the certificates by which they are believed. `trust.keys` gets these.

    Raises:
        SteleError: `trust.bad-key`, `witness.bad-settings`, `http.bad-address`.
    """
    from stele.host.http_post import HttpPosts

    for url in urls:
        HttpPosts(url, timeout=1.0).close()
    ders = tuple(dict.fromkeys(der for data in certificates for der in _certificates(data)))
    if bool(urls) != bool(ders):
        raise _bad("an authority needs a certificate by which it is believed")
    _set(places, authorities=tuple(urls), stamp_every_ms=every_ms)
    durable.write(places.trust, trust_keys.encode(_trust(places)._replace(authorities=ders)))


def _certificates(data: bytes) -> list[bytes]:
    """Certificates of a PEM or DER file."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        found = x509.load_pem_x509_certificates(data) if b"-----BEGIN" in data else [x509.load_der_x509_certificate(data)]
        return [trust_keys.certificate(each.public_bytes(Encoding.DER)) for each in found]
    except ValueError as error:
        raise SteleError(
            "a timestamp authority's certificate cannot be read",
            remedy="give X.509 in PEM or DER, as its operator publishes it",
            code="trust.bad-key",
        ) from error


def _trust(places: Places) -> Trust:
    return trust_keys.parse(places.trust.read_bytes())


def _set(places: Places, **changes: Any) -> None:
    chosen = msgspec.structs.replace(settings(places), **changes)
    _check(chosen)
    durable.make_dirs(places.cosigning)
    durable.write(places.cosigning / "settings.json", canonical.encode(msgspec.to_builtins(chosen)))


def _check(chosen: Settings) -> None:
    if chosen.format != FORMAT or not 100 <= chosen.timeout_ms <= 600_000 or not 1000 <= chosen.stamp_every_ms <= 86_400_000:
        raise _bad("another format, or a time out of bounds")


# ---- how it stands -------------------------------------------------------------------------------


def standing(places: Places) -> dict[str, Any]:
    """Published and witnessed size, and the last checkpoint of each witness and authority, from the ledger's folder alone.

    Raises:
        SteleError: `ledger.none`; `trust.*`: the checkpoint is not what it should be.
    """
    trust, chosen, asked = _trust(places), settings(places), policy(places)
    believed = rooted.believed(trust, places.ledger)
    newest: dict[note.Verifier, tuple[int, int]] = {}
    published = witnessed = 0
    heads = archived(places.ledger)[-SHOWN:]
    for size, path in reversed(heads):
        opened = roots.open_past(path.read_bytes(), believed, asked.verifiers)
        published = published or size
        for each in opened.signatures:
            newest.setdefault(each.verifier, (size, each.seconds or 0))
        if not witnessed and asked.witnesses and asked.met([each.verifier for each in opened.signatures]):
            witnessed = size
        if witnessed and all(key in newest for key in asked.verifiers):
            break
    witnesses = [
        {"name": w.name, "url": w.url, "size": newest.get(w.verifier, (0, 0))[0], "seconds": newest.get(w.verifier, (0, 0))[1]}
        for w in asked.witnesses
    ]
    return {
        "published": published, "witnessed": witnessed, "block": chosen.block, "timeout_ms": chosen.timeout_ms, "quorum": asked.quorum,
        "witnesses": witnesses, "behind": _behind(places, asked),
        "authorities": list(chosen.authorities), "timestamp": _newest_stamp(places, heads, trust),
    }  # fmt: skip


def _behind(places: Places, asked: quorum.Policy) -> list[dict[str, Any]]:
    """The last entry about each witness of the policy that named fewer entries than it had cosigned."""
    if not asked.witnesses or not places.ledger.joinpath("checkpoint").exists():
        return []
    names = {witness.verifier.name for witness in asked.witnesses}
    found: dict[str, dict[str, Any]] = {}
    with log_view.open_view(places) as view:
        for at, entry in view.entries(Selection(kinds=frozenset({BEHIND}), workloads=(HOST_WORKLOAD,))):
            if entry.event.data.get("witness") in names:
                found[str(entry.event.data["witness"])] = {**entry.event.data, "entry": at, "time_ns": entry.event.time_ns}
    return list(found.values())


def _newest_stamp(places: Places, heads: Sequence[tuple[int, Path]], trust: Trust) -> dict[str, Any] | None:
    for size, path in reversed(heads):
        with contextlib.suppress(FileNotFoundError):
            token = stamp_path(places.ledger, size).read_bytes()
            from stele.trust import timestamp  # most ledgers have none

            return {"size": size, **plain_stamp(timestamp.verify(token, timestamp.message_of(path.read_bytes()), trust.authorities))}
    return None


def plain_stamp(stamp: timestamp.Stamp) -> dict[str, Any]:
    """A timestamp as plain data."""
    return {"time_ns": stamp.time_ns, "accuracy_ns": stamp.accuracy_ns, "authority": stamp.authority, "policy": stamp.policy}


def stamp_path(ledger: Path, size: int) -> Path:
    """Where the timestamp of an archived checkpoint lies."""
    return ledger / "checkpoints" / f"{size}.tsr"
