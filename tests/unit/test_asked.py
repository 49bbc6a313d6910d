"""What is asked of a seal: the spec is read once and within bounds, and no option is passed over without a word."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stele.flow import initialise, opening, rebuilding, sealing
from stele.flow.places import Places
from stele.model import reference as references
from tests.refusals import code

SPEC = b'{"stele": 0, "name": "app", "command": ["/app"]}'


@pytest.fixture
def places(tmp_path) -> Places:
    made = Places(tmp_path / "data")
    initialise.make_keys(made)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "app").write_bytes(b"one")
    (tmp_path / "stele.yaml").write_bytes(SPEC)
    return made


def seal(places: Places, spec: Path, source: Any = None, **options: Any) -> dict[str, Any]:
    source = places.data.parent / "root" if source is None else source
    return sealing.seal(places, source, spec, options=sealing.Options(**options), say=lambda _: None, record=lambda _: None)


@contextlib.contextmanager
def once(data: bytes) -> Iterator[Path]:
    """A spec that can be read once, as a shell's `<(…)` is."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    try:
        yield Path(f"/dev/fd/{read}")
    finally:
        os.close(read)


@pytest.mark.parametrize("paranoid", [False, True])
def test_provenance_has_the_digest_of_the_spec_that_was_sealed_also_where_that_can_be_read_once(places, paranoid):
    for _ in range(2):  # the second time the short way may be taken
        with once(SPEC) as spec:
            release = seal(places, spec, paranoid=paranoid)["release"]
        [*_, told] = opening.open_store(places).attestations(release, "https://slsa.dev/provenance/v1")
        assert told["buildDefinition"]["externalParameters"]["spec"]["digest"]["sha256"] == hashlib.sha256(SPEC).hexdigest()


def test_an_endless_spec_is_refused_and_not_read_into_memory(places, tmp_path):
    argv = [sys.executable, "-m", "stele", "--data", str(places.data)]
    limit = 2 << 30

    def bounded(*more: str) -> str:
        return subprocess.run(
            [*argv, *more],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        ).stderr

    seal(places, tmp_path / "stele.yaml")
    source = str(tmp_path / "root")
    assert "spec.invalid" in bounded("seal", source, "-f", "/dev/zero")
    assert "spec.invalid" in bounded("verify", "app", "--rebuild", source, "-f", "/dev/zero")


def test_a_spec_that_cannot_be_read_is_said(places, tmp_path):
    seal(places, tmp_path / "stele.yaml")
    for path in (tmp_path / "nothing", tmp_path):
        assert code(seal, places, path) == "spec.unreadable"
        with pytest.raises(sealing.SteleError, match="cannot be read") as raised:
            rebuilding.rebuild(opening.open_store(places), "app", tmp_path / "root", path, sealing.Options(), lambda _: None)
        assert raised.value.code == "spec.unreadable"


IMAGE = references.parse("127.0.0.1:1/no/such:image")


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (None, {"platform": "linux/arm64"}), (None, {"plain_http": True}), (None, {"network": True}), (None, {"arguments": ("A=b",)}),
        (None, {"reference": "v1"}), (IMAGE, {"reference": "v1"}), (IMAGE, {"network": True}), (IMAGE, {"arguments": ("A=b",)}),
        ("app", {"platform": "linux/arm64"}), ("app", {"kind": "folder"}), ("app", {"plain_http": True}), ("app", {"arguments": ("A=b",)}),
        ("list", {"platform": "linux/arm64"}), ("list", {"network": True}),
    ],
)  # fmt: skip
def test_an_option_that_means_nothing_for_a_source_is_refused_and_named(places, tmp_path, source, options):
    seal(places, tmp_path / "stele.yaml")
    if source == "list":
        source = tmp_path / "a.debian.yaml"
        source.write_text("debian: 0\nsuite: bookworm\n")
    with pytest.raises(sealing.SteleError) as raised:
        seal(places, tmp_path / "stele.yaml", source, **options)
    assert raised.value.code == "seal.unused-option"
    ((name, _),) = options.items()
    assert {"arguments": "build-arg", "network": "build-network"}.get(name, name.replace("_", "-")) in raised.value.reason


def test_no_source_is_not_the_folder_one_is_in(places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "root")
    assert code(sealing.source_of, "", "auto") == "seal.source-missing"
    assert code(sealing.source_of, "", "folder") == "seal.source-missing"


@pytest.mark.parametrize("text", ["example.org/app@sha256:abc", "localhost:5000/App:1", "https://example.org/app:1", "roof"])
def test_what_is_neither_a_path_nor_an_image_is_told_how_both_are_written(places, tmp_path, text):
    with pytest.raises(sealing.SteleError) as raised:
        seal(places, tmp_path / "stele.yaml", sealing.source_of(text, "auto"))
    assert raised.value.code == "seal.source-missing"
    assert "registry.example.com/team/shop:1.4" in raised.value.remedy
