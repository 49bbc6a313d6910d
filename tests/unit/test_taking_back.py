"""A release that cannot be recorded is taken back, whichever way it was sealed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stele.flow import initialise, keyring, opening, sealing, signers, signing
from stele.flow.places import Places
from stele.trust import policy as policies
from stele.trust.errors import SteleError
from stele.trust.release_key import PublicKey
from tests.refusals import code


@pytest.fixture
def places(tmp_path) -> Places:
    made = Places(tmp_path / "data")
    initialise.make_keys(made)
    (tmp_path / "root").mkdir()
    for name in ("one", "two"):
        (tmp_path / "root" / name).write_bytes(name.encode())
    (tmp_path / "stele.yaml").write_text('{"stele": 0, "name": "app", "command": ["/one"]}')
    return made


def seal(places: Places, record: Callable[..., None], *, paranoid: bool) -> str:
    folder, options = places.data.parent, sealing.Options(paranoid=paranoid)
    return str(sealing.seal(places, folder / "root", folder / "stele.yaml", options=options, say=lambda _: None, record=record)["release"])


def fails(how: str) -> Callable[..., None]:
    def record(_: object) -> None:
        raise SteleError("it cannot be written", remedy="free space", code=how)

    return record


def done(_: object) -> None:
    """It is in the ledger."""


def seen(places: Places) -> list[str]:
    return [release.digest for release in opening.open_store(places).releases()]


@pytest.fixture(params=["whole", "again"])
def ready(request, places, monkeypatch) -> tuple[Places, bool]:
    """A folder that was sealed and changed since. Sealed by the whole way, or again by the last seal."""
    seal(places, done, paranoid=False)
    (places.data.parent / "root" / "one").write_bytes(b"changed")
    again = request.param == "again"
    if again:
        monkeypatch.setattr("stele.flow.sealing._whole", None)  # the test would not be of that way
    return places, not again


@pytest.mark.parametrize("how", ["ledger.write-failed", "ledger.locked"])
def test_the_index_is_what_it_was(ready, how):
    places, paranoid = ready
    before = (places.store / "index.json").read_bytes()
    assert code(seal, places, fails(how), paranoid=paranoid) == how
    assert (places.store / "index.json").read_bytes() == before
    assert list((places.store / "tmp").iterdir()) == []


def test_where_it_may_have_been_recorded_it_stays(ready):
    places, paranoid = ready
    before = seen(places)
    assert code(seal, places, fails("agent.broke-off"), paranoid=paranoid) == "agent.broke-off"
    assert len(seen(places)) == len(before) + 1


def test_a_release_that_was_there_keeps_its_place(places):
    first = seal(places, done, paranoid=False)
    (places.data.parent / "root" / "one").write_bytes(b"changed")
    second = seal(places, done, paranoid=True)
    (places.data.parent / "root" / "one").write_bytes(b"one")
    assert code(seal, places, fails("ledger.write-failed"), paranoid=True) == "ledger.write-failed"
    assert seen(places) == [first, second]


def test_what_somebody_else_published_meanwhile_stays(places):
    seal(places, done, paranoid=False)
    spec = places.data.parent / "stele.yaml"

    def meanwhile(_: object) -> None:
        spec.write_text('{"stele": 0, "name": "other", "command": ["/one"]}')
        seal(places, done, paranoid=True)
        fails("ledger.write-failed")(_)

    spec.write_text('{"stele": 0, "name": "app", "command": ["/two"]}')
    assert code(seal, places, meanwhile, paranoid=True) == "ledger.write-failed"
    assert {release.workload for release in opening.open_store(places).releases()} == {"app", "other"}
    assert len(seen(places)) == 3


def recorded(_: str, kind: str, **__: object) -> None:
    """It is in the ledger."""


def not_recorded(how: str) -> Callable[..., None]:
    def record(_: str, kind: str, **__: object) -> None:
        raise SteleError(f"{kind} cannot be written", remedy="free space", code=how)

    return record


def sign(places: Places, name: str, record: Callable[..., None]) -> list[str]:
    key = places.data.parent / "other.key"
    if not key.exists():
        public = PublicKey.from_pem(Path(keyring.generate(key, None)["public"]).read_bytes())
        policy = policies.with_key(policies.parse(places.policy.read_bytes()), "other", public, 0, "")
        places.policy.write_bytes(policy.encode())
    return list(signing.sign(places, name, key=str(key), ask=signers.nobody, record=record)["keys"])


def test_a_signature_that_cannot_be_recorded_is_not_there(places):
    first = seal(places, done, paranoid=False)
    (places.data.parent / "root" / "one").write_bytes(b"changed")
    seal(places, done, paranoid=True)
    before = (places.store / "index.json").read_bytes()
    assert code(sign, places, first, not_recorded("ledger.write-failed")) == "ledger.write-failed"
    assert (places.store / "index.json").read_bytes() == before
    assert list((places.store / "tmp").iterdir()) == []
    assert len(sign(places, first, recorded)) == 2
    assert (places.store / "index.json").read_bytes() != before


@pytest.mark.parametrize("how", ["agent.not-running", "agent.not-permitted", "agent.stopping", "host.not-permitted"])
def test_what_nobody_was_asked_to_record_is_not_there(places, how):
    digest = seal(places, done, paranoid=False)
    before = (places.store / "index.json").read_bytes()
    assert code(sign, places, digest, not_recorded(how)) == how
    assert (places.store / "index.json").read_bytes() == before
