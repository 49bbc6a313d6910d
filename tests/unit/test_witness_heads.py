"""What a witness has on disk of what it cosigned: it goes on where it was, a crash takes nothing that was answered, and rot stops it."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.host import durable
from stele.trust import note
from stele.trust.errors import SteleError
from stele.witness import journal
from stele.witness.service import Witness
from tests import witnesses
from tests.witnesses import NOW, Log, add

LOG = Log()


def test_it_goes_on_where_it_was(tmp_path):
    witnesses.make(tmp_path / "w")
    for old, size in ((0, 5), (5, 9)):
        witness = Witness(tmp_path / "w", clock=lambda: NOW)
        assert add(witness, LOG.submission(old, size)).status == 200
        witness.close()


def refused(folder):
    with pytest.raises(SteleError) as raised:
        Witness(folder, clock=lambda: NOW)
    assert raised.value.code == "witness.damaged"


def size_known(folder):
    witness = Witness(folder, clock=lambda: NOW)
    try:
        answer = add(witness, LOG.submission(0, 1000))
        return int(answer.body) if answer.status == 409 else 0
    finally:
        witness.close()


@pytest.fixture(params=range(0, 512, 67))
def heads(tmp_path, monkeypatch, request):
    """The file of a witness that cosigned 5, 9 and 12 entries, as it was before the last, which begins anywhere in a sector."""
    monkeypatch.setattr(journal, "ROOM", 24 << 10)
    monkeypatch.setattr(journal, "MAGIC", journal.MAGIC[:-1] + b"." * request.param + b"\n")
    witnesses.make(tmp_path / "w")
    witness = Witness(tmp_path / "w", clock=lambda: NOW)
    for old, size in ((0, 5), (5, 9), (9, 12)):
        before = (tmp_path / "w" / "heads").read_bytes()
        assert add(witness, LOG.submission(old, size)).status == 200
    witness.close()
    return tmp_path / "w" / "heads", before


def test_heads_that_were_altered_stop_it(tmp_path, heads):
    path, before = heads
    raw = path.read_bytes()
    end = len(raw.rstrip(b"\0"))
    last = len(before.rstrip(b"\0"))
    for at in (*range(0, end, 997), *range(last, last + 100), end - 1):
        for bit in (1, 2, 4, 8):
            with pytest.raises(journal.DamagedError):
                journal.read(raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :])
    path.write_bytes(raw[:last] + b"H" + raw[last + 1 :])
    refused(tmp_path / "w")
    for spoiled in (b"", raw[:20], raw[: end - 1], raw[:end] + b"x" + raw[end + 1 :], raw[:end].replace(b"\n9\n", b"\n5\n")):
        path.write_bytes(spoiled)
        refused(tmp_path / "w")
    path.unlink()
    refused(tmp_path / "w")
    path.write_bytes(raw)
    assert size_known(tmp_path / "w") == 12


def test_heads_that_another_key_signed_stop_it(tmp_path, heads):
    path, _ = heads
    other = witnesses.make(tmp_path / "other", name="witness.example/w1")
    signed = LOG.note(9) + other.lines(LOG.head(9).body(), NOW)
    kept = journal.Journal(path, lambda raw: "x")
    kept.put("x", signed)
    kept.close()
    refused(tmp_path / "w")


def test_what_a_crash_leaves_of_the_last_write_was_never_answered(tmp_path, heads):
    """The machine lost power in the last write: some sectors of it are there, others are not."""
    path, before = heads
    raw = path.read_bytes()
    begin, end = len(before.rstrip(b"\0")), len(raw.rstrip(b"\0"))
    bounds = [begin, *range(begin // 512 * 512 + 512, end, 512), end]
    pieces = list(itertools.pairwise(bounds))
    every = (1 << len(pieces)) - 1
    for lost in {every & pattern << shift for pattern in (1, 3, 0b10101010, -1) for shift in range(len(pieces))} - {0}:
        torn = bytearray(raw)
        for number, (one, two) in enumerate(pieces):
            if lost >> number & 1:
                torn[one:two] = bytes(two - one)
        notes, at, _ = journal.read(bytes(torn))
        assert (note.unverified(notes[-1]).size, at) == (9, begin)
    path.write_bytes(torn)
    assert size_known(tmp_path / "w") == 9
    witness = Witness(tmp_path / "w", clock=lambda: NOW)
    assert add(witness, LOG.submission(9, 13)).status == 200
    witness.close()
    assert size_known(tmp_path / "w") == 13
    (tmp_path / "w" / ".heads.0.tmp").write_bytes(b"half of a new file")
    assert size_known(tmp_path / "w") == 13
    assert not (tmp_path / "w" / ".heads.0.tmp").exists()


def test_no_crash_leaves_zeros_of_a_write_that_another_followed(tmp_path, heads):
    """A sector of a head that was answered reads as zeros: what came after it may not be forgotten, so it signs nothing more."""
    path, before = heads
    raw = path.read_bytes()
    end = len(before.rstrip(b"\0"))
    begin = raw.index(b"\nhead ", len(journal.MAGIC)) + 1
    for at in range(begin // 512 * 512 + 512, end // 512 * 512, 512):
        path.write_bytes(raw[:at] + bytes(512) + raw[at + 512 :])
        refused(tmp_path / "w")
    path.write_bytes(raw)
    assert size_known(tmp_path / "w") == 12


def test_of_heads_that_were_written_at_once_a_crash_may_leave_any():
    digest, raw, second = hashlib.sha256(journal.MAGIC).digest(), journal.MAGIC, 0
    for each in (one := b"1" * 600, two := b"2" * 600, three := b"3" * 600):
        raw += journal._record(digest, each, len(journal.MAGIC) if each == one else second)
        second = second or len(raw)
        digest = hashlib.sha256(digest + each).digest()
    at = raw.index(two) // 512 * 512 + 512
    assert journal.read(raw[:at] + bytes(512) + raw[at + 512 :] + bytes(100))[0] == [one]
    assert journal.read(raw + bytes(100))[0] == [one, two, three]


def test_the_file_of_heads_begins_anew_when_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "ROOM", 4096)
    path = tmp_path / "heads"
    path.write_bytes(journal.MAGIC)
    kept = journal.Journal(path, lambda raw: raw.split()[0].decode())
    sizes = set()
    for number in range(200):
        for name in "abc":
            kept.put(name, f"{name} {number}\n".encode() + b"x" * number)
        sizes.add(path.stat().st_size)
    kept.close()
    assert max(sizes) <= 4096 * 4
    again = journal.Journal(path, lambda raw: raw.split()[0].decode())
    assert {name: int(raw.split()[1]) for name, raw in again.notes.items()} == {"a": 199, "b": 199, "c": 199}
    again.close()


def test_those_who_wait_for_the_disk_share_a_write(tmp_path, monkeypatch):
    path = tmp_path / "heads"
    path.write_bytes(journal.MAGIC)
    kept = journal.Journal(path, lambda raw: raw.decode())
    kept.put("first", b"first")
    began, go, writes = threading.Event(), threading.Event(), []

    def sync(fd):
        writes.append(fd)
        began.set()
        assert go.wait(60)
        os.fdatasync(fd)

    monkeypatch.setattr(durable, "sync_data", sync)
    threads = [threading.Thread(target=kept.put, args=(str(number), str(number).encode())) for number in range(9)]
    threads[0].start()
    assert began.wait(60)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 60
    while len(kept._waiting) < 8:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join()
    kept.close()
    assert len(writes) == 2
    assert sorted(journal.read(path.read_bytes())[0]) == sorted([b"first", *(str(number).encode() for number in range(9))])


@given(st.lists(st.binary(min_size=1, max_size=700).map(lambda raw: raw.replace(b"\0", b"0")), max_size=6), st.data())
def test_whatever_is_altered_in_the_heads_is_noticed(notes, data):
    digest, raw = hashlib.sha256(journal.MAGIC).digest(), journal.MAGIC
    for each in notes:
        raw += journal._record(digest, each, len(raw))
        digest = hashlib.sha256(digest + each).digest()
    assert journal.read(raw + bytes(100)) == (notes, len(raw), digest)
    at = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(journal.DamagedError):
        journal.read(raw[:at] + bytes([raw[at] % 255 + 1]) + raw[at + 1 :] + bytes(100))
