"""A published ledger read through its source: one suite for a folder and for a web server that knows nothing of ledgers."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.ledger import source as sources
from stele.ledger import tiles
from stele.ledger.published import Published
from stele.ledger.reader import LedgerReader
from stele.trust import merkle, note
from stele.trust.errors import SteleError
from tests.ledgers import event, opened

SIZES = (1, 255, 256, 257, 700)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def web(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A ledger with the checkpoints of several sizes, and partial tiles that were pruned meanwhile."""
    folder = tmp_path_factory.mktemp("published") / "ledger"
    with opened(folder) as ledger:
        for size in SIZES:
            ledger.append([event(number) for number in range(size - ledger.size - 1 or 1)])
            ledger.publish()
    return folder


@pytest.fixture(params=["folder", "http"])
def source(request, made):
    if request.param == "folder":
        with sources.source_of(made) as found:
            yield found
        return
    with web(made) as url, sources.source_of(url) as found:
        yield found


def opened_at(source, folder):
    head = note.parse_body(sources.checkpoint_of(source, "it").partition(b"\n\n")[0] + b"\n")
    assert head == LedgerReader(folder).checkpoint
    return Published(source, head)


def test_everything_is_read_and_checked(source, made):
    found, reader = opened_at(source, made), LedgerReader(made)
    assert [raw for _, raw in found.entries(0, found.size)] == list(reader.raw_entries(0, reader.size))
    assert [index for index, _ in found.entries(250, 520)] == list(range(250, 520))
    for index in (0, 255, 256, found.size - 1):
        assert found.inclusion(index) == reader.inclusion(index)
    for size, path in ((int(path.name), path) for path in (made / "checkpoints").iterdir()):
        old = note.parse_body(path.read_bytes().partition(b"\n\n")[0] + b"\n")
        assert found.root_at(size) == old.root
        assert merkle.is_consistent(size, found.size, old.root, found.checkpoint.root, found.consistency(size))


def test_what_is_not_there_is_none_and_what_is_private_is_not_there(source, made):
    (made / ".state" / "secret").write_text("s")
    private = (".state/secret", ".state/wal.0", "projection.sqlite", "map/nodes", "tile/0/../../checkpoint")
    for name in ("tile/0/999", "checkpoints/3", *private):
        assert source.read(name) is None, name


def test_a_byte_that_is_not_what_was_signed_is_refused(made, tmp_path):
    for name in ("tile/0/000", "tile/1/000.p/2", "tile/entries/001"):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(made, copy)
        data = bytearray((copy / name).read_bytes())
        data[40] ^= 1
        (copy / name).write_bytes(data)
        with sources.source_of(copy) as source, pytest.raises(SteleError) as raised:
            list(opened_at(source, copy).entries(0, 700))
        assert raised.value.code == "ledger.damaged", name


def test_no_symlink_is_followed(made, tmp_path):
    copy = tmp_path / "ledger"
    shutil.copytree(made, copy)
    (copy / "tile/0/000").unlink()
    os.symlink(made / "tile/0/000", copy / "tile/0/000")
    shutil.move(copy / "tile/entries", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", copy / "tile/entries")
    with sources.source_of(copy) as source:
        assert source.read("tile/0/000") is None
        assert source.read("tile/entries/000") is None


def test_a_larger_answer_than_any_tile_is_refused(tmp_path):
    (tmp_path / "tile/0").mkdir(parents=True)
    (tmp_path / "tile/0/000").write_bytes(bytes(sources.MAX_TILE + 1))
    with web(tmp_path) as url, sources.source_of(url) as source, pytest.raises(SteleError) as raised:
        source.read("tile/0/000")
    assert raised.value.code == "http.bad-answer"


@pytest.mark.parametrize(
    "text", ["http://", "https://user:pw@host/", "http://host/?x", "http://ho st/", "https://host/#a", "http://h\u00f6st/"]
)
def test_what_is_no_address(text):
    with pytest.raises(SteleError) as raised:
        sources.source_of(text)
    assert raised.value.code == "http.bad-address"


def test_no_ledger_is_said(tmp_path):
    with web(tmp_path) as url, sources.source_of(url) as source, pytest.raises(SteleError) as raised:
        sources.checkpoint_of(source, url)
    assert raised.value.code == "ledger.none"
    with pytest.raises(SteleError) as raised:
        sources.source_of(tmp_path / "not-there")
    assert raised.value.code == "ledger.none"


def test_a_folder_that_may_not_be_read_is_said(made, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    with sources.source_of(made) as source:
        monkeypatch.setattr("os.open", refused)  # root may read all
        with pytest.raises(SteleError) as raised:
            source.read("checkpoint")
        assert raised.value.code == "ledger.not-readable"
        with pytest.raises(SteleError) as raised:
            sources.source_of(tmp_path)
        assert raised.value.code == "ledger.not-readable"


@given(st.integers(0, 64), st.integers(0, 10**9), st.integers(1, 256))
def test_public_names_are_those_of_the_spec(level, number, width):
    assert sources.is_public(tiles.bundle_path(number, width))
    assert sources.is_public(tiles.tile_path(level, number, width)) == (level < 64)


@given(st.text(alphabet="tile/0129x.p-c\u0663\n", max_size=24) | st.text(max_size=30))
def test_no_other_spelling_is_public(text):
    if sources.is_public(text) and text.startswith("tile/"):
        where, _, width = text.partition(".p/")
        numbers = [part.removeprefix("x") for part in where.split("/")[2:]]
        again = tiles.number_path(int("".join(numbers)))
        assert text == "/".join(where.split("/")[:2]) + "/" + again + (f".p/{int(width)}" if width else "")
