"""A witness shows another history that the ledger's own key signed: nothing is published any more, whatever the policy says."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

import pytest

from stele.api.listening import listen
from stele.flow import cosigning, holding
from stele.flow.initialise import make_keys
from stele.flow.opening import open_ledger
from stele.flow.places import Places
from stele.host.http_server import HttpServer, Limits, Reply
from stele.ledger.reader import LedgerReader
from stele.trust import note, trust_keys, witnessing
from stele.trust.errors import SteleError
from tests import witnesses
from tests.data_folder import Data
from tests.integration.test_cosigning import cosigners, policy, trust_of, witnessed, write
from tests.integration.test_root_of_trust import Thief, applied, data, grow
from tests.ledgers import OTHER, event

_SHARED = (data,)
WAITS_MS = 60_000  # nobody waits so long: a witness that shows a fork ends it


@pytest.fixture
def places(tmp_path) -> Places:
    made = Places(tmp_path / "data")
    make_keys(made)
    return made


def published(places: Places) -> dict[str, bytes]:
    folder = places.ledger
    return {str(path.relative_to(folder)): path.read_bytes() for path in [folder / "checkpoint", *(folder / "checkpoints").iterdir()]}


def refused(places: Places, events: int = 1) -> SteleError:
    """What a publishing of so many new entries is refused with; they are committed all the same."""
    with contextlib.closing(open_ledger(places)) as ledger:
        before = ledger.size
        ledger.append([event(number, workload="second") for number in range(events)])
        with pytest.raises(SteleError) as raised:
            ledger.publish()
        ledger.append([event(0)])
        assert ledger.size >= before + events + 1
        assert ledger.read_only is None
        said = holding.state(ledger)
        assert said["committed"] > said["published"]
        assert all(each["error"].startswith("nothing is published") for each in said["witnesses"])
        holding.publish(ledger)  # an agent that starts so begins to supervise all the same
    return raised.value


@pytest.mark.parametrize("more", [1, 40], ids=["shorter", "longer"])
@pytest.mark.parametrize("block", [True, False], ids=["block", "publish"])
def test_a_backup_that_was_put_back_publishes_no_second_history(tmp_path, places, block, more):
    with witnessed(tmp_path, places, block=block, timeout_ms=WAITS_MS):
        write(places)
        shutil.copytree(places.data, tmp_path / "backup")
        write(places, 7)
        right = shutil.move(places.data, tmp_path / "right")
        shutil.move(tmp_path / "backup", places.data)
        before = published(places)
        found = refused(places, more)
        assert (found.code, found.retryable) == ("witness.forked", True)
        assert ("set back" if more == 1 else "another history") in found.reason
        assert published(places) == before
        assert refused(places).code == "witness.forked"  # and after a new start
        assert published(places) == before
        # the right copy is brought back
        shutil.rmtree(places.data)
        shutil.move(right, places.data)
        write(places)
        assert cosigners(places) == {note.COSIGNATURE, note.ML_DSA_44}
    assert LedgerReader(places.ledger).check(trust_of(places).ledgers) == []


@contextlib.contextmanager
def liar(keys, shows):
    """A witness that refuses everything, and says that `shows` is what it signed last."""

    def answer(method: str, path: str, body: bytes) -> Reply:
        del path, body
        return Reply(422, "text/plain", b"no\n") if method == "POST" else Reply(200, "text/plain", shows())

    server = HttpServer(listen("127.0.0.1:0"), answer, Limits(witnessing.MAX_BODY))
    try:
        yield policy(keys, f"http://127.0.0.1:{server.port}")
    finally:
        server.close()


LIES = {
    "nothing": lambda head: b"",
    "no note": lambda head: b"x" * 1000,
    "what it cannot have signed": lambda head: OTHER.sign(note.Checkpoint(OTHER.name, 9, bytes(32)).body()),
    "what another key signed in this name": lambda head: note.Signer.generate(note.unverified(head).origin).sign(
        note.Checkpoint(note.unverified(head).origin, 900, bytes(32)).body()
    ),
    "the true head with another size": lambda head: head.replace(b"\n2\n", b"\n3\n"),
    "the beginning of what is here": lambda head: head,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_witness_that_proves_nothing_holds_nothing_up(tmp_path, places, lie):
    """It may be set back, or hostile: who publishes without it goes on."""
    size = write(places)
    head = (places.ledger / "checkpoint").read_bytes()
    keys = witnesses.make(tmp_path / "w", *trust_of(places).ledgers)
    with liar(keys, lambda: LIES[lie](head)) as text:
        cosigning.set_witnesses(places, text, block=False, timeout_ms=WAITS_MS)
        assert write(places) > size
    assert cosigners(places) == set()


def test_a_thiefs_history_at_a_witness_stops_publishing_until_the_root_calls_the_key_stolen(data: Data, tmp_path: Path):
    places = Places(data.data)
    trusted = trust_keys.parse(places.trust.read_bytes())
    thief = Thief(data, "thief")
    grow(data, 2)
    head = (places.ledger / "checkpoint").read_bytes()
    thief.forge(4)
    keys = witnesses.make(tmp_path / "w", *thief.signer.verifiers)
    forged = (thief.ledger / "checkpoint").read_bytes()
    with witnesses.serving(tmp_path / "w", clock=lambda: int(time.time())) as server:
        assert witnesses.post(server.port, witnessing.encode(witnessing.Submission(0, (), forged)))[0] == 200
        cosigning.set_witnesses(places, policy(keys, f"http://127.0.0.1:{server.port}"), block=False, timeout_ms=WAITS_MS)
        assert trusted.roots
        assert refused(places).code == "witness.forked"
        assert (places.ledger / "checkpoint").read_bytes() == head
        # docs/guide/stolen-ledger-key.md
        data("trust", "recover", "-o", "root.2")
        applied(data, "root.2", "alice", "carol")
        (places.keys / "ledger.key").unlink()
        at = LedgerReader(places.ledger).size
        grow(data, 2)
        assert LedgerReader(places.ledger).size > at
