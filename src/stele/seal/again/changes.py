"""What of a folder is not what it was at its last seal, and what its changed files hold now."""

from __future__ import annotations

import os
import stat
from array import array
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from stele.host import states
from stele.host.below import open_below
from stele.seal.again.last import PARTICULAR, UNKNOWN
from stele.seal.byte_code import PYC_HEADER, compiled_from
from stele.seal.normalise import is_kept_xattr

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stele.host.states import Folder, State
    from stele.model.tree import Node
    from stele.seal.again.last import LastSeal

MAX_HELD = 64 << 20  # bytes of changed files that are held in memory
MAX_CHANGED = 10_000  # files; more are better looked at from the beginning
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Changed(msgspec.Struct, frozen=True):
    """A file that may hold something else now. `at`: where its state begins. `data`: its bytes, None where they are many."""

    path: bytes
    at: int
    role: int
    state: State
    owner: tuple[int, int]
    sha256: str
    data: bytes | None


class Edit(msgspec.Struct, frozen=True):
    """A file whose line is another. `at`: where the old one begins in the last tree."""

    at: int
    changed: Changed
    old: Node
    new: Node


class Kept(msgspec.Struct, frozen=True):
    """A folder whose state is another, and which holds the same names. `info`: of it, now."""

    path: bytes
    at: int
    info: os.stat_result


class NotPlain(Exception):  # noqa: N818  it is no error
    """More has changed than the content of plain files."""


def find(root: int, last: LastSeal, folders: Sequence[Folder], numbers: Sequence[int]) -> tuple[list[Changed], list[Kept]]:
    """What changed in the folders of these numbers.

    Args:
        root: descriptor of the source folder.
        last: its last seal.
        folders: `last.listed()`.
        numbers: which of them to look at.

    Raises:
        NotPlain: the whole way is to be gone.
    """
    roles = array("I", last.roles)
    changed: list[Changed] = []
    kept: list[Kept] = []
    held = 0
    for number in sorted(numbers):
        folder = folders[number]
        try:
            fd = open_below(root, folder.path, _FOLDER)
        except OSError as error:
            raise NotPlain from error
        try:
            first = folder.at // states.WIDTH - number  # of its names among all names
            for item in _in_folder(fd, folder, last.states, roles[first : first + len(folder.listed())], folders):
                if isinstance(item, Kept):
                    kept.append(item)
                    continue
                held += len(item.data or b"")
                changed.append(msgspec.structs.replace(item, data=None) if held > MAX_HELD else item)
                if len(changed) > MAX_CHANGED:
                    raise NotPlain
        finally:
            os.close(fd)
    return changed, kept


def _in_folder(fd: int, folder: Folder, was: memoryview, roles: Sequence[int], folders: Sequence[Folder]) -> Iterator[Changed | Kept]:
    names = folder.listed()
    info = os.fstat(fd)
    try:
        if states.packed([states.of(info)]) != was[folder.at : folder.at + states.WIDTH]:
            with os.scandir(fd) as entries:
                found = {os.fsencode(entry.name): entry.is_dir(follow_symlinks=False) for entry in entries}
            inner = _folders_in(folder.path, folders)
            if found.keys() != inner | set(names) or not all(found[name] for name in inner) or _has_xattrs(fd):
                raise NotPlain
            yield Kept(folder.path, folder.at, info)
        prefix = folder.path + b"/" if folder.path else b""
        for number, name in enumerate(names):
            at = folder.at + states.WIDTH * (1 + number)
            now = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if states.packed([states.of(now)]) == was[at : at + states.WIDTH]:
                continue
            if roles[number] == PARTICULAR or not stat.S_ISREG(now.st_mode) or now.st_nlink != 1 or not now.st_size:
                raise NotPlain
            yield _read(fd, name, prefix + name, at, roles[number], now)
    except (OSError, OverflowError) as error:
        raise NotPlain from error


def _folders_in(path: bytes, folders: Sequence[Folder]) -> set[bytes]:
    """Names of the folders in one."""
    prefix = path + b"/" if path else b""
    below = (folder.path[len(prefix) :] for folder in folders if folder.path != path and folder.path.startswith(prefix))
    return {name for name in below if b"/" not in name}


def _read(folder: int, name: bytes, path: bytes, at: int, role: int, before: os.stat_result) -> Changed:
    fd = os.open(name, _FILE, dir_fd=folder)
    try:
        if states.of(os.fstat(fd)) != states.of(before) or _has_xattrs(fd):
            raise NotPlain
        state, parts, head = sha256(), [], b""
        while piece := os.read(fd, 1 << 20):
            state.update(piece)
            head = head or piece[:PYC_HEADER]
            if before.st_size <= MAX_HELD:
                parts.append(piece)
        if states.of(os.fstat(fd)) != states.of(before) or compiled_from(head) is not None:
            raise NotPlain
    finally:
        os.close(fd)
    data = b"".join(parts) if parts else None
    return Changed(path, at, role, states.of(before), (before.st_uid, before.st_gid), state.hexdigest(), data)


def _has_xattrs(fd: int) -> bool:
    try:
        return any(is_kept_xattr(os.fsencode(name)) for name in os.listxattr(fd))
    except OSError:
        return False  # a file system without


def patched(was: memoryview, changed: Sequence[Changed], kept: Sequence[Kept], begun_ns: int) -> memoryview:
    """States with those of now, but for what is too young to be believed."""
    raw = bytearray(was)
    for at, state in [*((item.at, item.state) for item in changed), *((item.at, states.of(item.info)) for item in kept)]:
        raw[at : at + states.WIDTH] = states.packed([state if state[states.CTIME] < begun_ns - states.SETTLED_NS else UNKNOWN])
    return memoryview(raw)
