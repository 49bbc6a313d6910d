"""rpm's ndb and Berkeley DB files: what they hold, and that hostile ones cost no more than their size.

Real ones, of images of many systems, are in tests/integration/test_sbom_judge.py.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.seal.packages import rpm_older

PAGE = 512
ROOM = PAGE - 26


def ndb(blobs: list[bytes]) -> bytes:
    slots, body = b"", b""
    for number, blob in enumerate(blobs, 1):
        offset = 4096 + len(body)
        slots += struct.pack("<4sIII", b"Slot", number, offset // 16, 0) + struct.pack("<4sIII", b"Slot", 0, 0, 0)  # and a free one
        whole = struct.pack("<4sIII", b"BlbS", number, 1, len(blob)) + blob
        body += whole + bytes(-len(whole) % 16)
    return (struct.pack("<4sIII", b"RpmP", 0, 1, 1) + bytes(16) + slots).ljust(4096, b"\0") + body


def page(order: str, kind: int, *, following: int = 0, count: int = 0, used: int = 0, body: bytes = b"") -> bytes:
    return (bytes(16) + struct.pack(f"{order}IHHBB", following, count, used, 1, kind) + body).ljust(PAGE, b"\0")


def bdb(blobs: list[bytes], order: str = "<") -> bytes:
    """A hash page for each blob; those that are longer than a quarter of a page on pages of their own."""
    pages = [(bytes(12) + struct.pack(f"{order}III", 0x061561, 9, PAGE) + b"\0\x08").ljust(PAGE, b"\0")]
    for blob in blobs:
        if len(blob) <= PAGE // 4:
            item, chain = b"\x01" + blob, []
        else:
            cuts = [blob[at : at + ROOM] for at in range(0, len(blob), ROOM)]
            first = len(pages) + 1
            item = b"\x03\0\0\0" + struct.pack(f"{order}II", first, len(blob))
            last = first + len(cuts) - 1
            chain = [page(order, 7, following=0 if at == last else at + 1, used=len(cut), body=cut) for at, cut in enumerate(cuts, first)]
        key, value = PAGE - 5, PAGE - 5 - len(item)
        pages += [page(order, 13, count=2, used=value, body=struct.pack(f"{order}HH", key, value))[:value] + item + b"\x01abcd", *chain]
    return b"".join(pages)


WRITERS = [ndb, bdb, lambda blobs: bdb(blobs, ">")]


@given(st.sampled_from(WRITERS), st.lists(st.binary(max_size=3 * PAGE), max_size=6))
def test_what_is_in_a_file_is_found(write, blobs):
    assert rpm_older.headers(write(blobs)) == blobs


@given(st.sampled_from(WRITERS), st.lists(st.binary(max_size=2 * PAGE), max_size=4), st.data())
def test_no_changed_byte_breaks_the_readers_or_makes_more_than_there_is(write, blobs, data):
    raw = bytearray(write(blobs))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=6)):
        raw[at] = value
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    assert sum(map(len, rpm_older.headers(cut) or [])) <= len(cut)


@given(st.binary(max_size=700))
def test_other_files_are_no_databases(data):
    assert rpm_older.headers(data) is None or data[:4] == b"RpmP"


@pytest.mark.parametrize("order", "<>")
def test_a_chain_that_comes_back_to_itself_or_is_used_by_all_ends(order):
    around = bytearray(bdb([b"x" * 2000], order))
    struct.pack_into(f"{order}I", around, 3 * PAGE + 16, 2)
    [found] = rpm_older.headers(bytes(around))
    assert len(found) <= 2000
    many = bytearray(bdb([b"x" * 2000] * 50, order))
    for number in range(50):
        struct.pack_into(f"{order}I", many, (1 + number * 6) * PAGE + PAGE - 5 - 8, 2)
    assert len(rpm_older.headers(bytes(many))) == 50
    all_one = bytes(many[: 7 * PAGE]) + bytes(many[PAGE : 2 * PAGE]) * 100
    assert sum(map(len, rpm_older.headers(all_one))) <= len(all_one)


def test_two_slots_of_one_blob_are_no_more_than_the_file():
    raw = bytearray(ndb([b"x" * 6000]))
    for at in range(64, 4096, 16):
        raw[at : at + 16] = raw[32:48]
    found = rpm_older.headers(bytes(raw))
    assert found == [b"x" * 6000]
