"""`stele diff` on two real releases, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SPEC = """\
stele: 0
name: shop
command: [/bin/shop]
env: {{LEVEL: "{level}"}}
settings:
  - {{path: /etc/shop.conf, content: "{setting}"}}
"""


def stele(data: Path, *argv: str, check: bool = True) -> str:
    done = subprocess.run([sys.executable, "-m", "stele", "--data", str(data), *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr + done.stdout
    return done.stdout if check else done.stderr


@pytest.fixture
def two(tmp_path):
    """A data folder with two releases, and their digests."""
    data, root, spec = tmp_path / "data", tmp_path / "root", tmp_path / "stele.yaml"
    (root / "bin").mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-m", "stele", "--data", str(data), "init", "--name", "starter"], cwd=tmp_path, check=True, capture_output=True
    )
    digests = []
    for level, setting in (("1", "a"), ("2", "bb")):
        for name, text in {"bin/shop": f"version {level}", "same": "same", f"only-{level}": "x"}.items():
            (root / name).write_text(text)
            (root / name).chmod(0o755)
        if level == "2":
            (root / "only-1").unlink()
            (root / "same").chmod(0o700)
        spec.write_text(SPEC.format(level=level, setting=setting))
        digests.append(json.loads(stele(data, "--json", "seal", str(root), "-f", str(spec)))["release"])
    return data, digests


def test_what_changed_is_said(two):
    data, (old, new) = two
    found = json.loads(stele(data, "--json", "diff", old, "shop"))
    assert (found["before"], found["after"]) == (old, new)
    assert {(path["path"], path["change"], *path["what"]) for path in found["paths"]} == {
        ("/bin/shop", "changed", "content"),
        ("/etc/shop.conf", "changed", "content"),
        ("/only-1", "removed"),
        ("/only-2", "added"),
        ("/same", "changed", "mode"),
    }
    assert [path["path"] for path in found["paths"] if path["setting"]] == ["/etc/shop.conf"]
    assert found["spec"] == [{"field": "env", "before": {"LEVEL": "1"}, "after": {"LEVEL": "2"}}]
    assert found["new_bytes"] == len("version 2") + len("bb")
    assert found["layers"] == 2
    assert found["layer_bytes"] > 0


def test_a_person_reads_it(two):
    data, (old, new) = two
    text = stele(data, "diff", old, new)
    for part in ("spec  env", "/etc/shop.conf", "setting, content", "1 added, 1 removed, 3 changed", "2 layers"):
        assert part in text
    assert "nothing differs" in stele(data, "diff", new, new)


def test_a_new_time_does_not_drown_the_rest(two, tmp_path):
    data, (_, old) = two
    spec = tmp_path / "stele.yaml"
    spec.write_text(spec.read_text() + "time: 1700000000\n")
    (tmp_path / "root" / "same").write_text("other")
    new = json.loads(stele(data, "--json", "seal", str(tmp_path / "root"), "-f", str(spec)))["release"]
    text = stele(data, "diff", old, new)
    assert "content, time" in text
    assert "/bin/shop" not in text
    assert "only the time changed of" in text
    assert "/bin/shop" in stele(data, "diff", old, new, "--all")


def test_an_unknown_release_is_refused(two):
    data, (old, _) = two
    assert "has no release" in stele(data, "diff", old, "beef00", check=False)


def test_packages_packed_releases_and_deltas(two, tmp_path):
    data, (_, old) = two
    root, spec = tmp_path / "root", tmp_path / "stele.yaml"
    digests = []
    for version in ("1.0", "1.1"):
        info = root / "usr" / "lib" / "python3" / "dist-packages" / "shop-1.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shop\nVersion: {version}\n")
        (info / "RECORD").write_text("shop-1.dist-info/METADATA,,\nshop-1.dist-info/RECORD,,\n")
        digests.append(json.loads(stele(data, "--json", "seal", str(root), "-f", str(spec)))["release"])
    packed = json.loads(stele(data, "--json", "store", "pack"))
    assert set(packed["whole"]) == {digests[1]}
    assert old in packed["packed"]
    found = json.loads(stele(data, "--json", "diff", *digests))
    assert found["packages"] == [{"ecosystem": "python", "name": "shop", "before": "1.0", "after": "1.1"}]
    assert found["delta_bytes"] is None  # the store's own delta leads the other way
    back = json.loads(stele(data, "--json", "diff", digests[1], digests[0]))
    assert 0 < back["delta_bytes"] < 3000
    assert "by delta" in stele(data, "diff", digests[1], digests[0])
    assert "python shop: 1.0 -> 1.1" in stele(data, "diff", *digests)
    for argv in (("inspect", old, "--files"), ("verify", old), ("inspect", old)):
        stele(data, *argv)
    assert json.loads(stele(data, "--json", "store", "pin", old)) == [old]
    assert old in json.loads(stele(data, "--json", "store", "pack"))["whole"]


def test_a_delta_made_at_seal(two, tmp_path):
    data, (_, old) = two
    (tmp_path / "root" / "same").write_text("not the same")
    sealed = json.loads(stele(data, "--json", "seal", str(tmp_path / "root"), "-f", str(tmp_path / "stele.yaml"), "--delta"))
    [made] = sealed["deltas"]
    assert made["base"] == old
    assert json.loads(stele(data, "--json", "diff", old, sealed["release"]))["delta_bytes"] == made["size"]
    other = tmp_path / "stele.yaml"
    again = json.loads(stele(data, "--json", "seal", "--from", old, "-f", str(other)))
    assert again["release"] == old
