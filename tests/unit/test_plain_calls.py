"""Calls that are read without click mean what they mean to click."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.cli import plain
from stele.cli.app import cli

WORDS = (
    "seal", "--data", "--json", "--debug", "-f", "--file", "--file=x", "-fx", "--compression", "zstd", "gzip", "none", "brotli", "--kind",
    "auto", "folder", "registry", "--paranoid", "--key", "--from", "a", "b", "-", "--", "", "here", "--help", "--delta", "-j", "x y",
)  # fmt: skip
DEFAULTS = {
    "base": "", "reference": "", "platform": "", "plain_http": False, "arguments": (), "network": False, "paranoid": False, "delta": False,
    "key": "", "passphrase_file": None,
}  # fmt: skip


def by_click(argv: list[str]) -> dict[str, Any]:
    """What click makes of a command line: the parameters of group and command together."""
    group = cli.make_context("stele", list(argv))
    name, command, rest = cli.resolve_command(group, [*group._protected_args, *group.args])
    assert name == "seal"
    inner = command.make_context(name, rest, parent=group)
    return {"data": group.params["data"], "json": group.params["as_json"], **inner.params}


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory):
    """A folder in which every word names a file, and `data` is a folder: click looks at them."""
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("calls")
    for word in WORDS:
        if word and "/" not in word and word != "here":
            (folder / word).write_bytes(b"")
    (folder / "stele.yaml").write_bytes(b"")
    (folder / "here").mkdir()
    os.chdir(folder)
    yield
    os.chdir(before)


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=3), st.lists(st.sampled_from(WORDS), max_size=6))
def test_what_is_read_here_click_reads_as_the_same(before, after):
    argv = [*before, "seal", *after]
    asked = plain.read(argv)
    if asked is None or not plain.is_for_here(asked):
        return
    found = by_click(argv)
    assert {name: found.pop(name) for name in DEFAULTS} == DEFAULTS
    assert found.pop("source") == asked.source
    assert str(found.pop("data") or "") == asked.data
    assert found.pop("json") | found.pop("sub_json", False) == asked.json
    assert str(found.pop("spec_file")) == asked.file
    assert (found.pop("compression"), found.pop("kind")) == (asked.compression, asked.kind)
    assert not {name: value for name, value in found.items() if value}


@pytest.mark.parametrize(
    "argv",
    [
        ["seal", "a"],
        ["--data", "here", "seal", "a", "-f", "b"],
        ["--json", "seal", "a", "--file", "b", "--kind", "folder"],
        ["seal", "--compression", "gzip", "a", "--json"],
    ],
)
def test_these_are_read_here(argv):
    asked = plain.read(argv)
    assert asked is not None
    assert plain.is_for_here(asked)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["seal"],
        ["seal", "a", "b"],
        ["seal", "--from", "a"],
        ["verify", "seal"],
        ["seal", "a", "-f"],
        ["seal", "a", "--kind", "registry"],
    ],
)
def test_these_are_for_click(argv):
    assert plain.read(argv) is None


@pytest.mark.parametrize(("name", "value"), [("file", "missing"), ("file", "here"), ("data", "a"), ("data", "/dev/null")])
def test_what_click_refuses_is_left_to_it(name, value):
    asked = plain.read(["seal", "a"])
    assert asked is not None
    assert plain.is_for_here(asked)
    assert not plain.is_for_here(asked._replace(**{name: value}))


def test_a_data_folder_of_the_environment_is_looked_at_too(monkeypatch):
    asked = plain.read(["seal", "a"])
    assert asked is not None
    monkeypatch.setenv("STELE_DATA", "a")
    assert not plain.is_for_here(asked)
