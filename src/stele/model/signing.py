"""What events say of signatures and keys (docs/spec/event.md): whose signature of which release an entry records. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.model.event import HOST_WORKLOAD

if TYPE_CHECKING:
    from stele.model.event import Event

RECORDING_KINDS = ("release.sealed", "release.signed", "release.pulled", "release.admitted")
ROOT_KIND = "trust.root"
KEY_KINDS = ("key.added", "key.rotated", "key.revoked", "key.required")


def root_document(event: Event) -> bytes | None:
    """The root document that an event records (docs/spec/root.md); None where it records none."""
    document = event.data.get("document") if (event.workload, event.kind) == (HOST_WORKLOAD, ROOT_KIND) else None
    return document.encode("utf-8", "surrogatepass") if isinstance(document, str) else None


def signed_keys(event: Event, workload: str, release: str, first_key: str) -> tuple[str, ...]:
    """Ids of the keys whose signatures of `release` this event records.

    Events without `keys` are of version 0.1, which knew one key: they stand for `first_key`.
    """
    if event.kind not in RECORDING_KINDS or event.workload != workload or event.data.get("release") != release:
        return ()
    keys = event.data.get("keys")
    if keys is None:
        return (first_key,) if first_key else ()
    return tuple(key for key in keys if isinstance(key, str)) if isinstance(keys, list) else ()
