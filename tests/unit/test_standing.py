"""Whether what runs is still accepted: its own release and its data sets, looked at again when something changed."""

from __future__ import annotations

import msgspec
import pytest

from stele.flow import initialise, keyring, opening, sealing
from stele.flow.places import Places
from stele.flow.standing import Standing
from stele.trust import policy as policies
from stele.trust.errors import SteleError
from stele.trust.policy import key_id


class Data:
    """A data folder with a data set by alice and a workload by the folder's own key that mounts it."""

    def __init__(self, folder) -> None:
        self.folder, self.places = folder, Places(folder / "data")
        initialise.make_keys(self.places)
        keyring.generate(folder / "alice.key", None)
        self.alice = policies.PublicKey.from_pem((folder / "alice.pub").read_bytes())
        (folder / "root").mkdir()
        (folder / "root" / "app").write_text("one")
        policy = policies.parse(self.places.policy.read_bytes())
        policy = policies.with_key(policy, "alice", self.alice, 0, "")
        self.write(policies.with_rule(policies.with_rule(policy, "*", 1, ("release",)), "rows", 1, ("alice",)))
        self.rows = self.seal("stele: 0\nkind: dataset\nname: rows\n", str(folder / "alice.key"))
        self.app = self.seal(f"stele: 0\nname: app\ncommand: [/app]\ndata:\n- {{path: /rows, release: '{self.rows}'}}\n", "")
        self.store = opening.open_store(self.places)
        self.standing = Standing(self.store, self.places)

    def write(self, policy) -> None:
        self.places.policy.write_bytes(policy.encode())

    def seal(self, spec: str, key: str) -> str:
        path = self.folder / "stele.yaml"
        path.write_text(spec)
        options = sealing.Options(key=key)
        made = sealing.seal(self.places, self.folder / "root", path, options=options, say=lambda _: None, record=lambda _: None)
        return str(made["release"])


@pytest.fixture
def data(tmp_path) -> Data:
    return Data(tmp_path)


def test_a_release_whose_data_set_is_no_longer_accepted_is_not_started(data):
    assert data.standing.why_not(data.app) == ""
    policy = policies.parse(data.places.policy.read_bytes())
    stopping = msgspec.structs.replace(policy, lines=(*policy.lines, "running stop"))
    data.write(policies.revoked(stopping, policy.key(key_id(data.alice)), 0, "stolen", ""))
    assert "revoked" in data.standing.why_not(data.app)
    assert data.standing.stops(data.app)
    with pytest.raises(SteleError) as raised:
        data.standing.require(data.app)
    assert raised.value.code == "trust.key-revoked"


def test_what_could_not_be_looked_at_is_not_started_nor_stopped_and_looked_at_again(data):
    policy = policies.parse(data.places.policy.read_bytes())
    data.write(msgspec.structs.replace(policy, lines=(*policy.lines, "running stop")))
    manifest = data.store.root / "blobs" / "sha256" / data.app[7:]
    manifest.rename(data.folder / "away")
    assert "missing" in data.standing.why_not(data.app)
    assert not data.standing.stops(data.app)
    (data.folder / "away").rename(manifest)
    assert data.standing.why_not(data.app) == ""


def test_what_the_system_refuses_to_read_ends_no_supervision(data):
    data.places.policy.unlink()
    data.places.policy.mkdir()
    assert "cannot be looked at" in data.standing.why_not(data.app)
    assert not data.standing.stops(data.app)
    with pytest.raises(SteleError):
        data.standing.require(data.app)
