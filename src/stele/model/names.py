"""What paths and numbers in a tree may be (docs/spec/tree.md, Rules)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_COMPONENT = 255  # bytes, Linux NAME_MAX
MAX_PATH = 4095  # bytes, Linux PATH_MAX without its NUL
MAX_ID = 2**32 - 2  # the last value is "no id" for chown(2)
MAX_TIME = 2**33 - 1
MAX_SIZE = 2**63 - 1
MAX_XATTR = 65_536  # bytes of a value, Linux XATTR_SIZE_MAX


def name_fault(path: bytes) -> str:
    """What is wrong with a non-root path as such ("" if nothing): length, NUL, empty, '.' or '..' components."""
    if not doubtful((path,)):
        return ""
    if len(path) > MAX_PATH:
        return f"is longer than {MAX_PATH} bytes"
    if b"\0" in path:
        return "holds a NUL byte"
    for part in path.split(b"/"):
        if not part:
            return "has an empty component"
        if part in {b".", b".."}:
            return f"has a component {part.decode()!r}"
        if len(part) > MAX_COMPONENT:
            return f"has a component longer than {MAX_COMPONENT} bytes"
    return ""


def doubtful(paths: Sequence[bytes]) -> Sequence[bytes]:
    """Of non-root paths those in which `name_fault` may find something: mostly none, as one look at all of them tells."""
    whole = b"/" + b"/".join(paths) + b"/"
    if b"//" in whole or b"/./" in whole or b"/../" in whole or b"\0" in whole:
        return paths
    return [path for path in paths if len(path) > MAX_COMPONENT]


def above(path: bytes) -> list[bytes]:
    """The directories above a path, the root first."""
    parts = path.split(b"/")
    return [b"/".join(parts[:depth]) for depth in range(len(parts))] if path else []
