"""Random trees with contents, and a sink in memory: for tests of `seal` and `store`."""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from stele.model.tree import Node, Tree
from stele.trust.digest import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.model.release import Publication

TIME = 315_532_800
NET_BIND = (0x0200_0001).to_bytes(4, "little") + (1 << 10).to_bytes(4, "little") + bytes(12)  # cap_net_bind_service+ep


def with_folders(nodes: dict[bytes, Node]) -> list[Node]:
    """These, the root, and every directory above them."""
    above = {b"/".join(parts[:end]) for path in nodes for parts in (path.split(b"/"),) for end in range(1, len(parts))}
    return [*nodes.values(), *(folder(path) for path in (above | {b""}) - nodes.keys())]


class Held:
    """Contents in memory; a ContentReader."""

    def __init__(self, *contents: bytes) -> None:
        self.data = {hashlib.sha256(item).hexdigest(): item for item in contents}

    def add(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.data[digest] = content
        return digest

    def read(self, digest: str) -> bytes:
        return self.data[digest]

    def chunks(self, digest: str, size: int = 1 << 20) -> Iterator[bytes]:
        data = self.data[digest]
        return (data[at : at + size] for at in range(0, len(data), size))


class _MemoryDraft:
    def __init__(self, kept: dict[str, bytes]) -> None:
        self._kept = kept
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by discard

    @property
    def fd(self) -> int:
        return self._file.fileno()

    def commit(self, digest: str) -> None:
        data = os.pread(self.fd, os.fstat(self.fd).st_size, 0)
        assert sha256(data) == digest
        self._kept[digest] = data
        self.discard()

    def discard(self) -> None:
        self._file.close()

    def __enter__(self) -> _MemoryDraft:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


class MemorySink:
    """A BlobSink in memory."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.images: dict[str, bytes] = {}
        self.published: dict[str, Publication] = {}

    def draft(self, kind: str) -> _MemoryDraft:
        return _MemoryDraft(self.blobs if kind == "blob" else self.images)

    def put(self, data: bytes) -> str:
        self.blobs[sha256(data)] = data
        return sha256(data)

    def publish(self, publication: Publication) -> None:
        self.published[publication.release.digest] = publication


def file(path: bytes, content: bytes, held: Held, **fields: Any) -> Node:
    """A regular file whose content is put into `held`."""
    return Node(
        **{"path": path, "kind": "file", "mode": 0o644, "uid": 0, "gid": 0, "mtime": TIME, **fields},
        size=len(content),
        sha256=held.add(content),
    )


def folder(path: bytes, **fields: Any) -> Node:
    return Node(**{"path": path, "kind": "dir", "mode": 0o755, "uid": 0, "gid": 0, "mtime": TIME, **fields})


def link(path: bytes, first: Node) -> Node:
    import msgspec

    return msgspec.structs.replace(first, path=path, link=first.path)


def varied() -> tuple[Tree, Held]:
    """A tree with one of everything, at and around every limit of the formats."""
    held = Held()
    sizes = (0, 1, 511, 512, 513, 2047, 2048, 2049, 4095, 4096, 4097, 6144, 6145, 65535, 65536, 65537, 3 << 20)
    nodes = [folder(b""), folder(b"sizes"), folder(b"links"), folder(b"many", mode=0o1777), folder(b"deep", uid=70_000, gid=4_000_000_000)]
    nodes += [file(b"sizes/%d" % size, hashlib.shake_128(b"%d" % size).digest(size), held) for size in sizes]
    twin = file(
        b"links/a", b"one inode, three names", held, mode=0o4755, xattrs=((b"security.capability", NET_BIND), (b"user.note", b"\0\xff=\n"))
    )
    nodes += [twin, link(b"links/b", twin), link(b"links/c", twin)]
    nodes += [file(b"links/same-%d" % number, b"x" * 9000, held) for number in range(3)]
    for name, target in (
        (b"short", b"../sizes/1"),
        (b"long", b"x" * 3000),
        (b"longest", b"y" * 4095),
        (b"hundred", b"z" * 101),
        (b"bytes", b"\xff\xfe"),
    ):
        nodes.append(Node(path=b"links/" + name, kind="symlink", mode=0o777, uid=1, gid=2, mtime=0, target=target))
    nodes += [file(b"many/%s" % (b"%03d" % number).ljust(20 + number % 200, b"n"), b"", held) for number in range(300)]
    nodes += [
        file(b"many/" + name, name, held)
        for name in (b"!before-dot", b"-x", b".hidden", b"..x", b"\xff\xfe not utf-8", b"a" * 255, b"sp ace", b"new\nline")
    ]
    path = b"deep"
    for _ in range(12):
        path += b"/" + b"d" * 40
        nodes.append(folder(path, mode=0o700, mtime=2**33 - 1))
    nodes.append(file(path + b"/leaf", b"leaf", held, uid=2_097_152, gid=65_534, mtime=1))
    nodes.append(file(b"large-xattrs", b"data" * 100, held, xattrs=tuple((b"user.%d" % n, bytes([n]) * 3000) for n in range(4))))
    nodes.append(folder(b"dir-xattrs", xattrs=((b"user.dir", b"value"),)))
    nodes.append(Node(path=b"pipe", kind="fifo", mode=0o600, uid=5, gid=6, mtime=7))
    nodes.append(Node(path=b"null", kind="char", mode=0o666, uid=0, gid=0, mtime=TIME, rdev=(1, 3)))
    nodes.append(Node(path=b"disk", kind="block", mode=0o660, uid=0, gid=6, mtime=TIME, rdev=(259, 1_048_575)))
    return Tree.build(nodes), held


NAMES = st.binary(min_size=1, max_size=60).filter(lambda name: name not in {b".", b".."} and b"/" not in name and b"\0" not in name)
MODES = st.integers(0, 0o7777)
IDS = st.one_of(st.integers(0, 65_535), st.integers(0, 2**32 - 2))
TIMES = st.integers(0, 2**33 - 1)
CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda seed, size: hashlib.shake_128(bytes([seed])).digest(size),
        st.integers(0, 3),
        st.sampled_from((2048, 2049, 4096, 5000, 8192, 66_000)),
    ),
)
XATTRS = st.dictionaries(
    st.builds(lambda prefix, name: prefix + name.replace(b"=", b"-"), st.sampled_from((b"user.", b"trusted.", b"security.")), NAMES),
    st.binary(max_size=1500),
    max_size=3,
).map(lambda found: tuple(sorted(found.items())))


@st.composite
def trees(draw: Any) -> tuple[Tree, Held]:
    """A tree of up to 40 nodes of every kind, and its contents."""
    held = Held()
    root = folder(b"", mode=draw(MODES), uid=draw(IDS), mtime=draw(TIMES))
    nodes = {b"": root}
    folders = [b""]
    for _ in range(draw(st.integers(0, 40))):
        above = draw(st.sampled_from(folders))
        name = draw(NAMES)
        path = above + b"/" + name if above else name
        if path in nodes or len(path) > 4000:
            continue
        owner = {"mode": draw(MODES), "uid": draw(IDS), "gid": draw(IDS), "mtime": draw(TIMES)}
        kind = draw(st.sampled_from(("dir", "file", "file", "symlink", "fifo", "char", "block")))
        if kind == "dir":
            nodes[path] = folder(path, **owner, xattrs=draw(XATTRS))
            folders.append(path)
        elif kind == "file":
            nodes[path] = file(path, draw(CONTENTS), held, **owner, xattrs=draw(XATTRS))
        elif kind == "symlink":
            nodes[path] = Node(
                path=path,
                kind="symlink",
                **{**owner, "mode": 0o777},
                target=draw(st.binary(min_size=1, max_size=300).filter(lambda t: b"\0" not in t)),
            )
        elif kind == "fifo":
            nodes[path] = Node(path=path, kind="fifo", **owner)
        else:
            nodes[path] = Node(path=path, kind=kind, **owner, rdev=(draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))))
    files = [node for node in nodes.values() if node.kind != "dir"]
    for _ in range(draw(st.integers(0, 3)) if files else 0):
        first = draw(st.sampled_from(files))
        path = first.path + b"~"
        if path not in nodes and len(path.rpartition(b"/")[2]) <= 255:
            nodes[path] = link(path, first)
    return Tree.build(nodes.values()), held
