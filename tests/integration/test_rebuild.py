"""`stele verify --rebuild`: a release beside what its source gives now."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stele.flow import rebuilding
from stele.host import immutable


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "app").write_bytes(os.urandom(200_000))
    (tmp_path / "conf").write_text("a = 1\n")
    (tmp_path / "stele.yaml").write_text(
        '{"stele": 0, "name": "app", "command": ["/app"], "settings": [{"path": "/etc/conf", "source": "conf"}]}'
    )
    yield tmp_path / "data"
    for path in (tmp_path / "data").rglob("*.erofs"):
        immutable.make_mutable(path)


def stele(data: Path, *args: str, code: int = 0) -> dict:
    argv = [sys.executable, "-m", "stele", "--data", str(data), "--json", *args]
    ran = subprocess.run(argv, capture_output=True, check=False, cwd=data.parent)
    assert ran.returncode == code, ran.stderr + ran.stdout
    return json.loads(ran.stdout) if ran.stdout.startswith(b"{") else {}


def files(data: Path) -> set[Path]:
    return {path for path in (data / "store").rglob("*") if path.is_file()}


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_the_same_source_gives_the_same_release(data, compression):
    stele(data, "init", "--name", "unused")
    sealed = stele(data, "seal", "root", "-f", "stele.yaml", "--compression", compression)
    before = files(data)
    found = stele(data, "verify", "app", "--rebuild", "root")
    assert found["same"]
    assert found["rebuilt"] == sealed["release"]
    assert found["why"] == ""
    assert files(data) == before


def test_another_compression_is_the_same_content_and_another_manifest(data):
    stele(data, "init", "--name", "unused")
    made = [stele(data, "seal", "root", "-f", "stele.yaml", "--compression", name) for name in ("zstd", "gzip", "none")]
    assert len({item["release"] for item in made}) == 3
    assert len({item["tree"] for item in made}) == 1
    assert len({item["config"] for item in made}) == 1
    assert len({json.dumps(item["strata"]) for item in made}) == 1


def test_what_differs_is_named(data):
    stele(data, "init", "--name", "unused")
    stele(data, "seal", "root", "-f", "stele.yaml")
    (data.parent / "root" / "app").write_bytes(b"other")
    (data.parent / "root" / "more").write_text("more")
    found = stele(data, "verify", "app", "--rebuild", "root", code=1)
    assert found["differs"] == list(rebuilding.CONTENT)
    assert [(item["path"], item["change"]) for item in found["paths"]] == [("/app", "changed"), ("/more", "added")]
    argv = [sys.executable, "-m", "stele", "--data", str(data), "verify", "app", "--rebuild", "root"]
    ran = subprocess.run(argv, capture_output=True, check=False, cwd=data.parent, text=True)
    assert "/more" in ran.stdout


def test_another_setting_or_command_differs(data):
    stele(data, "init", "--name", "unused")
    stele(data, "seal", "root", "-f", "stele.yaml")
    (data.parent / "conf").write_text("a = 2\n")
    found = stele(data, "verify", "app", "--rebuild", "root", code=1)
    assert [item["path"] for item in found["paths"]] == ["/etc/conf"]
    (data.parent / "conf").write_text("a = 1\n")
    spec = data.parent / "stele.yaml"
    spec.write_text(spec.read_text().replace('["/app"]', '["/app", "-x"]'))
    assert stele(data, "verify", "app", "--rebuild", "root", code=1)["differs"] == ["config"]


def test_a_codec_of_another_version_explains_a_manifest_that_differs():
    told = rebuilding.explain("zstd 1.5.5 level 3", "zstd 1.5.7 level 3")
    assert "zstd 1.5.5" in told
    assert "zstd 1.5.7" in told
    assert "otherwise than it says" in rebuilding.explain("none", "none")


def test_a_release_by_another_version_of_the_codec_is_the_same_content(data, monkeypatch):
    """As one that was sealed elsewhere: its layers are whole, and compressed otherwise."""
    stele(data, "init", "--name", "unused")
    older = (
        "import stele.seal.codec as c, zstandard, sys\n"
        "c.codec_name = lambda compression: 'zstd 1.4.0 level 1 mt'\n"
        "c.encoder = lambda compression, **_: zstandard.ZstdCompressor(level=1, threads=1).compressobj()\n"
        "from stele.cli.app import run\nsys.exit(run(sys.argv[1:]))\n"
    )
    argv = [sys.executable, "-c", older, "--data", str(data), "seal", "root", "-f", "stele.yaml"]
    subprocess.run(argv, check=True, capture_output=True, cwd=data.parent)
    found = stele(data, "verify", "app", "--rebuild", "root")
    assert found["same"]
    assert found["rebuilt"] != found["release"]
    assert "zstd 1.4.0 level 1 mt" in found["why"]
