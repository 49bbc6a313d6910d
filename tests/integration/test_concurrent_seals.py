"""Several commands on one data folder at the same time, and no agent that would hold its ledger for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stele.flow import initialise, opening, sealing
from stele.flow.places import Places
from stele.host import locks
from stele.trust.errors import SteleError

pytestmark = pytest.mark.timeout(600)
ENTRY = "import sys; sys.path[0] = ''; sys.argv[0] = 'stele'; from stele.cli.main import main; main()"
COUNT = 6


def stele(data: Path, *argv: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", ENTRY, "--data", str(data), *argv], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)


def said(command: subprocess.Popen[bytes], code: int = 0) -> bytes:
    out, errors = command.communicate()
    assert command.returncode == code, errors
    return out


@pytest.fixture
def data(tmp_path):
    said(stele(tmp_path / "data", "init", "--keys-only"))
    for number in range(COUNT):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "run").write_bytes(b"%d" % number)
        (tmp_path / f"{number}.yaml").write_bytes(b"stele: 0\nname: w%d\ncommand: [/run]\n" % number)
    return tmp_path / "data"


def test_seals_that_come_at_once_are_recorded_one_after_another(data, tmp_path):
    for _ in range(2):  # the whole way, then the short one
        calls = [stele(data, "seal", str(tmp_path / f"{number}"), "-f", str(tmp_path / f"{number}.yaml")) for number in range(COUNT)]
        for call in calls:
            said(call)
    entries = [json.loads(line) for line in said(stele(data, "--json", "log", "--kind", "release.sealed")).splitlines()]
    found = [entry["workload"] for entry in (entries[0] if isinstance(entries[0], list) else entries)]
    assert sorted(found) == sorted(2 * [f"w{number}" for number in range(COUNT)])
    said(stele(data, "log", "check"))
    said(stele(data, "store", "check"))


def test_holds_wait_for_their_turn_too(data, tmp_path):
    said(stele(data, "seal", str(tmp_path / "0"), "-f", str(tmp_path / "0.yaml")))
    calls = [stele(data, "hold", "place", "--workload", "w0", "--reason", f"case {number}") for number in range(COUNT)]
    for call in calls:
        said(call)
    assert len(json.loads(said(stele(data, "hold", "list", "--json")))) == COUNT


def test_a_ledger_that_is_never_let_go_is_told_of_and_nothing_was_sealed(tmp_path, monkeypatch):
    places = Places(tmp_path / "data")
    initialise.make_keys(places)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "run").write_bytes(b"run")
    (tmp_path / "stele.yaml").write_bytes(b"stele: 0\nname: shop\ncommand: [/run]\n")
    (places.ledger / ".state").mkdir(parents=True)
    held = locks.hold(places.ledger / ".state" / "lock")
    assert held is not None
    monkeypatch.setattr(opening, "TURN_S", 0.2)

    def nobody(_: object) -> object:
        raise SteleError("no agent", remedy="-", code="agent.not-running")

    with pytest.raises(SteleError, match="another process writes") as refused:
        sealing.seal(
            places, tmp_path / "app", tmp_path / "stele.yaml",
            options=sealing.Options(), say=lambda _: None, record=sealing.recorder(places, nobody),
        )  # fmt: skip
    assert refused.value.code == "ledger.locked"
    assert opening.open_store(places).releases() == []


def test_what_is_interrupted_while_it_waits_for_its_turn_is_not_visible_either(tmp_path, monkeypatch):
    places = Places(tmp_path / "data")
    initialise.make_keys(places)
    (tmp_path / "app").mkdir()
    (tmp_path / "stele.yaml").write_bytes(b"stele: 0\nname: shop\ncommand: [/run]\n")

    def seal(content: bytes, ask) -> None:
        (tmp_path / "app" / "run").write_bytes(content)
        sealing.seal(
            places, tmp_path / "app", tmp_path / "stele.yaml",
            options=sealing.Options(), say=lambda _: None, record=sealing.recorder(places, ask),
        )  # fmt: skip

    def nobody(_: object) -> object:
        raise SteleError("no agent", remedy="-", code="agent.not-running")

    def interrupt(_: float) -> None:
        assert len(opening.open_store(places).releases()) == 2  # it was visible before
        raise KeyboardInterrupt

    seal(b"one", nobody)
    before = opening.open_store(places).releases()
    held = locks.hold(places.ledger / ".state" / "lock")
    assert held is not None
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(time, "sleep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                seal(b"two", nobody)
        assert opening.open_store(places).releases() == before
    os.close(held)
    seal(b"two", nobody)
    assert len(opening.open_store(places).releases()) == 2


def test_an_agent_that_comes_to_hold_the_ledger_is_asked():
    asked = []

    def here() -> str:
        raise SteleError("locked", remedy="-", code="ledger.locked")

    def through_agent() -> str:
        asked.append(1)
        if len(asked) < 3:
            raise SteleError("it only starts", remedy="-", code="agent.not-running")
        return "by the agent"

    assert opening.in_turn(here, through_agent) == "by the agent"
    assert len(asked) == 3
