"""What witnesses say they cosigned last, beside what they are known to have cosigned: none may ever know less (docs/spec/monitor.md).

For whoever follows a ledger from outside. Everything is believed by signatures alone, and kept before anybody is told.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from stele.host import durable
from stele.host.http_files import HttpFiles
from stele.trust import note, witnessing
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stele.trust.quorum import Witness

log = logging.getLogger(__name__)
ASKED_S = 10.0  # for how long a witness that is asked may say nothing


class Found(NamedTuple):
    """A witness that named fewer entries than it had cosigned, or cosigned two roots. `notes`: what it signed before, what it says now."""

    reason: str
    notes: tuple[bytes, ...]


class Heads:
    """The largest checkpoint that carries each witness's cosignature, in a folder of its own. For one thread."""

    def __init__(self, folder: Path, witnesses: Sequence[Witness], believed: Callable[[bytes], object]) -> None:
        """Nothing is asked yet.

        Args:
            folder: where the notes are kept; made when there is one.
            witnesses: whose keys count; those with a URL are asked.
            believed: raises `SteleError` for a note that the ledger did not sign.

        Raises:
            SteleError: `http.bad-address`.
        """
        self._folder, self._witnesses, self._believed = folder, witnesses, believed
        self._services = {url: HttpFiles(url, tries=1, stall=ASKED_S) for url in dict.fromkeys(w.url for w in witnesses if w.url)}
        self._said: dict[str, str] = {}

    def close(self) -> None:
        """Close the connections."""
        for service in self._services.values():
            service.close()

    def look(self, shown: bytes) -> list[Found]:
        """Take in the ledger's checkpoint, then what each witness that has an address says. What cannot be asked is logged."""
        keys = [witness.verifier for witness in self._witnesses]
        found = self._take(shown, keys, "the ledger's checkpoint", replayed=True)
        name = witnessing.origin_hash(note.unverified(shown).origin)
        for url, service in self._services.items():
            try:
                head = service.get(f"{name}/checkpoint", note.MAX_NOTE)
                if head is not None:  # not every witness says what it signed last
                    self._believed(head)
                    mine = [witness.verifier for witness in self._witnesses if witness.url == url]
                    found += self._take(head, mine, f"the witness {url}", replayed=False)
                self._said.pop(url, None)
            except SteleError as error:
                if self._said.get(url) != error.reason:
                    log.warning("the witness %s could not be asked what it signed last: %s", url, error.reason)
                self._said[url] = error.reason
        return found

    def _take(self, shown: bytes, keys: Sequence[note.Verifier], who: str, *, replayed: bool) -> list[Found]:
        """Compare a note with what is kept for each key that cosigned it; keep it if it is larger.

        `replayed`: it may be an old one, which proves nothing of the witness unless it was cosigned after the larger one.
        """
        text, lines = note.split_note(shown)
        now = note.parse_body(text)
        known = {(key.name, key.key_id): key for key in keys}
        found: dict[tuple[str, int], Found] = {}
        for name, identity, signature in lines:
            key = known.get((name, identity))
            if key is None or not key.verify(text, signature):
                continue
            before, then, at = self._kept(key)
            seconds = int.from_bytes(signature[:8])
            if then is None or (now.size > then.size):
                durable.make_dirs(self._folder)
                durable.write(self._path(key), shown)
            elif now.size == then.size and now.root != then.root:
                found[name, now.size] = Found(f"{name} cosigned two roots of size {now.size}", (before, shown))
            elif now.size < then.size and (seconds > at or not replayed):
                proof = f", and signed that at {seconds}, later than the other at {at}" if seconds > at else ""
                said = f"{who} shows {now.size} entries cosigned by {name}, which had cosigned {then.size}{proof}"
                found[name, now.size] = Found(f"{said}: it was set back, or lies", (before, shown))
        return list(found.values())

    def _path(self, key: note.Verifier) -> Path:
        return self._folder / sha256(key.encode().encode())[7:39]

    def _kept(self, key: note.Verifier) -> tuple[bytes, note.Checkpoint | None, int]:
        """The note that is kept for a key, what it says, and when the key signed it; nothing if there is none that holds."""
        try:
            raw = self._path(key).read_bytes()
            text, lines = note.split_note(raw)
            for name, identity, signature in lines:
                if (name, identity) == (key.name, key.key_id) and key.verify(text, signature):
                    return raw, note.parse_body(text), int.from_bytes(signature[:8])
        except FileNotFoundError:
            return b"", None, 0
        except SteleError:
            pass
        log.warning("%s was altered, and is not used", self._path(key))
        return b"", None, 0
