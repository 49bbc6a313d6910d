"""Files above 4 GiB: the same tree from a folder, a tar archive and a layer, and zeros that take no room.

Sealing them whole is `python benchmarks/bench_dataset.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from stele.seal import sources
from stele.seal.sources.spool import Spool

SIZE = (4 << 30) + 5_000_003
MARKS = {0: b"begin", (4 << 30) - 3: b"across", SIZE - 4: b"last"}


def write(path: Path, before: bytes = b"", after: int = 0) -> None:
    """A sparse file: `before`, the content, and zeros."""
    with path.open("wb") as file:
        file.write(before)
        for at, mark in MARKS.items():
            file.seek(len(before) + at)
            file.write(mark)
        file.truncate(len(before) + SIZE + after)


def member(path: Path) -> None:
    """A tar of one member, sparse on the disk and in no other way."""
    info = tarfile.TarInfo("large")
    info.size, info.mode = SIZE, 0o644
    write(path, info.tobuf(tarfile.PAX_FORMAT), -SIZE % 512 + 1024)


def layout(path: Path, layer: Path) -> None:
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer.rename(blobs / digest)

    def put(plain: object) -> dict[str, object]:
        data = json.dumps(plain).encode()
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    kind = "application/vnd.oci.image"
    size = (blobs / digest).stat().st_size
    config = put({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}})
    layers = [{"mediaType": f"{kind}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}]
    manifest = put({"schemaVersion": 2, "mediaType": f"{kind}.manifest.v1+json", "config": config, "layers": layers})
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [{"mediaType": f"{kind}.manifest.v1+json", **manifest}]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def kept() -> int:
    """Bytes on disk of the files without a name that this process has open."""
    found = [os.stat(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    return sum(512 * state.st_blocks for state in found if stat.S_ISREG(state.st_mode) and not state.st_nlink)


@pytest.mark.timeout(900)
def test_a_file_above_4_gib_is_the_same_from_folder_tar_and_layer(tmp_path):
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "large")
    member(tmp_path / "root.tar")
    found, others = {}, kept()  # pytest has such files, too: what tests print
    with sources.load(tmp_path / "folder", kind="folder") as source:
        found["folder"] = source.tree.digest()
        [node] = source.tree.files()
        assert node.size == SIZE
    for form in ("gnu", "posix"):  # sparse as tar writes it: type S, pax 1.0
        tar = ["tar", "-C", tmp_path / "folder", "-S", f"--format={form}", "-cf", tmp_path / f"{form}.tar", "large"]
        subprocess.run(tar, check=True)
        assert (tmp_path / f"{form}.tar").stat().st_size < 1 << 20
        with sources.load(tmp_path / f"{form}.tar", kind="root-tar") as source:
            found[form] = source.tree.digest()
            assert kept() - others < 1 << 20
    for name, kind in (("root.tar", "root-tar"), ("layout", "oci-layout")):
        if kind == "oci-layout":
            layout(tmp_path / "layout", tmp_path / "root.tar")
        with sources.load(tmp_path / name, kind=kind) as source:  # type: ignore[arg-type]
            found[kind] = source.tree.digest()
            assert 0 < kept() - others < 1 << 30  # what it keeps of the archive has holes, too
            chunks = source.contents.chunks(node.sha256)
            assert next(chunks).startswith(b"begin")
    assert len(set(found.values())) == 1, found
    shutil.rmtree(tmp_path / "folder")


def test_a_spool_leaves_holes_and_shows_nothing_of_what_it_kept_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spool = Spool()
    try:
        size = 4 << 20
        zeros = [memoryview(bytes(1 << 20))] * 4
        noise = os.urandom(size)
        for content in ([memoryview(noise)], [memoryview(noise)], zeros):
            spool.add(iter(content), size)
        one = spool.places[hashlib.sha256(bytes(size)).hexdigest()]
        assert os.pread(spool.fd, size, one.offset) == bytes(size)  # type: ignore[union-attr]
        assert os.fstat(spool.fd).st_size == 2 * size
        assert os.fstat(spool.fd).st_blocks * 512 < size + (1 << 20)
    finally:
        spool.close()
