"""Timestamps of checkpoints by an RFC 3161 authority, beside the archived checkpoints (docs/spec/timestamps.md)."""

from __future__ import annotations

import logging
import secrets
import threading
from typing import TYPE_CHECKING

from stele.flow import cosigning, rooted
from stele.host import durable
from stele.host.http_post import HttpPosts
from stele.trust import root as roots
from stele.trust import timestamp, trust_keys
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.flow.places import Places

log = logging.getLogger(__name__)
TIMEOUT_S = 15.0


def stamp(places: Places) -> tuple[int, timestamp.Stamp] | None:
    """Have the newest published checkpoint stamped, unless it is; returns its size and the timestamp.

    Returns:
        None if nothing was published yet, or no authority was set.

    Raises:
        SteleError: `timestamp.unavailable` (retryable): no authority gave a timestamp that is believed; nothing was kept.
    """
    chosen = cosigning.settings(places)
    try:
        signed = (places.ledger / "checkpoint").read_bytes()
    except FileNotFoundError:
        return None
    if not chosen.authorities:
        return None
    trust = trust_keys.parse(places.trust.read_bytes())
    size = roots.open_checkpoint(signed, rooted.believed(trust, places.ledger)).size
    path = cosigning.stamp_path(places.ledger, size)
    message = timestamp.message_of(signed)
    if path.exists():
        return size, timestamp.verify(path.read_bytes(), message, trust.authorities)
    whys = []
    for url in chosen.authorities:
        try:
            token = ask(url, message, trust.authorities)
        except SteleError as error:
            whys.append(f"{url}: {error.reason}")
            continue
        durable.write(path, token)
        return size, timestamp.verify(token, message, trust.authorities)
    raise SteleError(
        f"no authority gave a timestamp for the checkpoint of size {size}: {'; '.join(whys)}",
        remedy="it is asked again; check the addresses and certificates with `stele log timestamps`",
        code="timestamp.unavailable",
        retryable=True,
    )


def ask(url: str, message: bytes, authorities: tuple[bytes, ...]) -> bytes:
    """An authority's answer over a message, verified.

    Raises:
        SteleError: `http.*`, `trust.bad-timestamp`.
    """
    nonce = secrets.randbits(64)
    with HttpPosts(url, timeout=TIMEOUT_S) as posts:
        answer = posts.post("", timestamp.request(message, nonce), timestamp.REQUEST_TYPE, timestamp.MAX_TOKEN)
    if answer.status != 200 or answer.content_type != timestamp.ANSWER_TYPE:
        raise timestamp.bad(f"the authority answered with HTTP status {answer.status} and {answer.content_type or 'no type'!r}")
    timestamp.verify(answer.body, message, authorities, nonce=nonce)
    return answer.body


class Stamper:
    """Stamps what was published, on a clock, in a thread of its own."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="timestamps", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        said = ""
        while not self._ended.wait(cosigning.settings(self._places).stamp_every_ms / 1000):
            try:
                stamp(self._places)
                said = ""
            except SteleError as error:
                if error.reason != said:  # once, not every minute
                    log.warning("%s", error.reason)
                said = error.reason
            except Exception:
                log.exception("the checkpoint could not be stamped")

    def close(self) -> None:
        """End; a request in the middle is not waited for."""
        self._ended.set()
