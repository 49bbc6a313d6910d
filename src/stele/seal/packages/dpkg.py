"""dpkg's records (deb822 `status`, `info/*.list`, `diversions`; dpkg(1), dpkg-query(1)); distroless keeps `status.d`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.seal.packages.package import Package
from stele.seal.packages.records import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.seal.packages.records import Records

ADMIN = b"var/lib/dpkg"
_WANTED = {b"package", b"version", b"architecture", b"status", b"source", b"multi-arch"}


def find(records: Records) -> Iterator[Package]:
    """The packages that dpkg has installed."""
    paragraphs = [(fields, b"") for fields in _paragraphs(records.read(ADMIN + b"/status"))]
    for node in records.tree.below(ADMIN + b"/status.d"):
        if not node.path.endswith(b".md5sums"):
            paragraphs += [(fields, node.path) for fields in _paragraphs(records.read(node.path))]
    if not paragraphs:
        return
    diverted = _diversions(records.read(ADMIN + b"/diversions"))
    info: dict[bytes, list[bytes]] = {}
    for node in records.tree.below(ADMIN + b"/info"):
        info.setdefault(node.path[len(ADMIN) + 6 :].rpartition(b".")[0], []).append(node.path)
    for fields, alone in paragraphs:
        name, version = fields.get(b"package", b""), fields.get(b"version", b"")
        if not name or b"/" in name or not (alone or fields.get(b"status", b"").endswith(b" installed")):
            continue
        qualified = name + b":" + fields.get(b"architecture", b"")
        stem = qualified if qualified in info else name
        if alone:
            database = tuple(path for path in (alone, alone + b".md5sums") if records.node(path))
            listed = [line[34:] for line in records.read(alone + b".md5sums").split(b"\n")]
        else:
            database = tuple(sorted(info.get(stem, ())))
            listed = _relative(records.read(ADMIN + b"/info/" + stem + b".list"))
        moved = {diverted[line][1] if line in diverted and diverted[line][0] != name else line for line in listed}
        above = {line.rpartition(b"/")[0] for line in moved}  # a directory to dpkg may be a symlink here (usrmerge)
        source, _, source_version = fields.get(b"source", name).partition(b" ")
        yield Package(
            ecosystem="deb",
            name=text(name),
            version=text(version),
            architecture=text(fields.get(b"architecture", b"")),
            source=f"{text(source)} {text(source_version.strip(b'() ') or version)}",
            paths=records.owned(moved - above),
            database=database,
        )


def _paragraphs(data: bytes) -> Iterator[dict[bytes, bytes]]:
    """The paragraphs of a deb822 file: wanted fields, lower-case names; continuation lines are dropped."""
    for paragraph in data.split(b"\n\n"):
        fields = {}
        for line in paragraph.split(b"\n"):
            if line[:1] in {b" ", b"\t"}:
                continue
            key, colon, value = line.partition(b":")
            if colon and (lower := key.lower()) in _WANTED:
                fields[lower] = value.strip()
        if fields:
            yield fields


def _relative(data: bytes) -> list[bytes]:
    """Lines, without the slash that an absolute path begins with."""
    return (b"\n" + data).replace(b"\n/", b"\n")[1:].split(b"\n")


def _diversions(data: bytes) -> dict[bytes, tuple[bytes, bytes]]:
    """Diverted path → (the package that keeps it, where everybody else's file lies)."""
    lines = _relative(data)
    return {path: (by, to) for path, to, by in zip(lines[0::3], lines[1::3], lines[2::3], strict=False)}
