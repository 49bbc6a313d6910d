"""Publishing the ledger to object storage: what is to be there, what is, and that nobody turned it back (docs/spec/publishing.md)."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stele.flow import rooted
from stele.host import durable, s3
from stele.ledger import publication
from stele.ledger import source as sources
from stele.ledger.publication import ExistsError, Head
from stele.ledger.published import Published
from stele.trust import note as notes
from stele.trust import root as roots
from stele.trust import trust_keys
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stele.flow.places import Places

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9!_.*'()-]+(?:/[A-Za-z0-9!_.*'()-]+)*))?/?", re.ASCII)
_RETAIN = re.compile(r"([1-9][0-9]{0,4})([dy])", re.ASCII)
_DAY = 86400


class Options(NamedTuple):
    """How to publish. `retain`: `400d`, `7y`, or "" for the bucket's own rule; `mode`: `compliance` or `governance`."""

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    retain: str = ""
    mode: str = "governance"
    legal_hold: bool = False
    lock_partial: bool = False
    without_lock: bool = False
    again: bool = False
    workers: int = 8


class Address(NamedTuple):
    """A bucket, and what every key in it begins with ("" or ending in a slash)."""

    bucket: str
    prefix: str


def parse_address(text: str) -> Address:
    """Parse `s3://bucket/prefix`.

    Raises:
        SteleError: `s3.bad-address`.
    """
    found = _URL.fullmatch(text)
    if found is None or {".", ".."} & set((found[2] or "").split("/")):
        raise SteleError(
            f"{text[:200]!r} is not a place in object storage",
            remedy="write it like s3://bucket or s3://bucket/some/prefix, and where it is with --endpoint",
            code="s3.bad-address",
        )
    return Address(found[1], f"{found[2]}/" if found[2] else "")


def parse_retention(text: str) -> int:
    """Seconds of `30d` or `7y` (365 days each).

    Raises:
        SteleError: `publish.bad-retention`.
    """
    found = _RETAIN.fullmatch(text)
    days = int(found[1]) * (365 if found[2] == "y" else 1) if found else 0
    if not 1 <= days <= 36500:
        raise SteleError(
            f"{text[:50]!r} is not a time to retain objects for",
            remedy="write it like 90d or 7y, up to 100y",
            code="publish.bad-retention",
        )
    return days * _DAY


class _Target:
    """A place in a bucket as `publication.Target`."""

    def __init__(self, bucket: s3.Bucket, prefix: str, lock: s3.Retention) -> None:
        self._bucket, self._prefix, self._lock = bucket, prefix, lock

    def get(self, name: str) -> tuple[bytes, str] | None:
        """See `Target`."""
        return self._bucket.get(self._prefix + name, sources.limit_of(name))

    def put(self, name: str, data: bytes, *, locked: bool, replaces: str) -> None:
        """See `Target`."""
        kind, cache = sources.headers_of(name)
        try:
            lock = self._lock if locked else s3.Retention()
            self._bucket.put(self._prefix + name, data, kind=kind, cache=cache, lock=lock, replaces=replaces)
        except s3.ChangedError as error:
            raise ExistsError(name) from error

    def sizes(self) -> list[int]:
        """Of the checkpoints that are archived there, ascending."""
        begin = self._prefix + "checkpoints/"
        names = (key.removeprefix(self._prefix) for key in self._bucket.keys(begin))
        return sorted(int(name.removeprefix("checkpoints/")) for name in names if sources.is_public(name))


def publish(
    places: Places, where: str, options: Options, *, ledger: Path | None, trust: Path | None, say: Callable[[int], None]
) -> dict[str, Any]:
    """Copy what is new of the published ledger to a bucket.

    Raises:
        SteleError: `publish.*`, `s3.*`, `ledger.*`, `trust.*`. Nothing is published then that was not before; files may be there already.
    """
    begun = time.monotonic_ns()
    address = parse_address(where)
    lock = _lock(options)
    folder = ledger or places.ledger
    keys = rooted.believed(trust_keys.parse((trust or places.trust).read_bytes()), folder)
    with sources.source_of(folder) as source:
        signed = sources.checkpoint_of(source, str(folder))
        local = Published(source, roots.open_newest(signed, keys).checkpoint)
        bucket = s3.Bucket(
            address.bucket, endpoint=options.endpoint, region=options.region, profile=options.profile, connections=options.workers + 2
        )
        lock = _required_lock(bucket, lock, options)
        target = _Target(bucket, address.prefix, lock)
        memory = places.publications / (hashlib.sha256(f"{options.endpoint or ''} {where.rstrip('/')}".encode()).hexdigest()[:16] + ".note")
        remote = _head(target, "checkpoint", keys)
        _refuse_turned_back(local, signed, remote, target, keys, memory, again=options.again)
        begin = 0 if remote is None or options.again else remote.checkpoint.size
        done = publication.publish(
            local, signed, remote, target, begin=begin, workers=options.workers, lock_partial=options.lock_partial, say=say
        )
        if not options.without_lock:
            _require_locked(bucket, address.prefix + f"checkpoints/{done.size}")
    durable.make_dirs(memory.parent)
    durable.write(memory, signed)
    return {
        "to": where, "size": done.size, "before": remote.checkpoint.size if remote else 0, "put": done.put, "found": done.found,
        "bytes": done.bytes, "locked_until": lock.until, "mode": lock.mode.lower(), "took_ns": time.monotonic_ns() - begun,
    }  # fmt: skip


def _lock(options: Options) -> s3.Retention:
    until = int(time.time()) + parse_retention(options.retain) if options.retain else 0
    return s3.Retention(options.mode.upper() if options.retain else "", until, options.legal_hold)


def _required_lock(bucket: s3.Bucket, lock: s3.Retention, options: Options) -> s3.Retention:
    """What is uploaded must be protected, or somebody must have said that it need not be. The bucket's own rule is said aloud, too."""
    if options.without_lock:
        if lock.mode or lock.hold:
            raise SteleError("--without-lock and a lock exclude each other", remedy="leave one of them out", code="publish.bad-retention")
        return lock
    found = bucket.properties()
    lacks = [name for name, there in (("versioning", found.versioned), ("object lock", found.lockable)) if not there]
    if lacks:
        raise SteleError(
            f"the bucket {bucket.name} has no {' and no '.join(lacks)}: whoever has the credentials could remove what is published",
            remedy="make the bucket with object lock (it can only be set when it is made, or through the provider), or say --without-lock",
            code="publish.not-locked",
        )
    if found.default_mode and not lock.mode:
        lock = s3.Retention(found.default_mode, int(time.time()) + found.default_days * _DAY, lock.hold)
    if not (lock.mode or lock.hold):
        raise SteleError(
            f"nothing would be locked: no --retain was given, and the bucket {bucket.name} has no default retention",
            remedy="say for how long: --retain 7y, or until further notice: --legal-hold",
            code="publish.not-locked",
        )
    return lock


def _require_locked(bucket: s3.Bucket, key: str) -> None:
    held = bucket.lock_of(key)
    if not held.mode and not held.hold:
        raise SteleError(
            f"{key} was written, but the storage did not lock it",
            remedy="the storage takes the headers of object lock and does nothing: use another one, or say --without-lock",
            code="publish.not-locked",
        )


def _head(target: _Target, name: str, keys: Sequence[notes.Verifier] | roots.Root) -> Head | None:
    found = target.get(name)
    if found is None:
        return None
    return Head(f"the checkpoint in the bucket ({name})", found[0], _opened(found[0], keys), found[1])


def _opened(signed: bytes, keys: Sequence[notes.Verifier] | roots.Root) -> notes.Checkpoint:
    try:
        return roots.open_checkpoint(signed, keys)
    except SteleError as error:
        raise SteleError(
            f"what is published there is not this ledger: {error.reason}",
            remedy="nothing was uploaded; choose another prefix, or find out who wrote there",
            code="publish.foreign",
        ) from error


def _refuse_turned_back(
    local: Published,
    signed: bytes,
    remote: Head | None,
    target: _Target,
    keys: Sequence[notes.Verifier] | roots.Root,
    memory: Path,
    *,
    again: bool,
) -> None:
    """All that is known to have been published there must be of this ledger's past, and the head must not be older than it."""
    heads = [remote] if remote else []
    with contextlib.suppress(FileNotFoundError):
        last = memory.read_bytes()
        heads.append(Head("the checkpoint that was published from here last", last, _opened(last, keys)))
    # one may be there that is newer than the head: an upload that was cut off just before the end
    size = remote.checkpoint.size if remote else 0
    newer = [each for each in target.sizes() if each > size]
    heads += [head for each in newer if (head := _head(target, f"checkpoints/{each}", keys))]
    try:
        publication.refuse_split(local, heads)
    except SteleError:
        durable.make_dirs(memory.parent)
        for number, head in enumerate(heads):
            durable.write(memory.with_suffix(f".conflict-{number}"), head.note)
        durable.write(memory.with_suffix(".conflict-local"), signed)
        raise
    remembered = max((head.checkpoint.size for head in heads if head is not remote and not head.tag), default=0)
    if (remembered > size or (not remembered and len(newer) > 1)) and not again:
        raise SteleError(
            f"the bucket was turned back: its checkpoint is of {size} entries, but one of {max([remembered, *newer])} was published there",
            remedy="ALARM: see who changed it (the versions of the object `checkpoint` are kept); then publish all again with --again",
            code="publish.rolled-back",
        )
