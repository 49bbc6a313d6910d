"""Others' tools as judges of witnessing: a log by Tessera gets our witnesses' cosignatures, litewitness cosigns for our ledger."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from stele.trust import note, quorum
from stele.trust.errors import SteleError
from stele.witness import state
from stele.witness.collect import Collector
from tests import witnesses
from tests.judges import go_main
from tests.litewitness import running
from tests.witnesses import SIGNER, Log


def policy(*peers):
    """Lines for witnesses given as short name, keys, URL; the quorum is all of them, with all of their keys."""
    lines, names = [], []
    for short, keys, url in peers:
        for key in keys:
            names.append(f"{short}-{key.algorithm}")
            lines.append(f"witness {names[-1]} {key.encode()} {url}")
    return "".join(f"{line}\n" for line in [*lines, f"group all-of-them all {' '.join(names)}", "quorum all-of-them"])


def test_a_log_by_tessera_is_cosigned_by_our_witnesses(tmp_path):
    """Its client proves consistency, verifies each cosignature, and publishes nothing without the quorum."""
    tessera = go_main(Path(__file__).parent / "judges" / "tessera-witnessed")
    (tmp_path / "log").mkdir()
    with subprocess.Popen(
        [tessera, tmp_path / "log", "tessera.example/log", "5"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tessera_log:
        vkey = note.parse_vkey(tessera_log.stdout.readline().strip())
        keys = [witnesses.make(tmp_path / name, vkey, name=f"witness.example/{name}") for name in ("w1", "w2")]
        with (
            witnesses.serving(tmp_path / "w1", clock=lambda: int(time.time())) as one,
            witnesses.serving(tmp_path / "w2", clock=lambda: int(time.time())) as two,
        ):
            # this version knows no ML-DSA-44 yet, and ignores those lines of the answers
            text = policy(
                ("w1", keys[0].verifiers[:1], f"http://127.0.0.1:{one.port}"), ("w2", keys[1].verifiers[:1], f"http://127.0.0.1:{two.port}")
            )
            published, _ = tessera_log.communicate(f"log {vkey.encode()}\n{text}end\n", timeout=60)
    assert tessera_log.returncode == 0
    parsed = quorum.parse(text.encode())
    opened = note.open_note(published.encode(), [vkey], parsed.verifiers)
    assert opened.checkpoint.size == 5
    assert parsed.met([each.verifier for each in opened.signatures])
    one, two = ([each["size"] for each in state.describe(tmp_path / name)["logs"]] for name in ("w1", "w2"))
    assert one == two


@pytest.fixture
def litewitness(tmp_path):
    """Filippo Valsorda's witness, with our log in its list: (vkey, URL)."""
    with running(tmp_path, [SIGNER.verifiers[0]]) as found:
        yield found


def test_litewitness_cosigns_for_us(litewitness):
    vkey, url = litewitness
    log = Log()
    parsed = quorum.parse(policy(("lite", [vkey], url)).encode())
    for sizes in ((5, 5, 9, 300), (301, 700)):  # the second collector has to find out what the witness knows
        collector = Collector(parsed, SIGNER.verifiers, block=True, timeout=20)
        for size in sizes:
            signed = collector(log.note(size), size, lambda old, size=size: log.prove(old, size))
            opened = note.open_note(signed, SIGNER.verifiers, [vkey])
            (cosigned,) = [each for each in opened.signatures if each.verifier == vkey]
            assert abs(cosigned.seconds - time.time()) < 60
        collector.close()
    # it saw 700: a shorter and another history are told
    for other, size, said in ((log, 650, "set back"), (Log(tag="other"), 800, "another history")):
        collector = Collector(parsed, SIGNER.verifiers, block=True, timeout=2)
        with pytest.raises(SteleError) as raised:
            collector(other.note(size), size, lambda old, other=other, size=size: other.prove(old, size))
        assert said in raised.value.reason
        collector.close()


def test_both_answer_alike(litewitness, tmp_path):
    """The same requests, right and wrong, to litewitness and to ours: the same statuses."""
    _, url = litewitness
    port = int(re.search(r":(\d+)$", url)[1])
    witnesses.make(tmp_path / "w", SIGNER.verifiers[0])
    log, fork, stranger = Log(), Log(tag="other"), Log(note.Signer.generate("log.example/unknown"))
    forged = Log(note.Signer.generate(SIGNER.name))
    requests = [
        log.submission(3, 5), log.submission(0, 5), log.submission(0, 5), log.submission(5, 5), log.submission(5, 9), log.submission(5, 9),
        fork.submission(9, 12), fork.submission(9, 9), stranger.submission(0, 5), forged.submission(9, 12), b"", b"old 9\n",
        log.submission(9, 12).replace(b"old 9", b"old 13"), log.submission(9, 64),
    ]  # fmt: skip
    with witnesses.serving(tmp_path / "w", clock=lambda: int(time.time())) as ours:
        got = []
        for body in requests:
            theirs, mine = witnesses.post(port, body), witnesses.post(ours.port, body)
            got.append((theirs[0], mine[0]))
            if theirs[0] == 409:
                assert theirs[1:] == mine[1:]
    assert [theirs for theirs, _ in got] == [mine for _, mine in got], got


def test_torchwood_believes_both_of_our_cosignatures(tmp_path):
    judge = go_main(Path(__file__).parent / "judges" / "tlog-client")
    keys = witnesses.make(tmp_path / "w")
    with witnesses.serving(tmp_path / "w", clock=lambda: int(time.time())) as server:
        _, _, lines = witnesses.post(server.port, Log().submission(0, 9))
    known = [key.encode() for key in (*SIGNER.verifiers, *keys.verifiers)]
    done = subprocess.run([judge, "open", *known], input=Log().note(9) + lines, capture_output=True, check=True)
    assert done.stdout.decode().split() == [f"{key.name}+{key.key_id.hex()}" for key in (*SIGNER.verifiers, *keys.verifiers)]
    altered = lines[:60] + (b"A" if lines[60:61] != b"A" else b"B") + lines[61:]  # in the first signature, not where that letter is first
    assert subprocess.run([judge, "open", *known], input=Log().note(9) + altered, capture_output=True).returncode != 0
