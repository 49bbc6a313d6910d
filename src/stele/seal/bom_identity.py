"""What an SBOM is called: its predicate type, and the serial number that follows from what it is of (docs/spec/sbom.md). Pure."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stele.model.spec import Spec

PREDICATE_TYPE = "https://cyclonedx.org/bom"
NAMESPACE = uuid.UUID("a4e7d1f2-6c0b-5b7e-9d3c-51e1e0b0c0de")  # of serial numbers; made up once


def serial(spec: Spec, tree_digest: str) -> str:
    """The serial number of the SBOM of a tree, a URN."""
    return f"urn:uuid:{uuid.uuid5(NAMESPACE, f'{spec.name} {spec.time} {tree_digest}')}"


def renamed(bom: bytes, spec: Spec, old: str, new: str) -> bytes:
    """The SBOM of the tree `new`, from that of the tree `old` that differs from it in nothing that an SBOM tells.

    It names its tree by digest, and itself by a number that follows from that; neither can stand there by chance.
    """
    for text, other in ((serial(spec, old), serial(spec, new)), (old.removeprefix("sha256:"), new.removeprefix("sha256:"))):
        bom = bom.replace(text.encode(), other.encode())
    return bom
