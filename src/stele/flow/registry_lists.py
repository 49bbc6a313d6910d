"""Lists and manifests that whoever may write to a repository may have written: only what is a descriptor is taken of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stele.host.http_registry import bad_answer
from stele.store import index as indexes
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.model.release import Descriptor
    from stele.store.index import Plain


def foreign(data: bytes) -> Plain:
    """A list by whoever may write to the repository, to be added to: its entries that are descriptors."""
    try:
        plain = indexes.decode(data, "a list")
    except SteleError as error:
        raise bad_answer("a tag that lists what refers to the release holds something else") from error
    return {key: [item for item in plain.get(key, []) if is_descriptor(item)] for key in ("manifests", "layers")}


def is_descriptor(raw: Any) -> bool:
    """Whether something is a descriptor."""
    try:
        indexes.descriptor(raw)
    except SteleError:
        return False
    return True


def parts(manifest: bytes, what: str) -> list[Descriptor]:
    """Config and layers of a manifest. Raises `store.damaged`; `what`: its name in that."""
    plain = indexes.decode(manifest, what)
    return [indexes.descriptor(item) for item in [plain.get("config"), *plain.get("layers", [])]]
