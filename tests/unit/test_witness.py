"""A witness: the protocol as C2SP tlog-witness has it, what it refuses, and that it never signs two histories."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import threading
import time
from base64 import b64decode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.host.http_server import Limits
from stele.trust import merkle, note, witnessing
from stele.trust.errors import SteleError
from stele.witness import journal, state
from stele.witness.service import Witness
from tests import witnesses
from tests.witnesses import NOW, SIGNER, Log, add

LOG = Log()


@pytest.fixture
def witness(tmp_path):
    keys = witnesses.make(tmp_path / "w")
    served = Witness(tmp_path / "w", clock=lambda: NOW)
    served.test_keys = keys
    yield served
    served.close()


def test_it_cosigns_with_both_keys_what_continues_what_it_saw(witness):
    for old, size in ((0, 3), (3, 3), (3, 8), (8, 21), (21, 300)):
        answer = add(witness, LOG.submission(old, size))
        assert answer.status == 200, answer
        opened = note.open_note(LOG.note(size) + answer.body, SIGNER.verifiers, witness.test_keys.verifiers)
        assert [s.verifier.algorithm for s in opened.signatures[2:]] == [note.COSIGNATURE, note.ML_DSA_44]
        assert [s.seconds for s in opened.signatures[2:]] == [NOW, NOW]


def test_its_last_head_can_be_fetched_with_the_signatures(witness):
    path = f"/{witnessing.origin_hash(SIGNER.name)}/checkpoint"
    assert witness.answer("GET", path, b"").status == 404
    cosigned = add(witness, LOG.submission(0, 5)).body
    answer = witness.answer("GET", path, b"")
    assert answer.status == 200
    assert answer.body.endswith(cosigned)
    opened = note.open_note(answer.body, SIGNER.verifiers, witness.test_keys.verifiers)
    assert opened.checkpoint == LOG.head(5)
    assert len(opened.signatures) == 4
    assert witness.answer("POST", path, b"").status == 405


def test_another_old_size_conflicts_and_the_answer_says_which_it_knows(witness):
    assert add(witness, LOG.submission(0, 5)).status == 200
    for old in (0, 3, 7):
        assert add(witness, LOG.submission(old, 9)) == (409, "text/x.tlog.size", b"5\n")
    # an old checkpoint, replayed
    assert add(witness, LOG.submission(0, 4)) == (409, "text/x.tlog.size", b"5\n")
    assert add(witness, LOG.submission(5, 9)).status == 200


def test_an_old_size_beyond_the_checkpoint_is_no_request(witness):
    add(witness, LOG.submission(0, 9))
    assert add(witness, witnessing.encode(witnessing.Submission(9, (), LOG.note(5)))).status == 400


def test_forks_are_not_signed_and_kept_as_evidence(witness, tmp_path):
    add(witness, LOG.submission(0, 5))
    fork = Log(tag="other")
    assert add(witness, fork.submission(5, 5)).status == 422
    assert add(witness, fork.submission(5, 8)).status == 422
    # the right proof for another tree
    assert add(witness, witnessing.encode(witnessing.Submission(5, LOG.prove(5, 8), fork.note(8)))).status == 422
    kept = state.evidence(tmp_path / "w")
    assert sorted(path.suffix for path in kept) == [".split-view", ".unproven", ".unproven"]
    [proof] = [path for path in kept if path.suffix == ".split-view"]
    assert note.open_note(proof.read_bytes(), SIGNER.verifiers).checkpoint == fork.head(5)
    assert add(witness, LOG.submission(5, 8)).status == 200


def test_evidence_is_bounded(witness, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "MAX_EVIDENCE", 3)
    add(witness, LOG.submission(0, 5))
    for number in range(6):
        assert add(witness, Log(tag=f"x{number}").submission(5, 6)).status == 422
    assert add(witness, Log(tag="other").submission(5, 5)).status == 422
    kept = [path.suffix for path in state.evidence(tmp_path / "w")]
    assert sorted(kept) == [".split-view", ".unproven", ".unproven", ".unproven"]


def test_strangers_cannot_use_up_the_room_for_evidence(witness, tmp_path):
    """Whoever has one checkpoint can send it with a wrong proof, and with as many lines by unknown keys as he likes."""
    add(witness, LOG.submission(0, 5))
    signed = LOG.note(6)
    for number in range(5):
        line = f"\u2014 stranger{number} {base64.b64encode(bytes(68)).decode()}\n".encode()
        assert add(witness, witnessing.encode(witnessing.Submission(5, (), signed + line))).status == 422
    assert [path.suffix for path in state.evidence(tmp_path / "w")] == [".unproven"]


def test_a_proof_from_nothing_must_be_empty(witness):
    assert add(witness, witnessing.encode(witnessing.Submission(0, (bytes(32),), LOG.note(5)))).status == 422
    no_tree = SIGNER.sign(note.Checkpoint(SIGNER.name, 0, bytes(32)).body())
    assert add(witness, witnessing.encode(witnessing.Submission(0, (), no_tree))).status == 422
    assert add(witness, LOG.submission(0, 0)).status == 200
    assert add(witness, LOG.submission(0, 4)).status == 200


def test_unknown_logs_unknown_keys_and_bad_signatures(witness, tmp_path):
    other = note.Signer.generate("log.example/two")
    assert add(witness, Log(other).submission(0, 5)).status == 404
    assert add(witness, Log(note.Signer.generate(SIGNER.name)).submission(0, 5)).status == 403
    good = LOG.note(5)
    altered = good.replace(b"\n5\n", b"\n6\n")
    assert add(witness, witnessing.encode(witnessing.Submission(0, (), altered))).status == 403
    # the post-quantum signature left out
    ed25519_alone = b"\n".join(good.split(b"\n")[:5]) + b"\n"
    assert add(witness, witnessing.encode(witnessing.Submission(0, (), ed25519_alone))).status == 403
    # one that does not hold beside one that does
    moved = LOG.note(6).rpartition(b"\n\n")[0] + b"\n\n" + good.rpartition(b"\n\n")[2]
    assert add(witness, witnessing.encode(witnessing.Submission(0, (), moved))).status == 403
    assert add(witness, LOG.submission(0, 5)).status == 200
    # a log that is added while it runs
    state.add_logs(tmp_path / "w", other.verifiers)
    assert add(witness, Log(other).submission(0, 5)).status == 200


def test_signatures_by_strangers_are_neither_believed_nor_kept(witness):
    stranger = note.Signer.generate("stranger.example")
    signed = LOG.note(5) + stranger.sign(LOG.head(5).body()).rpartition(b"\n\n")[2]
    assert add(witness, witnessing.encode(witnessing.Submission(0, (), signed))).status == 200
    assert b"stranger" not in witness.answer("GET", f"/{witnessing.origin_hash(SIGNER.name)}/checkpoint", b"").body


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: b"",
        lambda body: body[:-1],
        lambda body: body.replace(b"old 3\n", b"old 03\n"),
        lambda body: body.replace(b"old 3\n", b"old +3\n"),
        lambda body: body.replace(b"old 3\n", b"old  3\n"),
        lambda body: body.replace(b"old 3\n", b"old 3\r\n"),
        lambda body: body.replace(b"old 3\n", "old \u0663\n".encode()),
        lambda body: body.replace(b"old 3\n", b"old 3_0\n"),
        lambda body: body.replace(b"old 3\n", b"old -3\n"),
        lambda body: body.replace(b"old 3\n", b"Old 3\n"),
        lambda body: body.replace(b"old 3\n", b"old 3\nAAAA\n"),
        lambda body: body.replace(b"old 3\n", b"old 3\n" + b"A" * 43 + b"=\n"),
        lambda body: body.replace(b"old 3\n", b"old 3\n" + 64 * (b"A" * 43 + b"=\n")),
        lambda body: body.replace(b"=\n", b"= \n", 1),
        lambda body: body.replace(b"\n\n", b"\n", 1),
        lambda body: body.replace(b"\n5\n", b"\n05\n"),
        lambda body: body.replace(b"\n5\n", b"\n5\nextension\n"),
        lambda body: body + b"\n",
        lambda body: body + b"x" * witnessing.MAX_BODY,
    ],
)  # fmt: skip
def test_other_spellings_are_no_requests(witness, spoil):
    assert add(witness, LOG.submission(0, 3)).status == 200
    body = LOG.submission(3, 5)
    spoiled = spoil(body)
    assert spoiled != body
    answer = add(witness, spoiled)
    assert answer.status in {400, 422}, answer
    if answer.status == 422:
        assert b"AAAAAAAAAAAA" in spoiled  # the one spelling that reads, and proves nothing
    assert add(witness, body).status == 200


def test_other_paths_and_methods(witness):
    assert witness.answer("GET", "/add-checkpoint", b"").status == 405
    assert witness.answer("POST", "/add-checkpoint/", b"").status == 404
    assert witness.answer("GET", "/", b"").status == 404
    assert witness.answer("GET", "/../witness.key", b"").status == 404


@given(st.binary(max_size=300))
def test_no_bytes_are_more_than_one_request(data):
    try:
        found = witnessing.parse(data)
    except SteleError:
        return
    assert witnessing.encode(found) == data


@given(st.integers(0, 10**17), st.lists(st.binary(min_size=32, max_size=32), max_size=63), st.binary(min_size=1, max_size=200))
def test_requests_read_back(old, proof, signed):
    wanted = witnessing.Submission(old, tuple(proof), signed)
    assert witnessing.parse(witnessing.encode(wanted)) == wanted


@given(st.binary(max_size=40))
def test_sizes_in_answers_have_one_spelling(data):
    try:
        size = witnessing.parse_size(data)
    except SteleError:
        return
    assert f"{size}\n".encode() == data


@given(st.integers(1, 70), st.integers(0, 70), st.integers(0, 70), st.data())
def test_only_true_proofs_lead_on(known, old, size, data):
    head = LOG.head(size)
    proof = list(LOG.prove(min(old, size), size))
    if proof and data.draw(st.booleans()):
        proof[data.draw(st.integers(0, len(proof) - 1))] = bytes(32)
        spoiled = True
    else:
        spoiled = False
    follows = witnessing.follows(known, LOG.head(known).root, head, proof)
    assert follows == (known == size and not proof) or (known == old and old <= size and not spoiled)


def test_there_is_one_process(tmp_path, witness):
    with pytest.raises(SteleError) as raised:
        Witness(tmp_path / "w", clock=lambda: NOW)
    assert raised.value.code == "witness.locked"


def test_keys_are_never_replaced(tmp_path, witness):
    with pytest.raises(SteleError) as raised:
        state.make(tmp_path / "w", "witness.example/w2")
    assert raised.value.code == "witness.exists"
    with pytest.raises(SteleError) as raised:
        state.read_keys(tmp_path)
    assert raised.value.code == "witness.none"


def test_it_signs_no_earlier_time_than_before(tmp_path):
    witnesses.make(tmp_path / "w")
    now = [NOW]
    witness = Witness(tmp_path / "w", clock=lambda: now[0])
    assert add(witness, LOG.submission(0, 5)).status == 200
    now[0] -= 1
    assert add(witness, LOG.submission(5, 6)).status == 503
    now[0] += 1
    assert add(witness, LOG.submission(5, 6)).status == 200
    witness.close()


# ---- over HTTP ----------------------------------------------------------------------------------------


def test_of_two_that_race_one_wins_and_none_is_rolled_back(tmp_path):
    witnesses.make(tmp_path / "w")
    forks = [Log(), Log(tag="other")]
    with witnesses.serving(tmp_path / "w") as server:
        assert witnesses.post(server.port, Log().submission(0, 1))[0] == 200
        start = threading.Barrier(16)
        got: list[tuple[Log, int, int, bytes]] = []

        def go(number: int) -> None:
            log = forks[number % 2]
            start.wait()
            for size in range(2, 12):
                status, _, body = witnesses.post(server.port, log.submission(max(size - 1, 1), size + number % 3))
                got.append((log, size + number % 3, status, body))

        threads = [threading.Thread(target=go, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    signed = {(size, log.head(size).root) for log, size, status, _ in got if status == 200}
    assert signed
    # every cosigned head lies on one line
    sizes = {}
    for size, root in signed:
        assert sizes.setdefault(size, root) == root == Log().head(size).root
    (last,) = {note.unverified(raw).size for raw in journal.read((tmp_path / "w" / "heads").read_bytes())[0][-1:]}
    assert last == max(sizes)


def test_long_requests_are_refused_before_they_are_read(tmp_path):
    witnesses.make(tmp_path / "w")
    with witnesses.serving(tmp_path / "w") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.putrequest("POST", "/add-checkpoint")
        connection.putheader("Content-Length", str(witnessing.MAX_BODY + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
        for headers in ({"Transfer-Encoding": "chunked"}, {"Content-Length": "-1"}, {"Content-Length": "1_0"}):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            connection.putrequest("POST", "/add-checkpoint")
            for key, value in headers.items():
                connection.putheader(key, value)
            connection.endheaders()
            assert connection.getresponse().status == 411
            connection.close()
        assert witnesses.post(server.port, LOG.submission(0, 5))[0] == 200


def test_one_connection_serves_many_requests(tmp_path):
    witnesses.make(tmp_path / "w")
    with witnesses.serving(tmp_path / "w") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.connect()
        first = connection.sock
        for size in range(1, 6):
            connection.request("POST", "/add-checkpoint", body=LOG.submission(size - 1, size))
            answer = connection.getresponse()
            assert (answer.status, len(answer.read()) > 2500) == (200, True)
            assert connection.sock is first
        connection.close()


def _silent(port: int, said: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 20)
    connection.sendall(said)
    return connection


def test_who_is_slow_is_cut_off_and_others_are_served(tmp_path):
    witnesses.make(tmp_path / "w")
    limits = Limits(witnessing.MAX_BODY, request=0.5, idle=0.5, connections=12, per_address=8)
    with witnesses.serving(tmp_path / "w", limits=limits) as server:
        begun_only = (b"", b"P", b"POST /add-checkpoint HTTP/1.1\r\nHo", b"POST / HTTP/1.1\r\nContent-Length: 99\r\n\r\nold")
        slow = [_silent(server.port, said) for said in begun_only]
        assert witnesses.post(server.port, LOG.submission(0, 5))[0] == 200
        begun = time.monotonic()
        for connection in slow:
            while connection.recv(4096):
                pass  # until the other side ends it
            connection.close()
        assert time.monotonic() - begun < 15
        # and one that drips does not live longer for it
        drip = _silent(server.port, b"POST /add-checkpoint HTTP/1.1\r\n")
        with pytest.raises(OSError):  # noqa: PT012  which piece is one too many is the server's to say
            while True:
                drip.sendall(b"X: y\r\n")
                time.sleep(0.05)
        drip.close()
        # no address takes all the places
        crowd = [_silent(server.port, b"") for _ in range(20)]
        ended = 0
        for connection in crowd:
            connection.settimeout(20)
            ended += connection.recv(1) == b""
            connection.close()
        assert ended == 20
        # who was cut off sees it before the place is free again
        while True:
            with contextlib.suppress(ConnectionError):
                assert witnesses.post(server.port, LOG.submission(5, 6))[0] == 200
                break


def test_merkle_of_an_empty_tree():
    assert LOG.head(0).root == merkle.EMPTY_ROOT


VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "witness.json").read_text("ascii"))


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vectors(tmp_path, case):
    witnesses.make(tmp_path / "w", *(note.parse_vkey(text) for text in VECTORS["log"]))
    served = Witness(tmp_path / "w", clock=lambda: NOW)
    if case["cosigned"]:
        assert add(served, VECTORS["before"][str(case["cosigned"])].encode()).status == 200
    answer = add(served, b64decode(case["request"]))
    assert answer.status == case["status"], answer
    if answer.status == 409:
        assert answer.body == f"{case['cosigned']}\n".encode()
    served.close()
