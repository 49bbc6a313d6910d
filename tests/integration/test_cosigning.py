"""A data folder's ledger and its witnesses: held back or published without, what comes late, and two ledgers with one key."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

import pytest

from stele.api.listening import listen
from stele.flow import cosigning, holding, monitoring, supervision
from stele.flow.initialise import make_keys
from stele.flow.opening import hold_ledger, open_ledger
from stele.flow.places import Places
from stele.host.http_server import HttpServer, Limits, Reply
from stele.ledger.monitor import Monitor
from stele.ledger.reader import LedgerReader
from stele.ledger.source import FolderSource
from stele.trust import note, quorum, trust_keys
from stele.trust.errors import SteleError
from stele.witness import state
from stele.witness.heads import Heads
from tests import witnesses
from tests.ledgers import event


@pytest.fixture
def places(tmp_path):
    made = Places(tmp_path / "data")
    make_keys(made)
    return made


def trust_of(places):
    return trust_keys.parse(places.trust.read_bytes())


def policy(keys, url):
    lines = [f"witness w-{key.algorithm} {key.encode()} {url}" for key in keys.verifiers]
    return "".join(f"{line}\n" for line in [*lines, "group w all w-4 w-6", "quorum w"]).encode()


@contextlib.contextmanager
def witnessed(tmp_path, places, *, block, timeout_ms=20_000):
    """A witness of this ledger that the ledger asks."""
    folder = tmp_path / "witness"
    keys = state.read_keys(folder) if folder.exists() else witnesses.make(folder, *trust_of(places).ledgers)
    with witnesses.serving(folder, clock=lambda: int(time.time())) as server:
        cosigning.set_witnesses(places, policy(keys, f"http://127.0.0.1:{server.port}"), block=block, timeout_ms=timeout_ms)
        yield keys


def write(places, count=1):
    with contextlib.closing(open_ledger(places)) as ledger:
        ledger.append([event(number) for number in range(count)])
        return ledger.publish()


def cosigners(places, size=None):
    trust = trust_of(places)
    name = "checkpoint" if size is None else f"checkpoints/{size}"
    opened = note.open_note((places.ledger / name).read_bytes(), trust.ledgers, trust.witnesses)
    return {each.verifier.algorithm for each in opened.signatures if each.verifier in trust.witnesses}


def until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("block", [True, False])
def test_what_is_published_is_witnessed(tmp_path, places, block):
    with witnessed(tmp_path, places, block=block):
        for number in range(3):
            size = write(places, number + 1)
            assert cosigners(places) == cosigners(places, size) == {note.COSIGNATURE, note.ML_DSA_44}
    found = cosigning.standing(places)
    assert found["published"] == found["witnessed"] == size
    assert [each["size"] for each in found["witnesses"]] == [size, size]
    assert LedgerReader(places.ledger).check(trust_of(places).ledgers) == []


def test_without_its_witness_a_blocking_ledger_commits_and_publishes_nothing(tmp_path, places):
    with witnessed(tmp_path, places, block=True, timeout_ms=300):
        before = write(places)
    ledger = open_ledger(places)
    ledger.append([event(7)])
    with pytest.raises(SteleError) as raised:
        ledger.publish()
    assert raised.value.code == "witness.no-quorum"
    assert ledger.published == before
    assert LedgerReader(places.ledger).size == before
    assert sorted(path.name for path in (places.ledger / "checkpoints").iterdir()) == [str(before)]
    ledger.close()
    # the witness is back, at another address: what was committed is published
    with witnessed(tmp_path, places, block=True):
        size = write(places)
        assert size > before + 1
        assert cosigners(places) == {note.COSIGNATURE, note.ML_DSA_44}
        assert '"number":7' in b"".join(LedgerReader(places.ledger).raw_entries(0, size)).decode()


def test_an_agent_that_starts_without_its_witness_knows_what_was_committed(tmp_path, places):
    with witnessed(tmp_path, places, block=True, timeout_ms=300):
        write(places)
    with contextlib.closing(open_ledger(places)) as ledger:
        ledger.append([event(8, workload="bank", kind="release.quarantined", release="sha256:" + 64 * "0", reason="bad")])
    with contextlib.closing(hold_ledger(places)) as ledger:
        found = supervision._histories(places, ledger)
        assert ledger.published == 2
        assert found.names() == ("bank", "shop")
        assert list(found.of("bank").quarantined) == ["sha256:" + 64 * "0"]
        until(lambda: all(each["error"] for each in holding.state(ledger)["witnesses"]))


def test_a_blocking_ledger_tries_again_by_itself(tmp_path, places):
    with witnessed(tmp_path, places, block=True, timeout_ms=300):
        before = write(places)
    # the same address, for a while without anybody there
    port = int(cosigning.policy(places).witnesses[0].url.rpartition(":")[2])
    with contextlib.closing(open_ledger(places)) as ledger:
        ledger.append([event(7)])
        with pytest.raises(SteleError):
            ledger.publish()
        with witnesses.serving(tmp_path / "witness", clock=lambda: int(time.time()), port=port):
            until(lambda: ledger.published > before)
    assert cosigners(places) == {note.COSIGNATURE, note.ML_DSA_44}


def test_cosignatures_that_come_late_are_added(tmp_path, places):
    with witnessed(tmp_path, places, block=False, timeout_ms=300):
        write(places)
    port = int(cosigning.policy(places).witnesses[0].url.rpartition(":")[2])
    with contextlib.closing(open_ledger(places)) as ledger:
        ledger.append([event(7)])
        size = ledger.publish()
        assert cosigners(places) == set()
        found = cosigning.standing(places)
        assert (found["published"], found["witnessed"]) == (size, 2)
        assert f"newest {size - 2} of {size} entries" in holding.not_witnessed(places)[0]
        with witnesses.serving(tmp_path / "witness", clock=lambda: int(time.time()), port=port):
            until(lambda: cosigners(places))
        assert cosigners(places) == cosigners(places, size) == {note.COSIGNATURE, note.ML_DSA_44}
    assert cosigning.standing(places)["witnessed"] == size
    assert holding.not_witnessed(places) is None
    # and after a restart nothing is damaged, and nothing is added twice
    size = write(places)
    assert LedgerReader(places.ledger).check(trust_of(places).ledgers) == []


def test_two_ledgers_with_one_key_are_caught_by_the_witness_and_by_the_monitor(tmp_path, places):
    """A split view really made: the data folder is copied, and both are continued."""
    with witnessed(tmp_path, places, block=True, timeout_ms=20_000):
        write(places)
        shutil.copytree(places.data, tmp_path / "double")
        double = Places(tmp_path / "double")
        size = write(places, 3)
        trust = trust_of(places)

        def look(folder):
            monitor = Monitor(tmp_path / "m", FolderSource(folder), trust, clock=time.time_ns, expected=None, stale_ns=0)
            try:
                return monitor.look()
            finally:
                monitor.close()

        assert look(places.ledger).witnessed == size
        # the double, with the same key: the witness cosigns nothing of it, so that it publishes nothing
        with contextlib.closing(open_ledger(double)) as ledger:
            ledger.append([event(number, kind="release.pardoned") for number in range(8)])
            with pytest.raises(SteleError) as raised:
                ledger.publish()
            assert raised.value.code == "witness.forked"
            assert "another history" in raised.value.reason
        assert LedgerReader(double.ledger).size == 2
        # its operator asks nobody, and shows it all the same
        cosigning.set_witnesses(double, b"quorum none\n", block=False, timeout_ms=5000)
        forked = write(double)
        assert cosigners(double) == set()
        found = look(double.ledger)
        assert [alarm.kind for alarm in found.alarms] == ["split-view"]
        assert len(found.alarms[0].evidence) == 3
        seen, shown = (note.open_note(Path(path).read_bytes(), trust.ledgers).checkpoint for path in found.alarms[0].evidence[:2])
        assert (seen.size, shown.size) == (size, forked)
    kept = state.evidence(tmp_path / "witness")
    assert kept
    assert all(note.open_note(path.read_bytes(), trust.ledgers).checkpoint.size > 2 for path in kept)


@pytest.mark.parametrize("block", [True, False])
def test_a_witness_that_was_set_back_is_told_of_in_the_ledger_and_by_the_monitor(tmp_path, places, block):
    """Set back while no ledger was open: what it cosigned is in the archive, and the monitor keeps it, too."""
    heads, saved = tmp_path / "witness" / "heads", tmp_path / "saved"
    with witnessed(tmp_path, places, block=block):
        write(places)
        shutil.copy(heads, saved)
        cosigned = write(places)
        told, asked = [], cosigning.policy(places).witnesses
        assert look(tmp_path / "m", places, told, asked)
    shutil.copy(saved, heads)
    with witnessed(tmp_path, places, block=block, timeout_ms=500 if block else 60_000):
        asked = cosigning.policy(places).witnesses
        assert not look(tmp_path / "m", places, told, asked)  # the ledger does not know it yet: the witness itself says it
        assert [alarm["kind"] for alarm in told[-1]["alarms"]] == ["witness-behind"]
        names = [note.unverified(Path(path).read_bytes()).size for path in told[-1]["alarms"][0]["evidence"]]
        assert names == [cosigned, 2]
        with contextlib.closing(open_ledger(places)) as ledger:
            ledger.append([event(7)])
            if block:
                with pytest.raises(SteleError):
                    ledger.publish()
            else:
                ledger.publish()
            if block:
                until(lambda: ledger.size >= cosigned + 3)  # event, epoch, and the alarm
            else:
                assert ledger.size >= cosigned + 3  # before whoever published may end
                until(lambda: ledger.published == ledger.size)
        assert heads.read_bytes() == saved.read_bytes()  # nothing was asked for from there on
        if block:
            assert LedgerReader(places.ledger).size == cosigned
            return
        assert cosigners(places) == set()
        (found,) = cosigning.standing(places)["behind"]
        assert (found["witness"], found["cosigned"], found["named"]) == (asked[0].verifier.name, cosigned, 2)
        assert not look(tmp_path / "m", places, told, ())  # who does not ask the witness reads it in the ledger
        assert [alarm["kind"] for alarm in told[-1]["alarms"]] == ["witness-behind"]
        assert f"named 2 entries to the ledger, and had cosigned {cosigned}" in told[-1]["alarms"][0]["reason"]


def look(folder, places, told, asked):
    """One look of a monitor with what witnesses say; whether all is well."""
    trust = trust_of(places)
    monitor = Monitor(folder, FolderSource(places.ledger), trust, clock=time.time_ns, expected=None, stale_ns=0)
    with contextlib.closing(monitor), contextlib.closing(Heads(folder / "cosigned", asked, monitor.believed)) as heads:
        return monitoring.follow(monitor, once=True, wait=lambda: True, tell=told.append, command=(), heads=heads)


def test_what_a_witness_says_is_believed_by_signatures_alone(tmp_path):
    """A stranger's head, another ledger's, and none at all say nothing of the witness; an old one that is shown again does not either."""
    log, other = witnesses.Log(), witnesses.Log(note.Signer.generate("log.example/other"))
    keys, strange = (witnesses.make(tmp_path / name, name=f"witness.example/{name}") for name in ("w", "s"))
    shown = {"head": b""}
    answer = HttpServer(listen("127.0.0.1:0"), lambda *_: Reply(200 if shown["head"] else 404, "text/plain", shown["head"]), Limits(0))
    asked = quorum.parse(policy(keys, f"http://127.0.0.1:{answer.port}")).witnesses

    def cosigned(of, size, seconds, by=keys):
        return of.note(size) + by.lines(of.head(size).body(), seconds)

    def believed(raw):
        return note.open_note(raw, log.signer.verifiers)

    with contextlib.closing(answer), contextlib.closing(Heads(tmp_path / "kept", asked, believed)) as heads:
        seen = cosigned(log, 9, 100)
        assert heads.look(seen) == []
        for head in (b"", b"x", cosigned(log, 5, 200, strange), cosigned(other, 5, 200), cosigned(log, 9, 200), log.note(5)):
            shown["head"] = head
            assert heads.look(cosigned(log, 9, 100)) == []
            assert heads.look(cosigned(log, 7, 100)) == []  # an old checkpoint of the ledger
        for head, why in ((cosigned(log, 5, 50), "it was set back"), (cosigned(log, 5, 200), "later than the other at 100")):
            shown["head"] = head
            (found,) = heads.look(log.note(9))
            assert why in found.reason
            assert found.notes == (seen, head)
        shown["head"] = b""
        (found,) = heads.look(cosigned(log, 7, 101))
        assert "later than the other" in found.reason
        fork = witnesses.Log(tag="fork")
        (found,) = heads.look(cosigned(fork, 9, 101))
        assert "two roots of size 9" in found.reason
        for path in (tmp_path / "kept").iterdir():
            path.write_bytes(b"altered")
        assert heads.look(cosigned(log, 7, 101)) == []  # what it kept is not there to compare with


def test_a_policy_for_another_ledger_is_refused(tmp_path, places):
    other = note.Signer.generate("log.example/other").verifiers[0]
    with pytest.raises(SteleError) as raised:
        cosigning.set_witnesses(places, f"log {other.encode()}\nquorum none\n".encode(), block=False, timeout_ms=5000)
    assert raised.value.code == "witness.bad-policy"
    for timeout_ms in (0, 99, 10**9):
        with pytest.raises(SteleError) as raised:
            cosigning.set_witnesses(places, b"quorum none\n", block=False, timeout_ms=timeout_ms)
        assert raised.value.code == "witness.bad-settings"
    assert cosigning.settings(places).timeout_ms == 5000
