"""What was attested of a release: ours is found beside what strangers attached and what is lost; where none holds, it is said why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stele.host import immutable
from stele.seal import attest
from stele.seal.rebuild import LayerRebuilder
from stele.store.layout import Layout
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests.unit.test_updates import KEY, seal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stele.model.release import Release

KIND = "https://cyclonedx.org/bom"
STRANGER = PrivateKey.generate()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Layout]:
    yield Layout(tmp_path / "store", trusted=[KEY.public], rebuild=LayerRebuilder())
    for path in tmp_path.glob("*/erofs/*"):
        immutable.make_mutable(path)


def attach(store: Layout, release: Release, key: PrivateKey, said: bytes) -> str:
    """Attest something; returns the digest of its manifest."""
    referrer = attest.attest(release, KIND, said, key, store)
    store.refer(release, (referrer,))
    return referrer.descriptor.digest


def test_ours_holds_beside_a_strangers_and_a_lost_one(store: Layout) -> None:
    release = seal(store, {b"app": b"app"})
    attach(store, release, STRANGER, b'{"by":"a stranger"}')
    attach(store, release, KEY, b'{"by":"us"}')
    lost = attach(store, release, KEY, b'{"by":"us, lost"}')
    attach(store, release, STRANGER, b'{"by":"another stranger"}')
    (store.root / "blobs" / "sha256" / lost[7:]).unlink()
    assert store.attestations(release.digest, KIND) == [{"by": "us"}]


@pytest.mark.parametrize(("how", "code"), [("foreign", "store.bad-attestation"), ("lost", "store.damaged")])
def test_where_none_holds_it_is_said_why(store: Layout, how: str, code: str) -> None:
    release = seal(store, {b"app": b"app"})
    named = attach(store, release, STRANGER if how == "foreign" else KEY, b"{}")
    if how == "lost":
        (store.root / "blobs" / "sha256" / named[7:]).unlink()
    with pytest.raises(SteleError) as raised:
        store.attestations(release.digest, KIND)
    assert raised.value.code == code


def test_without_any_there_is_none(store: Layout) -> None:
    assert store.attestations(seal(store, {b"app": b"app"}).digest, KIND) == []
