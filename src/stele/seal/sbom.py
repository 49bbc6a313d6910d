"""The software bill of materials: CycloneDX 1.6 JSON, a function of tree and spec alone (docs/spec/sbom.md).

Written directly, not by cyclonedx-python-lib: that takes a fifth of a second a seal, and its next version other bytes. It judges
what is written here in the tests, and turns it into other forms for those who ask (ADR 56).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from stele.model.release import rfc3339
from stele.seal import bom_identity, licences
from stele.seal.packages.records import Records, text
from stele.trust import canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.ports import ContentReader
    from stele.model.spec import Spec
    from stele.model.tree import Node, Tree
    from stele.seal.packages import Package

MAX_FILES = 500  # programs without a package that are listed; the rest is counted
ROOT = "workload"
_RELEASE_LINE = re.compile(
    rb"^(ID|VERSION_ID|NAME)=(?:\"([^\"\\$`\n]{0,100})\"|'([^'\n]{0,100})'|([A-Za-z0-9._-]{0,100}))\s*$", re.MULTILINE
)
_SAFE = re.compile(r"[a-z0-9._-]+\Z", re.ASCII)


class System(msgspec.Struct, frozen=True):
    """What os-release says: `ID`, `VERSION_ID` and `NAME`; empty where it does not."""

    id: str
    version: str
    name: str

    @property
    def distro(self) -> str:
        """As purls have it, `debian-12`."""
        return f"{self.id}-{self.version}" if self.version else self.id


def build(tree: Tree, contents: ContentReader, spec: Spec, packages: Sequence[Package], tree_digest: str) -> bytes:
    """The SBOM of a tree, canonical JSON.

    Args:
        tree: the whole tree.
        contents: the bytes of its files; os-release and copyright files are read.
        spec: the workload's.
        packages: what the tree's package managers know of, sorted.
        tree_digest: `sha256:<hex>`, of the tree.

    Raises:
        SteleError: those of `contents`.
    """
    records = Records(tree, contents)
    system = _system(records)
    refs: Counter[str] = Counter()
    components = [_operating_system(system)] if system.id else []
    components += [_package(package, records, system, refs) for package in packages]
    owned = {path for package in packages for path in (*package.paths, *package.database)}
    programs = [node for node in tree.nodes if node.kind == "file" and node.path not in owned]
    others = len(programs)
    programs = [node for node in programs if node.mode & 0o111 and node.link is None]
    components += [_file(node, refs) for node in programs[:MAX_FILES]]
    return canonical.encode(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": bom_identity.serial(spec, tree_digest),
            "version": 1,
            "metadata": {
                "timestamp": rfc3339(spec.time),
                "tools": {"components": [{"type": "application", "name": "stele"}]},
                "component": {
                    "type": "container",
                    "bom-ref": ROOT,
                    "name": spec.name,
                    "version": tree_digest,
                    "hashes": [{"alg": "SHA-256", "content": tree_digest.removeprefix("sha256:")}],
                    "properties": [
                        {"name": "dev.stele:files-without-package", "value": str(others)},
                        {"name": "dev.stele:programs-without-package", "value": str(len(programs))},
                    ],
                },
            },
            "components": components,
            "dependencies": [{"ref": ROOT, "dependsOn": [item["bom-ref"] for item in components]}],
        }
    )


def _system(records: Records) -> System:
    for path in (b"etc/os-release", b"usr/lib/os-release"):
        real = records.resolve(path)
        data = records.read(real)[:65_536] if real is not None else b""
        if data:
            found = {key: text(a or b or c) for key, a, b, c in _RELEASE_LINE.findall(data)}
            name = found.get(b"ID", "")
            return System(name if _SAFE.match(name) else "", found.get(b"VERSION_ID", ""), found.get(b"NAME", name))
    return System("", "", "")


def _operating_system(system: System) -> dict[str, Any]:
    version = {"version": system.version} if system.version else {}
    return {"type": "operating-system", "bom-ref": "os", "name": system.id, "description": system.name, **version}


def _package(package: Package, records: Records, system: System, refs: Counter[str]) -> dict[str, Any]:
    facts = {"files": str(len(package.paths)), "source": package.source}
    if package.ecosystem in {"python", "npm"} and package.database:
        facts["path"] = "/" + package.database[0].decode("utf-8", "backslashreplace")
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _ref(f"{package.ecosystem}:{package.name}@{package.version}", refs),
        "name": package.name,
        "version": package.version,
        "purl": purl(package, system),
        "properties": [{"name": f"dev.stele:{key}", "value": value} for key, value in facts.items() if value],
    }
    if package.ecosystem == "npm" and package.name.startswith("@") and "/" in package.name:
        component["group"], component["name"] = package.name.split("/", 1)
    names = _copyright(package, records) if package.ecosystem == "deb" else (package.licence,)
    found = licences.choices(names)
    if found:
        component["licenses"] = found
    return component


def _copyright(package: Package, records: Records) -> tuple[str, ...]:
    """The licences of a Debian package, whose folder of documents may be a symlink to that of another."""
    path: bytes | None = b"usr/share/doc/" + package.name.encode() + b"/copyright"
    for _ in range(3):
        path = records.resolve(path) if path else None
        node = records.node(path) if path else None
        if node is None or node.kind != "symlink" or path is None:
            break
        above = path.rpartition(b"/")[0]
        path = node.target if node.target.startswith(b"/") else _joined(above, node.target)
    return licences.of_copyright(records.read(path)) if path else ()


def _joined(folder: bytes, target: bytes) -> bytes:
    parts = folder.split(b"/")
    for part in target.split(b"/"):
        if part == b"..":
            parts = parts[:-1]
        elif part not in {b"", b"."}:
            parts.append(part)
    return b"/".join(parts)


def _file(node: Node, refs: Counter[str]) -> dict[str, Any]:
    name = "/" + node.path.decode("utf-8", "backslashreplace")
    return {
        "type": "file",
        "bom-ref": _ref(f"file:{name}", refs),
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": node.sha256}],
    }


def _ref(name: str, refs: Counter[str]) -> str:
    """A reference that no other component has."""
    refs[name] += 1
    return name if refs[name] == 1 else f"{name}#{refs[name]}"


def purl(package: Package, system: System) -> str:
    """The package URL (purl-spec): where vulnerability databases look it up."""
    source, _, source_version = package.source.partition(" ")
    version, qualifiers = package.version, {}
    if package.ecosystem in {"deb", "apk", "rpm"}:
        if package.architecture:
            qualifiers["arch"] = package.architecture
        if system.id:
            qualifiers["distro"] = system.distro
        if package.ecosystem == "rpm":
            epoch, colon, rest = version.partition(":")
            if colon:
                version, qualifiers["epoch"] = rest, epoch
        other = package.ecosystem == "deb" and bool(source_version) and source_version != package.version
        if source and (source != package.name or other):
            qualifiers["upstream"] = f"{source}@{source_version}" if other else source
    kind, name = {"python": "pypi"}.get(package.ecosystem, package.ecosystem), package.name
    namespace = ""
    if package.ecosystem in {"deb", "apk", "rpm"}:
        namespace = {"apk": "alpine", "deb": "debian"}.get(package.ecosystem, "") if not system.id else system.id
        if package.ecosystem == "rpm":  # by vendor, as vulnerability databases have it
            namespace = "opensuse" if namespace.startswith("opensuse") else {"rhel": "redhat"}.get(namespace, namespace)
        name = name.lower() if package.ecosystem in {"deb", "apk"} else name
    elif package.ecosystem == "npm":
        name = name.lower()
        if "/" in name:
            namespace, name = name.split("/", 1)
    parts = [part for part in (namespace, name) if part]
    tail = "&".join(f"{key}={_escape(value)}" for key, value in sorted(qualifiers.items()))
    return f"pkg:{kind}/{'/'.join(map(_escape, parts))}@{_escape(version)}" + (f"?{tail}" if tail else "")


def _escape(part: str) -> str:
    return quote(part, safe=":")
