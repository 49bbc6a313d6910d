"""From which commit a folder comes: git's files, read directly (docs/spec/provenance.md, Checkouts).

Git itself is not run, because a repository's configuration can make it run anything. Nothing in a repository is followed
but its own pointers (`gitdir`, `commondir`, refs), and of what they lead to only object names get out. What cannot be read is
unknown, never an error.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from stele.seal import git_objects
from stele.seal.git_objects import Entry

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

MAX_INDEX = 64 << 20  # bytes
MAX_NAMES = 50_000  # paths that are compared with the index; more are not
MAX_HASHED = 64 << 20  # bytes of a file that is hashed because its times say nothing
_ID = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z", re.ASCII)
_REF = re.compile(r"refs/(?:[A-Za-z0-9_+=@,#%-][A-Za-z0-9_.+=@,#%-]*/)*[A-Za-z0-9_+=@,#%-][A-Za-z0-9_.+=@,#%-]*\Z", re.ASCII)
_URL = re.compile(r"(https?|ssh|git)://(?:[^@/\s]*@)?([A-Za-z0-9.-]+(?::[0-9]{1,5})?)(/[A-Za-z0-9._~/+-]{0,400})", re.ASCII)
_SCP = re.compile(r"(?:[A-Za-z0-9._-]+@)?([A-Za-z0-9.-]+):([A-Za-z0-9._~+-][A-Za-z0-9._~/+-]{0,400})\Z", re.ASCII)
_GITLINK = 0o160000


class Checkout(NamedTuple):
    """Where a folder comes from.

    `commit`: the object name of HEAD, hex. `url`: of the remote `origin`, without user, password and query; "" if unknown.
    `folder`: the folder's path inside the checkout ("" for its top). `modified`: files whose content is not the index's, or that are
    gone. `untracked`: files that the index does not have. `staged`: whether the index is not the commit's tree. The last three are
    None where that could not be told.
    """

    commit: str
    url: str
    folder: bytes
    modified: int | None
    untracked: int | None
    staged: bool | None

    @property
    def dirty(self) -> bool | None:
        """Whether what lies there is anything but the commit; None where that could not be told."""
        facts = (self.modified, self.untracked, self.staged)
        return True if any(facts) else None if None in facts else False


def find(folder: Path, names: Collection[bytes], *, whole: bool) -> Checkout | None:
    """The checkout in which `folder` lies; None where it lies in none.

    Args:
        folder: absolute.
        names: paths below it of the files and symlinks that are sealed.
        whole: whether these are all that lies there, so that what the index has besides is gone.
    """
    for top in (folder, *folder.parents):
        git = _git_dir(top)
        if git is not None:
            break
    else:
        return None
    common = _pointed(git, git / "commondir", b"") or git
    commit = _head(git, common)
    if commit is None:
        return None
    config = (_read(common / "config", 1 << 20) or b"").decode("utf-8", "replace")
    prefix = os.fsencode(str(folder.relative_to(top)))
    prefix = b"" if prefix == b"." else prefix + b"/"
    entries = _index(git, 32 if len(commit) == 64 else 20)
    if entries is None or len(names) > MAX_NAMES:
        return Checkout(commit, _url(config), prefix[:-1], None, None, None)
    modified, untracked = _compare(top, git, prefix, names, entries, whole=whole)
    tree = git_objects.commit_tree(common / "objects", commit)
    staged = None if tree is None else tree != git_objects.index_tree(entries, len(commit) // 2)
    return Checkout(commit, _url(config), prefix[:-1], modified, untracked, staged)


def names_below(folder: Path) -> list[bytes]:
    """Paths below a folder of all that is no folder, without what is git's own; one more than are compared, if there are too many."""
    found: list[bytes] = []
    top = os.fsencode(folder)
    for above, folders, files in os.walk(top):
        if b".git" in folders:
            folders.remove(b".git")
        links = (name for name in folders if os.path.islink(os.path.join(above, name)))
        found += (os.path.relpath(os.path.join(above, name), top) for name in (*links, *files) if name != b".git")
        if len(found) > MAX_NAMES:
            return found[: MAX_NAMES + 1]
    return found


def _read(path: Path, limit: int) -> bytes | None:
    """A regular file of at most `limit` bytes; None where it is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(limit)
    except OSError:
        return None
    finally:
        os.close(fd)


def _git_dir(top: Path) -> Path | None:
    git = top / ".git"
    if (git / "HEAD").is_file():
        return git
    return _pointed(top, git, b"gitdir: ")


def _pointed(base: Path, file: Path, start: bytes) -> Path | None:
    """The folder that a pointer file of one line names."""
    data = _read(file, 4096)
    if not data or not data.startswith(start) or b"\0" in data:
        return None
    found = base / os.fsdecode(data[len(start) :].strip())
    return found if found.is_dir() else None


def _head(git: Path, common: Path) -> str | None:
    name = (_read(git / "HEAD", 4096) or b"").decode("ascii", "replace").strip()
    for _ in range(5):
        if _ID.match(name):
            return name
        ref = name.removeprefix("ref: ").strip()
        if not _REF.match(ref) or ".." in ref:
            return None
        data = _read(git / ref, 4096) or _read(common / ref, 4096)
        name = data.decode("ascii", "replace").strip() if data else _packed(common, ref)
    return None


def _packed(common: Path, ref: str) -> str:
    data = _read(common / "packed-refs", 32 << 20) or b""
    found = re.search(rb"^([0-9a-f]{40,64}) " + re.escape(ref.encode("ascii")) + rb"$", data, re.MULTILINE)
    return found[1].decode("ascii") if found else ""


def _url(config: str) -> str:
    """The URL of `origin` as `git+<url>`, without anything that is a credential or a path of this machine."""
    section = re.search(r'^\s*\[remote "origin"\]([^\[]*)', config, re.MULTILINE)
    line = re.search(r"^\s*url\s*=\s*(\S+)\s*$", section[1], re.MULTILINE) if section else None
    if line is None:
        return ""
    if found := _URL.match(line[1]):
        return f"git+{found[1]}://{found[2]}{found[3]}"
    found = _SCP.match(line[1])
    return f"git+ssh://{found[1]}/{found[2]}" if found else ""


def _index(git: Path, id_size: int) -> dict[bytes, tuple[Entry, bytes]] | None:
    """The index by name, with object ids; None where it cannot be read, is split, sparse by folders, or being merged."""
    data = _read(git / "index", MAX_INDEX)
    if data is None:
        return {} if not (git / "index").exists() else None
    new = hashlib.sha1 if id_size == 20 else hashlib.sha256
    if data[-id_size:] not in {new(data[:-id_size], usedforsecurity=False).digest(), bytes(id_size)}:  # zeros: index.skipHash
        return None
    try:
        return _entries(data, id_size)
    except (IndexError, ValueError):
        return None


def _entries(data: bytes, id_size: int) -> dict[bytes, tuple[Entry, bytes]] | None:
    def number(at: int, size: int = 4) -> int:
        if at + size > len(data):
            raise IndexError("the index is cut short")
        return int.from_bytes(data[at : at + size], "big")

    version, count = number(4), number(8)
    if data[:4] != b"DIRC" or version not in {2, 3, 4} or count > len(data) // 40:
        return None
    found: dict[bytes, tuple[Entry, bytes]] = {}
    at, before = 12, b""
    for _ in range(count):
        begin, mode = at, number(at + 24)
        mtime, size = (number(at + 8), number(at + 12)), number(at + 36)
        at += 40
        object_id = data[at : at + id_size]
        flags = number(at + id_size, 2)
        at += id_size + 2
        extended = number(at, 2) if flags & 0x4000 else 0
        at += 2 if flags & 0x4000 else 0
        if version == 4:
            drop, at = _varint(data, at)
            end = data.index(b"\0", at)
            name = before[: len(before) - drop] + data[at:end]
            at = end + 1
        else:
            end = data.index(b"\0", at)
            name = data[at:end]
            at = begin + (end - begin + 8) // 8 * 8
        before = name
        if flags & 0x3000 or mode == 0o040000:  # a merge, or a folder that is left out whole
            return None
        found[name] = (Entry(mtime, mode, size, name, flags >> 12 & 3, bool(extended & 0x4000)), object_id)
    return None if b"link" in data[at : at + 4] else found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = data[at] & 0x7F
    while data[at] & 0x80:
        at += 1
        value = (value + 1 << 7) | (data[at] & 0x7F)
        if value > 1 << 16:
            raise ValueError("no length of a name")
    return value, at + 1


def _compare(
    top: Path, git: Path, prefix: bytes, names: Collection[bytes], entries: Mapping[bytes, tuple[Entry, bytes]], *, whole: bool
) -> tuple[int, int]:
    """How many files are not as the index has them, and how many it does not have."""
    root = os.fsencode(top) + b"/"
    written = os.stat(git / "index").st_mtime_ns if entries else 0
    wanted = {prefix + name for name in names}
    untracked = sum(name not in entries for name in wanted)
    modified = sum(not _is_as_indexed(root + name, *entries[name], written) for name in wanted if name in entries)
    if whole:
        modified += sum(
            name.startswith(prefix) and name not in wanted and entry.mode != _GITLINK and not entry.absent
            for name, (entry, _) in entries.items()
        )
    return modified, untracked


def _is_as_indexed(path: bytes, entry: Entry, object_id: bytes, written: int) -> bool:
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode) != (entry.mode == 0o120000) or not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            return False
        if entry.mode != 0o120000 and bool(status.st_mode & 0o100) != bool(entry.mode & 0o100):
            return False
        if status.st_size & 0xFFFFFFFF != entry.size:
            return False
        seconds, nanoseconds = divmod(status.st_mtime_ns, 1_000_000_000)
        if (seconds & 0xFFFFFFFF, nanoseconds) == entry.mtime and status.st_mtime_ns < written:
            return True  # git's own rule: a file not younger than the index is as it was when its times are
        if status.st_size > MAX_HASHED:
            return False
        data = os.readlink(path) if entry.mode == 0o120000 else _bytes_of(path)
    except OSError:
        return False
    new = hashlib.sha1 if len(object_id) == 20 else hashlib.sha256
    return new(b"blob %d\0" % len(data) + data, usedforsecurity=False).digest() == object_id


def _bytes_of(path: bytes) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_HASHED + 1)
