"""Sparse members of tar archives: what GNU tar writes in each of its forms is read, and a map that does not fit is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.seal.sources.source import Limits
from stele.seal.sources.stream import Budget, Reader
from stele.seal.sources.tar import TarReader
from stele.trust.errors import SteleError
from tests.archives import BLOCK, END, file, header, link, padded, pax

CODES = {"seal.bad-archive", "seal.unsupported-entry", "seal.path-escapes", "seal.bad-name", "seal.too-large"}
FORMS = {"gnu": ("--format=gnu",), "0.1": ("--format=posix", "--sparse-version=0.1"), "1.0": ("--format=posix", "--sparse-version=1.0")}
OLD = b"ustar  \0"


def read(data: bytes, *, limits: Limits | None = None, sparse: bool = True) -> dict[bytes, bytes]:
    tar = TarReader(Reader(iter([data]), "the test"), Budget(limits or Limits()), sparse=sparse)
    found = {}
    for entry in tar:
        found[entry.path] = b"".join(tar.data())
        assert len(found[entry.path]) == entry.size
    return found


def refused(data: bytes, code: str = "seal.bad-archive", limits: Limits | None = None) -> str:
    with pytest.raises(SteleError) as caught:
        read(data + END, limits=limits)
    assert caught.value.code == code
    return caught.value.reason


def holes(path: Path | bytes, size: int, marks: dict[int, bytes]) -> None:
    with open(path, "wb") as out:
        for at, mark in marks.items():
            out.seek(at)
            out.write(mark)
        out.truncate(size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with holes at their beginnings and ends, none, only one; more pieces than a header holds; names that are long and not UTF-8."""
    made = tmp_path_factory.mktemp("sparse") / "root"
    made.mkdir()
    step = 256 << 10
    holes(made / "few", 10 * step + 5, {0: b"first", 3 * step: b"x" * 5000, 10 * step: b"last!"})
    holes(made / "many", 60 * step, {at * step + 17: b"%d" % at for at in range(1, 60)})
    holes(made / "tail", 4 * step + 1, {0: b"only the beginning"})
    holes(made / "empty", 8 * step, {})
    holes(made / ("long" * 40), 4 * step, {step: b"named at length"})
    holes(os.fsencode(made) + b"/caf\xe9", 4 * step, {step: b"latin"})
    (made / "full").write_bytes(os.urandom(3000))
    (made / "nothing").touch()
    (made / "linked").hardlink_to(made / "few")
    return made


@pytest.mark.parametrize("form", FORMS)
def test_what_gnu_tar_writes_sparse_is_read_as_the_files_are(folder: Path, form: str) -> None:
    names = sorted(os.listdir(os.fsencode(folder)))
    data = subprocess.run(["tar", "-C", folder, "-S", *FORMS[form], "-cf", "-", *names], check=True, capture_output=True).stdout
    assert len(data) < 1 << 20  # the files are 25 MB
    found = read(data)
    linked = found.keys() - {name for name in names if found[name]}
    assert linked == {b"nothing", b"linked"}  # the second name of `few` is a link
    for name in names:
        if name != b"linked":
            assert found[name] == Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).read_bytes(), name
    with pytest.raises(SteleError, match="sparse files") as caught:
        read(data, sparse=False)
    assert caught.value.code == "seal.unsupported-entry"


def test_the_oldest_form_of_pax_is_refused(folder: Path) -> None:
    options = ("-S", "--format=posix", "--sparse-version=0.0")
    data = subprocess.run(["tar", "-C", folder, *options, "-cf", "-", "few"], check=True, capture_output=True).stdout
    refused(data, "seal.unsupported-entry")


# --- written by hand


def entries(pairs: list[tuple[int, int]], count: int) -> bytes:
    return b"".join(b"%011o\0%011o\0" % pair for pair in pairs).ljust(24 * count, b"\0")


def old(pairs: list[tuple[int, int]], size: int, data: bytes, **fields: object) -> bytes:
    """A member of type `S`."""
    tail = bytearray(header(b"a", b"S", size=len(data), magic=OLD, **fields))  # type: ignore[arg-type]
    tail[386:482] = entries(pairs[:4], 4)
    tail[482] = len(pairs) > 4
    tail[483:495] = b"%011o\0" % size
    blocks = b""
    for at in range(4, len(pairs), 21):
        blocks += entries(pairs[at : at + 21], 21) + bytes([len(pairs) > at + 21]) + bytes(7)
    return summed(tail) + blocks + padded(data)


def summed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def one_zero(pairs: list[tuple[int, int]], size: int, data: bytes, **keys: bytes) -> bytes:
    """A member of pax format 1.0. `keys`: in place of the usual ones."""
    mapped = padded(b"".join(b"%d\n" % number for number in (len(pairs), *(number for pair in pairs for number in pair))))
    said = {"major": b"1", "minor": b"0", "name": b"a", "realsize": b"%d" % size, **keys}
    head = pax([(b"GNU.sparse." + key.encode(), value) for key, value in said.items()])
    return head + file(b"GNUSparseFile.1/a", mapped + data)


def zero_one(pairs: list[tuple[int, int]], size: int, data: bytes, **keys: bytes) -> bytes:
    """A member of pax format 0.1."""
    mapped = b",".join(b"%d,%d" % pair for pair in pairs)
    said = {"size": b"%d" % size, "numblocks": b"%d" % len(pairs), "map": mapped, "name": b"a", **keys}
    return pax([(b"GNU.sparse." + key.encode(), value) for key, value in said.items()]) + file(b"GNUSparseFile.1/a", data)


@pytest.mark.parametrize("write", [old, one_zero, zero_one])
def test_maps_that_do_not_fit_are_refused(write) -> None:
    assert read(write([(3, 2), (5, 0), (7, 1)], 9, b"xyz") + file(b"b", b"next") + END) == {b"a": b"\0\0\0xy\0\0z\0", b"b": b"next"}
    assert read(write([], 5, b"") + END) == {b"a": bytes(5)}
    assert "order" in refused(write([(3, 2), (4, 1)], 9, b"xyz"))
    assert "order" in refused(write([(3, 2), (0, 1)], 9, b"xyz"))
    assert "beyond" in refused(write([(3, 2), (7, 1)], 7, b"xyz"))
    assert "beyond" in refused(write([(3, 2), (9, 0)], 7, b"xy"))
    assert "fit" in refused(write([(3, 2)], 9, b"xyz"))
    assert "fit" in refused(write([(3, 2), (7, 2)], 9, b"xyz"))
    assert "unfolds" in refused(write([(0, 1)], 1 << 30, b"x"), "seal.too-large", Limits(max_bytes=1 << 20))
    whole = write([(0, 700)], 1 << 30, b"x" * 700)
    with pytest.raises(SteleError, match="ends within a file"):
        read(whole[: -2 * BLOCK])


def test_maps_that_are_malformed_are_refused() -> None:
    pairs = [(0, 1)]
    for keys in ({"realsize": b"01"}, {"realsize": b"-1"}, {"realsize": b""}, {"name": b""}, {"name": b"x\0y"}):
        refused(one_zero(pairs, 9, b"x", **keys))
    for keys in (
        {"map": b"0"},
        {"map": b"0,1,2"},
        {"map": b"0,1,"},
        {"map": b"0,+1"},
        {"map": b""},
        {"numblocks": b"2"},
        {"numblocks": b"0"},
    ):
        refused(zero_one(pairs, 9, b"x", **keys))
    for keys in ({"major": b"2"}, {"minor": b"1"}, {"more": b"1"}, {"map": b"0,1"}):
        refused(one_zero(pairs, 9, b"x", **keys), "seal.unsupported-entry")
    refused(one_zero(pairs, 9, b"x", name=b"../a"), "seal.path-escapes")
    said = [(b"GNU.sparse." + key, value) for key, value in ((b"major", b"1"), (b"minor", b"0"), (b"name", b"a"), (b"realsize", b"9"))]
    for text in (b"1\n0\n", b"1\nx\n1\n", b"1\n00\n1\n", b"9" * 600, b"\n", b"300000\n"):
        refused(pax(said) + file(b"b", padded(text)))
    refused(pax(said) + link(b"b", b"c"), "seal.unsupported-entry")
    refused(pax(said) + header(b"b", b"5"), "seal.unsupported-entry")
    refused(pax(said) + old(pairs, 9, b"x"), "seal.unsupported-entry")
    refused(header(b"a", b"S"), "seal.unsupported-entry")  # of ustar, whose name goes on where the map would be


def test_old_maps_that_go_on_after_their_end_are_refused() -> None:
    whole = old([(0, 1)], 9, b"x")
    for at, value in ((482, 1), (386 + 3 * 24, ord("7"))):
        tail = bytearray(whole[:BLOCK])
        tail[at] = value
        refused(summed(tail) + whole[BLOCK:])
    cut = old([(at, 1) for at in range(0, 60, 2)], 60, b"x" * 30)
    assert read(cut + END) == {b"a": b"x\0" * 30}
    refused(cut[: 2 * BLOCK])


def test_a_map_may_not_be_longer_than_memory_is_kept_for() -> None:
    whole = old([(0, 0)] * 26, 9, b"")
    first, block = whole[:BLOCK], whole[BLOCK : 2 * BLOCK]
    assert "too long" in refused(first + block * ((1 << 18) // 21 + 2))
    assert "too long" in refused(zero_one([], 9, b"", numblocks=b"300000"))


gaps = st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=40)), max_size=40)


@given(gaps, st.integers(0, 2000), st.sampled_from([old, one_zero, zero_one]))
def test_any_map_gives_its_file(parts, tail, write) -> None:
    content, pairs, data = b"", [], b""
    for gap, piece in parts:
        content += bytes(gap)
        pairs.append((len(content), len(piece)))
        content += piece
        data += piece
    content += bytes(tail)
    assert read(write(pairs, len(content), data) + END) == {b"a": content}


@given(st.sampled_from([old, one_zero, zero_one]), st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), max_size=6))
def test_no_changed_byte_breaks_the_reader(write, changes) -> None:
    data = bytearray(write([(at * 3, 2) for at in range(8)], 30, b"xy" * 8) + file(b"b") + END)
    for at, value in changes:
        data[at % len(data)] = value
    blocks = [bytearray(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    for block in blocks:
        if block[257:262] == b"ustar":
            summed(block)
    try:
        read(b"".join(map(bytes, blocks)), limits=Limits(max_bytes=1 << 20))
    except SteleError as error:
        assert error.code in CODES
