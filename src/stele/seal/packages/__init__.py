"""Packages: which package owns which path of a tree (docs/spec/packages.md).

Each package manager is one module with one `find`, which reads that manager's own records in the tree. The records are
untrusted: what they cannot say rightly is left out, and nothing that they say reaches beyond the tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.seal.packages import apk, dpkg, npm, python, rpm
from stele.seal.packages.package import Ecosystem, Package
from stele.seal.packages.records import Records

if TYPE_CHECKING:
    from stele.model.ports import ContentReader
    from stele.model.tree import Tree

__all__ = ["Ecosystem", "Package", "find"]
_READERS = (dpkg.find, apk.find, rpm.find, python.find, npm.find)


def find(tree: Tree, contents: ContentReader) -> tuple[Package, ...]:
    """All packages that the tree's package managers know of, sorted by ecosystem, name, version and paths.

    A path may be named by several packages (Debian's Python packages are known to dpkg and to Python).

    Raises:
        SteleError: those of `contents`.
    """
    records = Records(tree, contents)
    found = [package for reader in _READERS for package in reader(records)]
    return tuple(sorted(found, key=lambda package: (package.ecosystem, package.name, package.version, package.database, package.paths)))
