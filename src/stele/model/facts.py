"""Facts: what of a workload's state the ledger commits to in its epoch map (docs/spec/epoch-map.md). Pure.

They are the part of the state (`stele.model.history`) that says what ran; it stays small however long the history is.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from stele.model import history
from stele.model.history import Live, WorkloadState
from stele.trust import canonical
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.model.event import Event

# kinds of events that change facts: all others leave them as they are (a test compares this with `history`)
KINDS = frozenset(
    {
        "instance.starting", "instance.active", "instance.stopped", "instance.failed", "instance.frozen", "quarantine.released",
        "deploy.confirmed",
    }
)  # fmt: skip


def started(event: Event) -> str:
    """The release that an event starts (log before run), or "". The epoch map remembers every one that ever was."""
    release = event.data.get("release", "") if event.kind == "instance.starting" else ""
    return release if isinstance(release, str) else ""


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """What serves, runs and is frozen, as in `WorkloadState`; `good`: the release that was confirmed last, or ""."""

    active_release: str = ""
    active_instance: str = ""
    active_since_ns: int = 0
    running: dict[str, Live] = {}
    frozen: dict[str, Live] = {}
    good: str = ""

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        plain = msgspec.to_builtins(self)
        assert isinstance(plain, dict)
        return plain

    @cached_property
    def encoded(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self.plain())

    @cached_property
    def digest(self) -> str:
        """`sha256:<hex>` of the canonical JSON."""
        return sha256(self.encoded)

    def after(self, event: Event) -> Facts:
        """The facts after one more event of the workload."""
        if event.kind not in KINDS:
            return self
        return of(history.advance(self.state(""), event))

    def state(self, workload: str) -> WorkloadState:
        """As a state that knows no more than these."""
        return WorkloadState(
            workload=workload,
            active_release=self.active_release,
            active_instance=self.active_instance,
            active_since_ns=self.active_since_ns,
            running=self.running,
            frozen=self.frozen,
            good=(self.good,) if self.good else (),
        )


NONE = Facts()
_DECODER = msgspec.json.Decoder(Facts)


def of(state: WorkloadState) -> Facts:
    """The facts of a state."""
    return Facts(
        active_release=state.active_release,
        active_instance=state.active_instance,
        active_since_ns=state.active_since_ns,
        running=dict(state.running),
        frozen=dict(state.frozen),
        good=state.good[-1] if state.good else "",
    )


def from_bytes(encoded: bytes) -> Facts:
    """Facts of their canonical JSON. That it is canonical, the caller sees by the digest.

    Raises:
        msgspec.DecodeError: it is something else.
    """
    found = _DECODER.decode(encoded)
    found.__dict__.update(encoded=encoded, digest=sha256(encoded))
    return found


def from_plain(raw: Any) -> Facts:
    """Facts of plain data.

    Raises:
        SteleError: `ledger.bad-entry`.
    """
    try:
        return msgspec.convert(raw, Facts)
    except msgspec.ValidationError as error:
        raise SteleError(
            f"the facts of a workload are malformed: {error}",
            remedy="the ledger or proof is damaged; compare with another copy",
            code="ledger.bad-entry",
        ) from error
