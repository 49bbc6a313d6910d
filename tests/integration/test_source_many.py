"""200,000 files, some with names that are not UTF-8: sealed whole, and every image judged by fsck.erofs and dump.erofs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from stele.flow import initialise, opening, sealing
from stele.flow.places import Places
from stele.host import immutable
from tests import archives

FILES = 200_000
A_FOLDER = 500


def name(number: int) -> bytes:
    return b"srv/d%03d/f%06d" % (number // A_FOLDER, number) + (b"\xff\xfe" if number % 1000 == 7 else b"")


def archive(path: Path) -> None:
    """A folder is followed by its files; every thousandth is one more name of the file before."""
    with path.open("wb") as out:
        out.write(archives.folder(b"srv"))
        for number in range(FILES):
            if not number % A_FOLDER:
                out.write(archives.folder(b"srv/d%03d" % (number // A_FOLDER)))
            made = archives.link(name(number), name(number - 1)) if number % 1000 == 999 else archives.file(name(number), b"%d" % number)
            out.write(made)
        out.write(archives.END)


@pytest.mark.timeout(1500)
def test_every_one_of_200000_files_is_in_the_release(tmp_path):
    archive(tmp_path / "root.tar")
    (tmp_path / "stele.yaml").write_text('{"stele": 0, "name": "many", "kind": "dataset"}')
    places = Places(tmp_path / "data")
    initialise.make_keys(places)
    options = sealing.Options(kind="root-tar", compression="none")
    try:
        sealed = sealing.seal(
            places, tmp_path / "root.tar", tmp_path / "stele.yaml", options=options, say=lambda _: None, record=lambda _: None
        )
        store = opening.open_store(places)
        release = store.release(sealed["release"])
        nodes = [node for node in store.tree(release.digest).nodes if node.kind == "file"]
        assert [node.path for node in nodes] == sorted(map(name, range(FILES)))
        assert sum(node.link is not None for node in nodes) == FILES // 1000
        counted = folders = 0
        for stratum in release.strata:
            image = store.image(stratum)
            done = subprocess.run(["fsck.erofs", image], capture_output=True, text=True, check=False)
            assert (done.returncode, "error" in (done.stdout + done.stderr).lower()) == (0, False), done.stderr
            said = subprocess.run(["dump.erofs", "-s", image], capture_output=True, text=True, check=True).stdout
            counted += int(re.search(r"inode count:\s+(\d+)", said)[1])  # type: ignore[index]
            layer = store.root / "blobs" / "sha256" / stratum.layer.digest[7:]
            names = subprocess.run(["tar", "-tf", layer], capture_output=True, check=True).stdout
            folders += sum(line.endswith(b"/") for line in names.splitlines())
        assert counted == FILES - FILES // 1000 + folders  # an inode for each file and, in each image, for each folder
    finally:
        for path in (tmp_path / "data").rglob("*.erofs"):
            immutable.make_mutable(path)
