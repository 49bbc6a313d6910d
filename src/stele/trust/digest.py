"""SHA-256 digests in OCI's spelling, `sha256:<64 lowercase hex>` (OCI image-spec, descriptor)."""

from __future__ import annotations

import hashlib
import re

from stele.trust.errors import SteleError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z", re.ASCII)


def sha256(data: bytes) -> str:
    """Digest of `data` as `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse_digest(text: str) -> str:
    """Return `text` if it is a digest in the one accepted spelling.

    Raises:
        SteleError: `trust.bad-digest`.
    """
    if not _DIGEST.match(text):
        raise SteleError(
            f"{text[:80]!r} is not a digest of the form sha256:<64 lowercase hex digits>",
            remedy="give the full digest, as `stele releases` prints it",
            code="trust.bad-digest",
        )
    return text


def digest_hex(digest: str) -> str:
    """The 64 hex digits of a digest (raises like `parse_digest`)."""
    return parse_digest(digest)[7:]
