"""The evidence bundle: a folder of files, a manifest of their digests, and its signature (docs/spec/evidence.md)."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from stele.host import durable
from stele.trust import canonical, dsse, merkle
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor, Future

    from stele.trust.release_key import PrivateKey, PublicKey

PAYLOAD_TYPE = "application/vnd.stele.evidence.v0+json"
MANIFEST = "manifest.dsse.json"
PARTIAL = ".partial"
CHUNK = 1 << 20
BACKGROUND = 256 << 10  # pieces of this size and more are hashed in the other thread
_ZEROS = memoryview(bytes(CHUNK))
_PART = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,199}", re.ASCII)


class Sealed(NamedTuple):
    """A finished bundle: its root hash (sha256:…), how many files and bytes it has."""

    root: str
    files: int
    size: int


def root_of(files: Mapping[str, Mapping[str, Any]]) -> str:
    """RFC 6962 root over the files' canonical records, sorted by name."""
    leaves = [merkle.leaf_hash(canonical.encode({"name": name, **files[name]})) for name in sorted(files)]
    return "sha256:" + merkle.root(leaves).hex()


class Stream:
    """One file of a bundle while it is written: in order, hashed on the way, with holes where there is nothing.

    Large pieces are hashed by `hasher` while the caller reads on: it must not change a piece before its next call here.
    """

    def __init__(self, fd: int, where: Path, hasher: Executor | None = None) -> None:
        self._fd = fd
        self._where = where
        self._hasher = hasher
        self._digest = hashlib.sha256()
        self._pending: Future[None] | None = None
        self.size = 0

    def _update(self, data: memoryview) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None
        if self._hasher is not None and len(data) >= BACKGROUND:
            self._pending = self._hasher.submit(self._digest.update, data)
        else:
            self._digest.update(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`.

        Raises:
            SteleError: `evidence.no-space`.
        """
        view = memoryview(data)
        self._update(view)
        self.size += len(view)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError as error:
                raise _no_space(error, self._where) from error

    def skip(self, size: int) -> None:
        """Append `size` zero bytes that take no room."""
        self.size += size
        os.lseek(self._fd, size, os.SEEK_CUR)
        while size > 0:
            self._update(_ZEROS[: min(size, CHUNK)])
            size -= CHUNK

    def finish(self) -> dict[str, Any]:
        """The file's record in the manifest."""
        try:
            os.ftruncate(self._fd, self.size)
        except OSError as error:
            raise _no_space(error, self._where) from error
        self._update(_ZEROS[:0])
        return {"size": self.size, "sha256": self._digest.hexdigest()}


def _no_space(error: OSError, where: Path) -> Exception:
    if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return error
    return SteleError(
        f"no space for the evidence in {where}: {error.strerror}",
        remedy="free space; the frozen instance is kept, and the agent collects again when it is started anew",
        code="evidence.no-space",
    )


class Writer:
    """Writes one bundle at `<folder>.partial`; `seal` gives it its name. A bundle without that name is not one.

    Leaving the context without `seal` removes everything. Raises SteleError `evidence.no-space` from any method and on leaving.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._partial = folder.with_name(folder.name + PARTIAL)
        self._files: dict[str, dict[str, Any]] = {}
        self._sealed = False
        self._hasher = ThreadPoolExecutor(1, "evidence-hash")

    def __enter__(self) -> Self:
        try:
            durable.make_dirs(self._folder.parent, 0o700)
            remove_tree(self._partial)
            self._partial.mkdir(mode=0o700)
        except OSError as error:
            raise _no_space(error, self._folder.parent) from error
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._hasher.shutdown()
        if not self._sealed:
            remove_tree(self._partial)
            if isinstance(error, OSError):
                raise _no_space(error, self._folder.parent) from error

    def add(self, name: str, data: bytes) -> None:
        """Add a file with this content."""
        self.add_with(name, lambda stream: stream.write(data))

    def add_with(self, name: str, fill: Callable[[Stream], None]) -> None:
        """Add a file that `fill` writes. If it raises, the file is not part of the bundle.

        Raises:
            ValueError: the name is not a plain relative one, or it is taken.
        """
        if not is_name(name) or name in self._files:
            raise ValueError(f"{name!r} cannot be a file of a bundle")
        path = self._partial / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            stream = Stream(fd, self._folder.parent, self._hasher)
            fill(stream)
            self._files[name] = stream.finish()
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(fd)

    def seal(self, facts: Mapping[str, Any], key: PrivateKey) -> Sealed:
        """Sign the manifest, make everything durable, and give the bundle its name."""
        root = root_of(self._files)
        manifest = canonical.encode({"format": "stele-evidence v0", "root": root, "files": self._files, "facts": dict(facts)})
        envelope = dsse.sign(PAYLOAD_TYPE, manifest, key.public.hint, key.sign)
        (self._partial / MANIFEST).write_bytes(canonical.encode(envelope))
        # one flush of the file system instead of one per file: there are thousands of small ones
        durable.sync_filesystem(self._partial)
        if self._folder.exists():
            remove_tree(self._folder)
        os.rename(self._partial, self._folder)
        durable.sync_dir(self._folder.parent)
        self._sealed = True
        return Sealed(root, len(self._files), sum(int(item["size"]) for item in self._files.values()))


def is_name(name: str) -> bool:
    """Whether a file of a bundle may be called so: plain relative parts, none hidden, not the manifest's name."""
    return name != MANIFEST and all(_PART.fullmatch(part) for part in name.split("/"))


def _hash(fd: int) -> str:
    state = hashlib.sha256()
    while data := os.read(fd, CHUNK):
        state.update(data)
    return state.hexdigest()


def remove_tree(folder: Path) -> None:
    """Remove a bundle or what is left of one; nothing there is fine, and what is no folder is removed, not followed."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError:
        if folder.is_dir() and not folder.is_symlink():
            raise
        folder.unlink()


def read_manifest(folder: Path) -> tuple[dict[str, Any], dsse.Envelope]:
    """The manifest of a bundle, not yet verified.

    Raises:
        SteleError: `evidence.not-there`, `trust.*`.
    """
    try:
        fd = os.open(folder / MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            data = file.read()
    except OSError as error:
        raise SteleError(
            f"there is no evidence bundle in {folder}", remedy="`stele incidents` lists them", code="evidence.not-there"
        ) from error
    envelope = dsse.loads(data)
    manifest = canonical.decode(envelope.payload)
    if not isinstance(manifest, dict):
        return {}, envelope
    return manifest, envelope


def verify(folder: Path, key: PublicKey, expected_root: str) -> list[str]:
    """What does not fit: signature, root, altered, missing or added files. Nothing if all is as it was sealed.

    Args:
        folder: the bundle.
        key: of the host that collected it.
        expected_root: from the ledger's `evidence.sealed`; "" skips that comparison.

    Raises:
        SteleError: `evidence.not-there`.
    """
    try:
        manifest, envelope = read_manifest(folder)
    except SteleError as error:
        if error.code == "evidence.not-there":
            raise
        return [f"the manifest is damaged: {error.reason}"]
    problems = []
    if envelope.payload_type != PAYLOAD_TYPE or not key.verify(dsse.pae(envelope.payload_type, envelope.payload), envelope.signature):
        problems.append("the manifest is not signed by this host's key")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(is_name(name) and isinstance(facts, dict) for name, facts in files.items()):
        return [*problems, "the manifest does not list files"]
    if manifest.get("root") != root_of(files):
        problems.append("the manifest's root does not fit its files")
    if expected_root and manifest.get("root") != expected_root:
        problems.append("the ledger recorded another root")
    present = _present(folder)
    problems += [f"added: {name}" for name in sorted(present - set(files))]
    for name, facts in sorted(files.items()):
        if name not in present:
            problems.append(f"missing: {name}")
        elif not _is_as_listed(folder / name, facts):
            problems.append(f"altered: {name}")
    return problems


def _present(folder: Path) -> set[str]:
    """Everything in the folder but the manifest; folders only where they are empty or symlinks."""
    found = set()
    for where, folders, names in os.walk(folder):
        here = Path(where).relative_to(folder)
        links = [name for name in folders if (Path(where) / name).is_symlink()]
        if not folders and not names and where != str(folder):
            found.add(f"{here}/")
        found |= {str(here / name) for name in [*names, *links]}
    return found - {MANIFEST}


def _is_as_listed(path: Path, facts: Mapping[str, Any]) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        return stat.S_ISREG(found.st_mode) and found.st_size == facts.get("size") and _hash(fd) == facts.get("sha256")
    except OSError:
        return False  # the disk cannot read it back
    finally:
        os.close(fd)


def total_size(folder: Path) -> int:
    """Bytes that a bundle takes."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
