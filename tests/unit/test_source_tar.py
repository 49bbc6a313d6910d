"""The strict tar reader: what ordinary tools write is read, everything on which readers disagree is refused."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stele.seal.sources.source import Limits
from stele.seal.sources.stream import Budget, FileReader, Reader
from stele.seal.sources.tar import Entry, TarReader
from stele.trust.errors import SteleError
from tests.archives import BLOCK, END, file, folder, gnu, header, link, padded, pax, records, symlink

CODES = {"seal.bad-archive", "seal.unsupported-entry", "seal.path-escapes", "seal.bad-name", "seal.too-large"}


def read(data: bytes, *, piece: int = 1 << 20, need_end: bool = True, limits: Limits | None = None) -> list[tuple[Entry, bytes]]:
    pieces = iter([data[at : at + piece] for at in range(0, len(data), piece)])
    tar = TarReader(Reader(pieces, "the test"), Budget(limits or Limits()), need_end=need_end)
    return [(entry, b"".join(tar.data())) for entry in tar]


def refused(data: bytes, code: str) -> str:
    with pytest.raises(SteleError) as caught:
        read(data + END)
    assert caught.value.code == code
    return caught.value.reason


# --- what is read


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("piece", [1 << 20, 100, 513])
def test_archives_of_an_ordinary_writer_are_read_whole(form: int, piece: int) -> None:
    out = io.BytesIO()
    deep = "d" * 90 + "/" + "e" * 60
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, kind, extra in (
            ("./", tarfile.DIRTYPE, {}),
            ("./etc", tarfile.DIRTYPE, {"mode": 0o1777, "uid": 33}),
            (deep, tarfile.REGTYPE, {"mode": 0o4755}),
            ("etc/link", tarfile.SYMTYPE, {"linkname": "../" + "t" * (90 if form == tarfile.USTAR_FORMAT else 200)}),
            ("etc/hard", tarfile.LNKTYPE, {"linkname": deep if form != tarfile.USTAR_FORMAT else "./etc/link"}),
            ("etc/fifo", tarfile.FIFOTYPE, {}),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.mtime = kind, 1_600_000_000
            for key, value in extra.items():
                setattr(info, key, value)
            data = b"content" * 100 if kind == tarfile.REGTYPE else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found = {entry.path: (entry, data) for entry, data in read(out.getvalue(), piece=piece)}
    assert set(found) == {b"", b"etc", deep.encode(), b"etc/link", b"etc/hard", b"etc/fifo"}
    entry, data = found[deep.encode()]
    assert (data, entry.mode, entry.mtime) == (b"content" * 100, 0o4755, 1_600_000_000)
    assert (found[b"etc"][0].mode, found[b"etc"][0].uid) == (0o1777, 33)
    assert found[b"etc/link"][0].target.startswith(b"../ttt")
    assert found[b"etc/hard"][0].target == (deep.encode() if form != tarfile.USTAR_FORMAT else b"etc/link")


def test_pax_says_names_owners_times_sizes_and_xattrs() -> None:
    said = [
        (b"path", b"caf\xe9/\xff"),
        (b"uid", b"3000000000"),
        (b"gid", b"7"),
        (b"mtime", b"1600000000.999999999"),
        (b"size", b"3"),
        (b"SCHILY.xattr.user.x", b"a=\n\0b"),
        (b"LIBARCHIVE.creationtime", b"1"),
        (b"comment", b"ignored"),
    ]
    ((entry, data),) = read(pax(said) + header(b"short", raw_size=b"77777777777\0") + padded(b"abc") + END)
    assert (entry.path, entry.uid, entry.gid, entry.mtime, data) == (b"caf\xe9/\xff", 3_000_000_000, 7, 1_600_000_000, b"abc")
    assert entry.xattrs == {b"user.x": b"a=\n\0b"}


@pytest.mark.parametrize(("said", "floor"), [(b"-1", -1), (b"-1.5", -2), (b"-1.0", -1), (b"0.5", 0), (b"7.", 7)])
def test_times_are_floored(said: bytes, floor: int) -> None:
    ((entry, _),) = read(pax([(b"mtime", said)]) + file(b"a") + END)
    assert entry.mtime == floor


def test_gnu_long_names_and_big_numbers_are_read() -> None:
    name, target = b"n/" * 120 + b"n", b"t" * 300
    big = b"\x80" + (2_000_000).to_bytes(11, "big")
    data = gnu(b"L", name) + gnu(b"K", target) + symlink(b"short", b"short", magic=b"ustar  \0")
    found = read(data + header(b"big", raw_size=big, magic=b"ustar  \0") + padded(bytes(2_000_000)) + END)
    assert (found[0][0].path, found[0][0].target) == (name, target)
    assert len(found[1][1]) == 2_000_000


def test_ustar_prefixes_are_joined_and_gnu_ones_are_not() -> None:
    assert read(file(b"b", prefix=b"a") + END)[0][0].path == b"a/b"
    assert read(file(b"b", prefix=b"a", magic=b"ustar  \0") + END)[0][0].path == b"b"


@pytest.mark.parametrize(("name", "path"), [(b"./", b""), (b".", b""), (b"/", b""), (b"./a/", b"a"), (b"a", b"a")])
def test_the_usual_spellings_of_a_folder_are_one_path(name: bytes, path: bytes) -> None:
    assert read(folder(name) + END)[0][0].path == path


def test_global_comments_are_ignored_as_git_writes_them() -> None:
    assert [entry.path for entry, _ in read(pax([(b"comment", b"a" * 40)], b"g") + file(b"a") + END)] == [b"a"]


def test_skipped_content_is_passed_over() -> None:
    data = file(b"a", b"1" * 5000) + file(b"b", b"2") + END
    stream = io.BytesIO(data)

    def pread(size: int, offset: int) -> bytes:
        stream.seek(offset)
        return stream.read(size)

    offsets = {}
    reader = FileReader(pread, len(data), "the test")
    for entry in TarReader(reader, Budget(Limits())):
        offsets[entry.path] = reader.offset
    assert data[offsets[b"b"] : offsets[b"b"] + 1] == b"2"


def test_an_end_may_be_missing_only_where_a_digest_vouches() -> None:
    assert len(read(file(b"a"), need_end=False)) == 1
    with pytest.raises(SteleError, match=r"seal\.bad-archive"):
        read(file(b"a"))


# --- what is refused, by attack


@pytest.mark.parametrize("name", [b"/etc/passwd", b"//etc", b"../a", b"a/../../b", b"./../a", b"a/.."])
def test_names_that_leave_the_tree_are_refused(name: bytes) -> None:
    refused(file(name), "seal.path-escapes")
    refused(folder(name), "seal.path-escapes")
    refused(file(b"ok") + link(b"b", name), "seal.path-escapes")
    refused(pax([(b"path", name)]) + file(b"ok"), "seal.path-escapes")
    refused(gnu(b"L", name) + file(b"ok"), "seal.path-escapes")


@pytest.mark.parametrize("name", [b"a//b", b"a/./b", b"././a", b"a/b/."])
def test_second_spellings_of_a_name_are_refused(name: bytes) -> None:
    refused(file(name), "seal.bad-name")


def test_a_file_that_ends_in_a_slash_is_refused() -> None:
    refused(file(b"a/"), "seal.bad-name")


def test_overlong_and_NUL_names_are_refused() -> None:
    refused(pax([(b"path", b"n" * 256)]) + file(b"a"), "seal.bad-name")
    refused(pax([(b"path", b"n/" * 2048 + b"n")]) + file(b"a"), "seal.bad-name")
    refused(pax([(b"path", b"a\0b")]) + file(b"a"), "seal.bad-archive")
    refused(gnu(b"L", b"a\0b") + file(b"a"), "seal.bad-archive")
    refused(pax([(b"linkpath", b"t" * 4096)]) + symlink(b"a", b"t"), "seal.bad-archive")
    refused(pax([(b"linkpath", b"a\0b")]) + symlink(b"a", b"t"), "seal.bad-archive")
    refused(symlink(b"a", b""), "seal.bad-archive")
    refused(file(b""), "seal.bad-archive")


def test_negative_and_malformed_sizes_are_refused() -> None:
    for size in (b"\xff" * 12, b"-0000000001\0", b"00000000009\0", b"0x000000001\0", b"\xc0" + bytes(11), b"\x80" + b"\xff" * 11):
        refused(header(b"a", raw_size=size) + padded(b"x"), "seal.bad-archive")
    for size in (b"-1", b"+1", b" 1", b"01", b"1_0", b"\xd9\xa1", b"", b"1e3", b"99999999999999999999"):
        refused(pax([(b"size", size)]) + file(b"a"), "seal.bad-archive")


def test_owners_beyond_linux_are_refused() -> None:
    for number in (b"-1", b"4294967295", b"18446744073709551616"):
        refused(pax([(b"uid", number)]) + file(b"a"), "seal.bad-archive")


def test_links_and_folders_with_content_are_refused() -> None:
    for flag in (b"1", b"2", b"5", b"6"):
        refused(header(b"a", flag, size=3, link=b"b") + padded(b"abc"), "seal.bad-archive")


def test_global_headers_that_rename_or_resize_are_refused() -> None:
    for key in (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"SCHILY.xattr.user.a", b"GNU.sparse.name"):
        refused(pax([(key, b"1")], b"g") + file(b"a"), "seal.bad-archive")


def test_a_key_given_twice_is_refused() -> None:
    refused(pax([(b"path", b"a"), (b"path", b"b")]) + file(b"c"), "seal.bad-archive")


def test_two_headers_for_one_member_and_headers_for_none_are_refused() -> None:
    for one in (pax([(b"path", b"a")]), gnu(b"L", b"a"), gnu(b"K", b"a")):
        refused(one + one + symlink(b"c", b"d"), "seal.bad-archive")
        refused(one, "seal.bad-archive")
    refused(pax([(b"path", b"a")]) + gnu(b"L", b"b") + file(b"c"), "seal.bad-archive")


def test_malformed_pax_records_are_refused() -> None:
    for data in (
        b"8 path=a\n",
        b"11 path=a\n",
        b"999 path=a\n",
        b"path=a\n",
        b"010 path=a\n",
        b"7 path=a\n",
        b"10 pathXaa\n",
        b"6 =aa\n",
        b"4 a\n",
        b"-8 path=a\n",
    ):
        refused(header(b"x", b"x", size=len(data)) + padded(data) + file(b"a"), "seal.bad-archive")
    refused(header(b"x", b"x", size=2 << 20) + bytes(2 << 20) + file(b"a"), "seal.bad-archive")


def test_sparse_and_other_special_members_are_refused() -> None:
    refused(header(b"a", b"S", magic=b"ustar  \0"), "seal.unsupported-entry")
    for key in (b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.realsize", b"GNU.sparse.name"):
        refused(pax([(key, b"1")]) + file(b"a"), "seal.unsupported-entry")
    for flag in (b"D", b"M", b"V", b"A", b"8", b"\xff"):
        refused(header(b"a", flag), "seal.unsupported-entry")


def test_a_second_archive_after_the_end_is_refused() -> None:
    refused(file(b"a") + END + file(b"b"), "seal.bad-archive")
    refused(file(b"a") + bytes(BLOCK) + file(b"b"), "seal.bad-archive")


def test_cut_archives_are_refused() -> None:
    whole = pax([(b"path", b"b" * 200)]) + file(b"a", b"x" * 700)
    content_end = len(whole) - (-700 % BLOCK)
    for cut in range(1, len(whole)):
        with pytest.raises(SteleError, match=r"seal\.bad-archive"):
            read(whole[:cut])
        if cut < content_end:
            with pytest.raises(SteleError, match=r"seal\.bad-archive"):
                read(whole[:cut], need_end=False)
        else:
            assert len(read(whole[:cut], need_end=False)[0][1]) == 700


def test_wrong_checksums_and_foreign_formats_are_refused() -> None:
    bad = bytearray(file(b"a") + END)
    bad[0] ^= 1
    with pytest.raises(SteleError, match="checksum"):
        read(bytes(bad))
    refused(file(b"a", magic=bytes(8)), "seal.bad-archive")
    refused(b"\x7fELF" + bytes(508), "seal.bad-archive")


def test_more_entries_than_allowed_are_refused() -> None:
    with pytest.raises(SteleError, match=r"seal\.too-large"):
        read(file(b"a") * 11 + END, limits=Limits(max_entries=10))
    with pytest.raises(SteleError, match=r"seal\.too-large"):
        read(pax([(b"comment", b"")], b"g") * 11 + END, limits=Limits(max_entries=10))


def test_attributes_that_would_fill_the_memory_are_refused() -> None:
    one = pax([(b"SCHILY.xattr.user.a", bytes(60_000))]) + file(b"a")
    with pytest.raises(SteleError, match=r"seal\.too-large"):
        read(one * 20 + END, limits=Limits(max_extensions=1 << 20))


# --- arbitrary bytes


def orderly(data: bytes, piece: int) -> Any:
    try:
        return read(data, piece=piece)
    except SteleError as error:
        assert error.code in CODES
        return error.code


GOOD = (
    pax([(b"path", b"long" * 30), (b"mtime", b"1.5")])
    + file(b"x", b"y" * 600)
    + folder(b"d/")
    + symlink(b"d/s", b"t")
    + link(b"h", b"d/s")
    + END
)


@settings(max_examples=300)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.sampled_from([7, 512, 1 << 20]))
def test_any_changed_byte_is_read_or_refused_in_order(at: int, flip: int, piece: int) -> None:
    data = bytearray(GOOD)
    data[at] ^= flip
    # a right checksum lets the change through to what comes after it
    for start in (0, BLOCK * 2, BLOCK * 5, BLOCK * 6, BLOCK * 7):
        head = data[start : start + BLOCK]
        head[148:156] = b" " * 8
        data[start + 148 : start + 156] = f"{sum(head):06o}\0 ".encode()
    assert orderly(bytes(data), piece) == orderly(bytes(data), 100)


@settings(max_examples=200)
@given(st.binary(max_size=3000), st.sampled_from([b"x", b"g", b"L", b"K", b"0", b"5", b"S", b"\0"]))
@example(b"", b"x")
def test_any_extension_content_is_read_or_refused_in_order(data: bytes, flag: bytes) -> None:
    orderly(header(b"x", flag, size=len(data)) + padded(data) + file(b"a") + END, 1 << 20)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=8).filter(lambda k: b"=" not in k), st.binary(max_size=120)), max_size=4))
def test_pax_records_of_any_content_are_read_as_written(pairs: list[tuple[bytes, bytes]]) -> None:
    pairs = [(b"SCHILY.xattr." + key, value) for key, value in dict(pairs).items()]
    ((entry, _),) = read(pax(pairs) + file(b"a") + END) if records(pairs) else read(file(b"a") + END)
    assert entry.xattrs == {key[13:]: value for key, value in pairs}
