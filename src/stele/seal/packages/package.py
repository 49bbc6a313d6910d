"""The noun of this room."""

from __future__ import annotations

from typing import Literal

import msgspec

Ecosystem = Literal["deb", "apk", "rpm", "python", "npm"]


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One installed package.

    `licence`: as the package says it. `source`: the source package, with its version where that is known. `paths`:
    what it owns of the tree (files and symlinks, no directories), sorted. `database`: by what its manager knows it.
    """

    ecosystem: Ecosystem
    name: str
    version: str
    architecture: str = ""
    licence: str = ""
    source: str = ""
    paths: tuple[bytes, ...]
    database: tuple[bytes, ...] = ()
