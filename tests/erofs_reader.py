"""A strict reader of the EROFS images that `seal` writes: for tests only, written from the format, not from the writer."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

BLOCK = 4096
KINDS = {1: "file", 2: "dir", 3: "char", 4: "block", 5: "fifo", 7: "symlink"}
BITS = {0o10: "file", 0o04: "dir", 0o02: "char", 0o06: "block", 0o01: "fifo", 0o12: "symlink"}
PREFIXES = {1: b"user.", 2: b"system.posix_acl_access", 3: b"system.posix_acl_default", 4: b"trusted.", 6: b"security."}


class Found(NamedTuple):
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    nlink: int
    content: bytes
    rdev: tuple[int, int]
    xattrs: dict[bytes, bytes]
    nid: int


def read(path: Path) -> dict[bytes, Found]:
    """Every path of an image and what it is; asserts what the format demands."""
    raw = path.read_bytes()
    magic, _, compat, bits = struct.unpack_from("<IIIB", raw, 1024)
    assert (magic, compat, bits) == (0xE0F5E1E2, 1, 12)
    root, inodes = struct.unpack_from("<HQ", raw, 1038)
    blocks, meta, shared = struct.unpack_from("<III", raw, 1060)
    assert (meta, shared) == (0, 0)
    data = raw[: blocks * BLOCK]
    found: dict[bytes, Found] = {}
    seen: dict[int, Found] = {}

    def walk(nid: int, name: bytes, above: int) -> None:
        node = seen.get(nid) or _inode(data, nid)
        seen[nid] = node
        found[name] = node
        if node.kind != "dir":
            return
        entries = _entries(node.content)
        names = [item[0] for item in entries]
        assert names == sorted(set(names))
        assert entries[names.index(b".")][1:] == (nid, 2)
        assert entries[names.index(b"..")][1:] == (above, 2)
        for child, number, kind in entries:
            if child not in {b".", b".."}:
                assert b"/" not in child
                walk(number, name + b"/" + child if name else child, nid)
                assert found[name + b"/" + child if name else child].kind == KINDS[kind]
        assert node.nlink == 2 + sum(kind == 2 for _, _, kind in entries) - 2

    walk(root, b"", root)
    assert len(seen) == inodes
    for node in seen.values():
        if node.kind != "dir":
            assert node.nlink == sum(item.nid == node.nid for item in found.values())
    return found


def _inode(data: bytes, nid: int) -> Found:
    at = nid * 32
    form, units, mode, _, size, union, _, uid, gid, mtime, nsec, nlink = struct.unpack_from("<HHHHQIIIIQII", data, at)
    assert form & 1
    assert nsec == 0
    layout = form >> 1
    assert layout in {0, 2}
    kind = BITS[mode >> 12]
    xattr_size = 12 + 4 * (units - 1) if units else 0
    tail = size % BLOCK if layout == 2 else 0
    assert layout == 0 or tail
    start = at + 64 + xattr_size
    assert not tail or start // BLOCK == (start + tail - 1) // BLOCK, "an inline tail crosses a block"
    content = b""
    if kind in {"file", "dir", "symlink"}:
        whole = size - tail
        assert not whole or (union + -(-whole // BLOCK)) * BLOCK <= len(data)
        content = data[union * BLOCK : union * BLOCK + whole] if whole else b""
        content += data[start : start + tail]
        assert len(content) == size
    rdev = ((union >> 8) & 0xFFF, union & 0xFF | (union >> 12) & 0xFFF00) if kind in {"char", "block"} else (0, 0)
    return Found(kind, mode & 0o7777, uid, gid, mtime, nlink, content, rdev, _xattrs(data[at + 64 : start]), nid)


def _xattrs(area: bytes) -> dict[bytes, bytes]:
    out = {}
    at = 12
    while at < len(area):
        name_size, index, size = struct.unpack_from("<BBH", area, at)
        name = area[at + 4 : at + 4 + name_size]
        out[PREFIXES[index] + name] = area[at + 4 + name_size : at + 4 + name_size + size]
        at += 4 + name_size + size
        at += -at % 4
    return out


def _entries(content: bytes) -> list[tuple[bytes, int, int]]:
    out = []
    for base in range(0, len(content), BLOCK):
        block = content[base : base + BLOCK]
        heads = []
        first = struct.unpack_from("<QH", block)[1]
        assert first
        assert first % 12 == 0
        for at in range(0, first, 12):
            heads.append(struct.unpack_from("<QHB", block, at))
        for number, (nid, offset, kind) in enumerate(heads):
            end = heads[number + 1][1] if number + 1 < len(heads) else len(block)
            name = block[offset:end]
            out.append((name.rstrip(b"\0") if number + 1 == len(heads) else name, nid, kind))
    return out
