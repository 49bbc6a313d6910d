"""Collecting cosignatures: at once from all, until the quorum is there; what comes late is not lost; what is wrong is not believed."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from stele.api.listening import listen
from stele.host.http_server import HttpServer, Limits, Reply
from stele.trust import note, quorum, witnessing
from stele.trust.errors import SteleError
from stele.witness.collect import Collector
from stele.witness.service import Witness
from tests import witnesses
from tests.witnesses import NOW, SIGNER, Log

LOG = Log()


class Peer:
    """A witness that can be switched off, slowed down, or made to lie; always at the same port."""

    def __init__(self, folder, name):
        self.folder = folder
        self.keys = witnesses.make(folder, name=name)
        self.witness = Witness(folder, clock=lambda: NOW)
        self.off = False
        self.go = threading.Event()
        self.go.set()
        self.asked = 0
        self.twist = lambda reply: reply
        self.server = HttpServer(listen("127.0.0.1:0"), self.answer, Limits(witnessing.MAX_BODY))
        self.url = f"http://127.0.0.1:{self.server.port}"

    def answer(self, method, path, body):
        self.asked += 1
        self.go.wait(30)
        if self.off:
            return Reply(503, "text/plain", b"off\n")
        return self.twist(Reply(*self.witness.answer(method, path, body)))

    def save(self):
        shutil.copy(self.folder / "heads", self.folder / "saved")

    def restore(self):
        """Bring its heads back from a backup."""
        self.witness.close()
        shutil.copy(self.folder / "saved", self.folder / "heads")
        self.witness = Witness(self.folder, clock=lambda: NOW)

    def close(self):
        self.go.set()
        self.server.close()
        self.witness.close()


@pytest.fixture
def peers(request, tmp_path):
    count = getattr(request, "param", 3)
    made = [Peer(tmp_path / name, f"witness.example/{name}") for name in ("w1", "w2", "w3")[:count]]
    yield made
    closing = [threading.Thread(target=peer.close) for peer in made]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join()


alone = pytest.mark.parametrize("peers", [1], indirect=True)


def policy_of(peers, threshold):
    lines = []
    for peer in peers:
        name = peer.keys.ed25519.verifier.name.rpartition("/")[2]
        lines += [f"witness {name}-{key.algorithm} {key.encode()} {peer.url}" for key in peer.keys.verifiers]
        lines.append(f"group {name} all {name}-4 {name}-6")
    names = " ".join(peer.keys.ed25519.verifier.name.rpartition("/")[2] for peer in peers)
    return quorum.parse("".join(line + "\n" for line in [*lines, f"group q {threshold} {names}", "quorum q"]).encode())


@contextlib.contextmanager
def collecting(peers, threshold, *, block=True, timeout=10.0, late=lambda size, lines: None, cosigned=None):
    collector = Collector(policy_of(peers, threshold), SIGNER.verifiers, block=block, timeout=timeout, late=late, cosigned=cosigned)
    try:
        yield collector
    finally:
        collector.close()


def ask(collector, size, log=LOG):
    return collector(log.note(size), size, lambda old: log.prove(old, size))


def cosigners(peers, signed):
    opened = note.open_note(signed, SIGNER.verifiers, [key for peer in peers for key in peer.keys.verifiers])
    return {each.verifier.name.rpartition("/")[2] for each in opened.signatures if each.verifier.name != SIGNER.name}


def until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_quorum_is_enough_and_the_slow_one_is_not_waited_for(peers):
    came = []
    peers[2].go.clear()
    with collecting(peers, 2, late=lambda size, lines: came.append((size, lines))) as collector:
        signed = ask(collector, 7)
        assert cosigners(peers, signed) == {"w1", "w2"}
        assert came == []
        peers[2].go.set()
        until(lambda: came)
        assert came[0][0] == 7
        assert cosigners(peers, signed + came[0][1]) == {"w1", "w2", "w3"}
        until(lambda: all(each.size == 7 and each.seconds == NOW and not each.error for each in collector.standings()))


def test_what_a_witness_knows_is_found_out(peers):
    with collecting(peers, 3) as collector:
        ask(collector, 5)
    with collecting(peers, 3) as again:  # knows nothing of what was asked before
        assert cosigners(peers, ask(again, 9)) == {"w1", "w2", "w3"}
        assert peers[0].asked == 3
        assert cosigners(peers, ask(again, 12)) == {"w1", "w2", "w3"}
        assert peers[0].asked == 4
        assert cosigners(peers, ask(again, 12)) == {"w1", "w2", "w3"}  # from memory
        assert peers[0].asked == 4


def test_without_the_quorum_a_blocking_policy_holds_publication_back(peers):
    peers[0].off = peers[1].off = True
    with collecting(peers, 2, timeout=0.5) as collector:
        with pytest.raises(SteleError) as raised:
            ask(collector, 7)
        assert raised.value.code == "witness.no-quorum"
        assert raised.value.retryable
        peers[0].off = False
        until(lambda: sum(each.size == 7 for each in collector.standings()) == 4)
        # the ledger tries again, at a larger size or the same
        assert cosigners(peers, ask(collector, 7)) == {"w1", "w3"}


def test_otherwise_it_is_published_without_and_those_that_failed_are_not_waited_for(peers):
    peers[0].off = True
    came = []
    with collecting(peers, 3, block=False, timeout=30.0, late=lambda size, lines: came.append((size, lines))) as collector:
        begun = time.monotonic()
        signed = ask(collector, 7)
        assert cosigners(peers, signed) == {"w2", "w3"}
        assert cosigners(peers, ask(collector, 8)) == {"w2", "w3"}
        assert time.monotonic() - begun < 20  # a timeout that nobody had to wait for
        assert "503" in next(each.error for each in collector.standings() if each.name == "w1-4")
        peers[0].off = False
        until(lambda: came)
        assert came[0][0] == 8
        assert cosigners(peers, came[0][1] and LOG.note(8) + came[0][1]) == {"w1"}


def test_time_is_up_for_one_that_never_answers(peers):
    peers[0].go.clear()
    with collecting(peers, 3, block=False, timeout=0.5) as collector:
        assert cosigners(peers, ask(collector, 7)) == {"w2", "w3"}


@alone
@pytest.mark.parametrize(
    "twist",
    [
        lambda reply: reply._replace(body=b""),
        lambda reply: reply._replace(body=b"\n" + reply.body),
        lambda reply: reply._replace(body=reply.body[:-1]),
        lambda reply: reply._replace(body=reply.body + reply.body),
        lambda reply: reply._replace(body=reply.body + b"\n\n\xe2\x80\x94 a AAAAAAAA\n"),
        lambda reply: reply._replace(body=b"x" * (witnessing.MAX_ANSWER + 1)),
        lambda reply: reply._replace(body=reply.body.replace(b"w1 ", b"w9 ")),
        lambda reply: reply._replace(status=204, body=b""),
        lambda reply: reply._replace(status=409, content_type="text/x.tlog.size", body=b"3\n"),
        lambda reply: reply._replace(status=409, content_type="text/x.tlog.size", body=b"03\n"),
        lambda reply: reply._replace(status=409, content_type="text/plain", body=b"3\n"),
        lambda reply: reply._replace(status=409, content_type="text/x.tlog.size", body=b"8\n"),
        lambda reply: reply._replace(status=301, body=b""),
    ],
)  # fmt: skip
def test_answers_that_are_none_count_as_none(peers, twist):
    peers[0].twist = twist
    with collecting(peers, 1, timeout=0.3) as collector:
        with pytest.raises(SteleError) as raised:
            ask(collector, 7)
        assert raised.value.code == "witness.no-quorum"
        until(lambda: collector.standings()[0].error)
        peers[0].twist = lambda reply: reply
        until(lambda: collector.standings()[0].size == 7)


def test_a_cosignature_of_another_text_is_refused(peers):
    other = Log(tag="other")
    lines = peers[0].keys.lines(other.head(7).body(), NOW)
    with pytest.raises(SteleError) as raised:
        witnessing.take_lines(lines, LOG.note(7), SIGNER.verifiers, peers[0].keys.verifiers)
    assert raised.value.code == "witness.bad-answer"
    timeless = peers[0].keys.lines(LOG.head(7).body(), 0)
    with pytest.raises(SteleError) as raised:
        witnessing.take_lines(timeless, LOG.note(7), SIGNER.verifiers, peers[0].keys.verifiers)
    assert raised.value.code == "witness.bad-answer"


def test_lines_of_strangers_are_dropped(peers):
    good = peers[0].keys.lines(LOG.head(7).body(), NOW)
    strange = peers[1].keys.lines(LOG.head(7).body(), NOW)
    assert witnessing.take_lines(strange + good, LOG.note(7), SIGNER.verifiers, peers[0].keys.verifiers) == good


def test_a_ledger_that_was_set_back_is_told_so(peers):
    with collecting(peers, 3) as collector:
        ask(collector, 9)
    with collecting(peers, 3, timeout=1.0) as collector:
        with pytest.raises(SteleError) as raised:
            ask(collector, 6)
        assert "set back" in raised.value.reason


@pytest.mark.parametrize("restart", [False, True])
def test_a_witness_that_was_set_back_is_told_of_and_not_counted(peers, restart):
    alarms = []
    with collecting(peers, 3) as collector:
        ask(collector, 5)
        peers[0].save()
        assert cosigners(peers, ask(collector, 9)) == {"w1", "w2", "w3"}
        peers[0].restore()
        if not restart:
            alarms = told_of_the_first(collector, peers)
    if restart:
        with collecting(peers, 2, cosigned=dict.fromkeys(peers[0].keys.verifiers, 9)) as again:
            alarms = told_of_the_first(again, peers)
    assert alarms == [("witness.example/w1", peers[0].url, 9, 5)]
    # it never got what leads on from where it was set back to
    assert peers[0].witness.answer("GET", f"/{witnessing.origin_hash(SIGNER.name)}/checkpoint", b"").body.startswith(LOG.head(5).body())


def told_of_the_first(collector, peers):
    alarms = []
    collector.alarm, collector.policy = alarms.append, policy_of(peers, 2)
    for size in (12, 13):  # again: it is told of once
        assert cosigners(peers, ask(collector, size)) == {"w2", "w3"}
        until(lambda: "set back" in next(each.error for each in collector.standings() if each.name == "w1-4"))
    until(lambda: alarms)
    collector.policy, collector.timeout = policy_of(peers, 3), 0.3
    with pytest.raises(SteleError) as raised:
        ask(collector, 14)
    assert raised.value.code == "witness.no-quorum"
    return alarms


def test_a_witness_that_others_brought_on_is_not_behind(peers):
    with collecting(peers, 3) as collector:
        ask(collector, 5)
        peers[0].answer("POST", "/add-checkpoint", LOG.submission(5, 8))
        assert cosigners(peers, ask(collector, 9)) == {"w1", "w2", "w3"}


def test_a_split_view_gets_no_quorum(peers):
    with collecting(peers, 3) as collector:
        ask(collector, 9)
    with collecting(peers, 1, timeout=1.0) as collector:
        with pytest.raises(SteleError) as raised:
            ask(collector, 12, Log(tag="other"))
        assert "another history" in raised.value.reason


@alone
def test_a_quorum_that_nobody_can_be_asked_for_is_no_policy(peers):
    text = f"witness a {peers[0].keys.ed25519.verifier.encode()}\nquorum a\n"
    with pytest.raises(SteleError) as raised:
        Collector(quorum.parse(text.encode()), SIGNER.verifiers, block=True, timeout=1.0)
    assert raised.value.code == "witness.bad-policy"


def test_more_witnesses_than_a_checkpoint_has_room_for_are_no_policy():
    """Whoever published that would have a ledger that no reader believes, themselves included."""
    keys = [note.Key(f"w{number}.example", MLDSA44PrivateKey.generate()) for number in range(41)]

    def policy(count: int) -> quorum.Policy:
        lines = [f"witness w{number} {key.verifier.encode()} http://127.0.0.1:9/{number}" for number, key in enumerate(keys[:count])]
        return quorum.parse("\n".join([*lines, "quorum w0", ""]).encode())

    def largest(count: int) -> bytes:
        head = note.Checkpoint(SIGNER.name, 10**18 - 1, bytes(32))
        return SIGNER.sign(head.body()) + b"".join(key.line(head.body(), 1) for key in keys[:count])

    fits = max(count for count in range(42) if len(largest(count)) <= note.MAX_NOTE)
    assert 16 < fits < 41
    assert note.open_note(largest(fits), SIGNER.verifiers, [key.verifier for key in keys]).signatures[-1].seconds == 1
    Collector(policy(fits), SIGNER.verifiers, block=False, timeout=1.0).close()
    for count in (fits + 1, 41):
        with pytest.raises(SteleError) as raised:
            Collector(policy(count), SIGNER.verifiers, block=False, timeout=1.0)
        assert raised.value.code == "witness.bad-policy"
