"""Checking every file of a store: hashed on all processors, and compared with what names it (docs/spec/store.md, Checking)."""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from stele.host import immutable
from stele.host.hashing import hash_fd
from stele.store.layout import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from stele.store.census import Part
    from stele.store.layout import Layout

Kind = Literal["damaged", "missing", "index", "unreadable", "signature", "mutable", "absent", "unnamed", "stray", "aside", "odd"]
NOTES: frozenset[Kind] = frozenset({"absent", "unnamed", "stray", "aside", "odd"})  # what does no harm; everything else is a problem
OWN = frozenset({"oci-layout", "index.json", "lock", "removal", "removing", "packing", "pins"})
FOLDERS = frozenset({"blobs", "erofs", "tmp", "partial", "damaged"})
_HEX = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_STEP = 256 << 20  # bytes between two words about how far it is


class Finding(NamedTuple):
    """Something that is not as it should be. `path`: below the store's folder. `releases`: digests of those that need it."""

    kind: Kind
    path: str
    reason: str
    releases: tuple[str, ...] = ()
    role: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether something is lost, or not to be relied on."""
        return self.kind not in NOTES


class State(NamedTuple):
    """One file as it lies there. `size`: bytes; `held`: what it takes on the disk. `wrong`: "" if its bytes are what its name says.

    `stamp`: device, inode, size, mtime and ctime.
    """

    size: int
    held: int
    wrong: str
    immutable: bool
    stamp: tuple[int, ...] = ()


class Files(NamedTuple):
    """All files of a store by path; those without a digest in their name are `stray`, unless they are Stele's own.

    `aside`: what repairs set aside, `aside_held` bytes on the disk. `partial_held`: of blobs that came in part.
    """

    states: dict[str, State]
    stray: tuple[str, ...]
    aside: tuple[str, ...]
    aside_held: int
    partial_held: int


def look(store: Layout, say: Callable[[str], None], *, hashing: bool = True) -> Files:
    """Look at every file, the largest first, as many at a time as there are processors.

    Without `hashing` nothing is read: sizes only.
    """
    named: list[tuple[str, str]] = []
    stray: list[str] = []
    for folder, suffix in (("blobs/sha256", ""), ("erofs", ".erofs")):
        for entry in _entries(store.root / folder):
            text = entry.name.removesuffix(suffix)
            if _HEX.match(text) and entry.name == text + suffix and entry.is_file(follow_symlinks=False):
                named.append((f"{folder}/{entry.name}", "sha256:" + text))
            else:
                stray.append(f"{folder}/{entry.name}")
    stray += [entry.name for entry in _entries(store.root) if entry.name not in OWN | FOLDERS]
    stray += [f"blobs/{entry.name}" for entry in _entries(store.root / "blobs") if entry.name != "sha256"]
    sizes = {path: (store.root / path).lstat().st_size for path, _ in named}
    progress = _Progress(sum(sizes.values()), say)

    def one(item: tuple[str, str]) -> State:
        return _state(store.root / item[0], item[1], progress if hashing else None)

    named.sort(key=lambda item: -sizes[item[0]])
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        states = list(pool.map(one, named))
    aside = _entries(store.root / "damaged")
    return Files(
        states={path: state for (path, _), state in zip(named, states, strict=True)},
        stray=tuple(sorted(stray)),
        aside=tuple(f"damaged/{entry.name}" for entry in aside),
        aside_held=_held(aside),
        partial_held=_held(_entries(store.root / "partial")),
    )


def _held(entries: Iterable[os.DirEntry[str]]) -> int:
    return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def look_at(store: Layout, path: str) -> State:
    """Look at one file whose name has its digest."""
    digest = "sha256:" + path.rpartition("/")[2].removesuffix(".erofs")
    return _state(store.root / path, digest, _Progress(0, lambda _: None))


class _Progress:
    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._total, self._say, self._done, self._told = total, say, 0, 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._done - self._told >= max(_STEP, self._total // 20):
                self._told = self._done
                self._say(f"hashed {self._done >> 20} of {self._total >> 20} MiB")


def _state(path: Path, digest: str, progress: _Progress | None) -> State:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return State(0, 0, f"cannot be read: {error.strerror}", immutable=False)
    try:
        info = os.fstat(fd)
        stamp = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        wrong = ""
        if progress is not None:
            try:
                found, size = hash_fd(fd)
            except OSError as error:
                return State(info.st_size, info.st_blocks * 512, f"cannot be read: {error.strerror}", immutable=False)
            wrong = "" if found == digest else f"has the digest {found[:19]}, not {digest[:19]}"
            progress.add(size)
        return State(info.st_size, info.st_blocks * 512, wrong, immutable.is_immutable(fd), stamp)
    finally:
        os.close(fd)


def layout_file(store: Layout) -> list[Finding]:
    """What is wrong with `oci-layout`."""
    path = store.root / "oci-layout"
    try:
        if msgspec.json.decode(path.read_bytes()) == msgspec.json.decode(LAYOUT):
            return []
    except FileNotFoundError:
        if not (store.root / "blobs").exists():
            return []
        return [Finding("missing", "oci-layout", "is missing: other tools take the folder for no OCI layout", role="oci-layout")]
    except OSError as error:
        return [Finding("damaged", "oci-layout", f"cannot be read: {error.strerror}", role="oci-layout")]
    except msgspec.DecodeError:
        pass
    return [Finding("damaged", "oci-layout", "does not say what an OCI layout 1.0 says", role="oci-layout")]


def compare(part: Part, files: Files, needs: Iterable[str]) -> Finding | None:
    """What is wrong with one file that something needs. `needs`: digests of who does."""
    state = files.states.get(part.path)
    who = tuple(needs)
    what = f"{part.role}{f' of {part.stratum}' if part.stratum else ''}"
    if state is None:
        return Finding("missing", part.path, f"({what}) is missing", who, part.role)
    if state.wrong:
        return Finding("damaged", part.path, f"({what}) {state.wrong}", who, part.role)
    if part.size not in {-1, state.size}:
        return Finding("damaged", part.path, f"({what}) has {state.size} bytes where {part.size} are named", who, part.role)
    return None


def unnamed(files: Files, named: set[str]) -> list[Finding]:
    """Files that nothing names: what a seal that broke off left, or what was replaced."""
    found = []
    for path, state in sorted(files.states.items()):
        if path not in named:
            kind: Kind = "damaged" if state.wrong else "unnamed"
            found.append(Finding(kind, path, f"nothing names it{f', and it {state.wrong}' if state.wrong else ''}", role="unnamed"))
    return found
