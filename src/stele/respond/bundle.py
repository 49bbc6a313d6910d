"""The evidence bundle: a folder of files, a manifest of their digests, and its signature (docs/spec/evidence.md)."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from stele.host import durable
from stele.trust import canonical, dsse, merkle
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stele.trust.release_key import PrivateKey, PublicKey

PAYLOAD_TYPE = "application/vnd.stele.evidence.v0+json"
MANIFEST = "manifest.dsse.json"
CHUNK = 1 << 20


class Sealed(NamedTuple):
    """A finished bundle: its root hash (sha256:…), how many files and bytes it has."""

    root: str
    files: int
    size: int


def root_of(files: Mapping[str, Mapping[str, Any]]) -> str:
    """RFC 6962 root over the files' canonical records, sorted by name."""
    leaves = [merkle.leaf_hash(canonical.encode({"name": name, **files[name]})) for name in sorted(files)]
    return "sha256:" + merkle.root(leaves).hex()


class Writer:
    """Writes one bundle at `<folder>.partial`; `seal` gives it its name. A bundle without that name is not one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._partial = folder.with_name(folder.name + ".partial")
        self._files: dict[str, dict[str, Any]] = {}
        self._sealed = False

    def __enter__(self) -> Self:
        durable.make_dirs(self._folder.parent, 0o700)
        if self._partial.exists():
            remove_tree(self._partial)
        self._partial.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._sealed:
            remove_tree(self._partial)

    def add(self, name: str, data: bytes) -> None:
        """Add a file with this content."""

        def fill(fd: int) -> None:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]

        self.add_with(name, fill)

    def add_with(self, name: str, fill: Callable[[int], None]) -> None:
        """Add a file that `fill` writes.

        Raises:
            SteleError: `evidence.no-space`.
        """
        path = self._partial / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fill(fd)
            size = os.fstat(fd).st_size
            self._files[name] = {"size": size, "sha256": _hash(fd)}
        except OSError as error:
            if error.errno in {28, 122}:  # ENOSPC, EDQUOT
                raise SteleError(
                    f"no space for the evidence in {self._folder.parent}: {error.strerror}",
                    remedy="free space; the frozen instance is kept, and the agent collects again when it is started anew",
                    code="evidence.no-space",
                ) from error
            raise
        finally:
            os.close(fd)

    def seal(self, facts: Mapping[str, Any], key: PrivateKey) -> Sealed:
        """Sign the manifest, make everything durable, and give the bundle its name."""
        root = root_of(self._files)
        manifest = canonical.encode({"format": "stele-evidence v0", "root": root, "files": self._files, "facts": dict(facts)})
        envelope = dsse.sign(PAYLOAD_TYPE, manifest, key.public.hint, key.sign)
        (self._partial / MANIFEST).write_bytes(canonical.encode(envelope))
        _sync_tree(self._partial)
        if self._folder.exists():
            remove_tree(self._folder)
        os.rename(self._partial, self._folder)
        durable.sync_dir(self._folder.parent)
        self._sealed = True
        return Sealed(root, len(self._files), sum(int(item["size"]) for item in self._files.values()))


def _hash(fd: int) -> str:
    state = hashlib.sha256()
    size = os.fstat(fd).st_size
    position = 0
    while position < size:
        data = os.pread(fd, CHUNK, position)
        state.update(data)
        position += len(data)
    return state.hexdigest()


def _sync_tree(folder: Path) -> None:
    for where, _, names in os.walk(folder):
        for name in names:
            fd = os.open(os.path.join(where, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            os.fsync(fd)
            os.close(fd)
        durable.sync_dir(Path(where))


def remove_tree(folder: Path) -> None:
    """Remove a bundle or what is left of one."""
    shutil.rmtree(folder)


def read_manifest(folder: Path) -> tuple[dict[str, Any], dsse.Envelope]:
    """The manifest of a bundle, not yet verified.

    Raises:
        SteleError: `evidence.not-there`, `trust.*`.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise SteleError(
            f"there is no evidence bundle in {folder}", remedy="`stele incidents` lists them", code="evidence.not-there"
        ) from error
    envelope = dsse.loads(data)
    manifest = canonical.decode(envelope.payload)
    assert isinstance(manifest, dict)
    return manifest, envelope


def verify(folder: Path, key: PublicKey, expected_root: str) -> list[str]:
    """What does not fit: signature, root, altered, missing or added files. Nothing if all is as it was sealed.

    Args:
        folder: the bundle.
        key: of the host that collected it.
        expected_root: from the ledger's `evidence.sealed`; "" skips that comparison.
    """
    manifest, envelope = read_manifest(folder)
    problems = []
    if envelope.payload_type != PAYLOAD_TYPE or not key.verify(dsse.pae(envelope.payload_type, envelope.payload), envelope.signature):
        problems.append("the manifest is not signed by this host's key")
    files: dict[str, dict[str, Any]] = manifest.get("files", {})
    if manifest.get("root") != root_of(files):
        problems.append("the manifest's root does not fit its files")
    if expected_root and manifest.get("root") != expected_root:
        problems.append("the ledger recorded another root")
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST}
    problems += [f"added: {name}" for name in sorted(present - set(files))]
    for name, facts in sorted(files.items()):
        if name not in present or (folder / name).is_symlink():
            problems.append(f"missing: {name}")
            continue
        fd = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size != facts["size"] or _hash(fd) != facts["sha256"]:
                problems.append(f"altered: {name}")
        finally:
            os.close(fd)
    return problems


def total_size(folder: Path) -> int:
    """Bytes that a bundle takes."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
