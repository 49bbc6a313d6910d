"""npm's records: `node_modules/<name>/package.json` (npm: folders, package.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from stele.seal.packages.package import Package
from stele.seal.packages.records import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.seal.packages.records import Records

_MODULES = b"node_modules/"


class _Manifest(msgspec.Struct, frozen=True):
    """Of a package.json what matters here. Old ones have records in place of a licence's name."""

    name: str = ""
    version: str = ""
    license: Any = None
    licenses: Any = None


def find(records: Records) -> Iterator[Package]:
    """The packages in `node_modules` folders, wherever they lie; one inside another is its own."""
    owned: dict[bytes, list[bytes]] = {}
    for node in records.tree.nodes if records.is_in_a_path(_MODULES) else ():
        if node.kind != "dir" and _MODULES in node.path:
            folder = _folder(node.path)
            if folder:
                owned.setdefault(folder, []).append(node.path)
    for folder, paths in owned.items():
        database = folder + b"/package.json"
        manifest = _manifest(records.read(database))
        if manifest is not None:
            yield Package(
                ecosystem="npm",
                name=text(manifest.name.encode("utf-8", "replace")),
                version=text(manifest.version.encode("utf-8", "replace")),
                licence=text(_licence(manifest).encode("utf-8", "replace")),
                paths=tuple(paths),  # in the tree's order
                database=(database,),
            )


def _folder(path: bytes) -> bytes:
    """The folder of the innermost package that a path lies in; empty where it lies in none."""
    at = path.rfind(b"/" + _MODULES) + 1
    if at == 0 and not path.startswith(_MODULES):
        return b""
    at += len(_MODULES)
    parts = path[at:].split(b"/")
    scope = 2 if parts[0].startswith(b"@") else 1
    if parts[0].startswith(b".") or len(parts) <= scope:
        return b""
    return path[:at] + b"/".join(parts[:scope])


def _manifest(data: bytes) -> _Manifest | None:
    try:
        found = msgspec.json.decode(data, type=_Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.name and found.version else None


def _licence(manifest: _Manifest) -> str:
    for value in (manifest.license, *(manifest.licenses if isinstance(manifest.licenses, list) else [manifest.licenses])):
        name = value.get("type") if isinstance(value, dict) else value
        if isinstance(name, str) and name:
            return name
    return ""
