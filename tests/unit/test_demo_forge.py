"""The demo's forgeries are as good as they claim: only the signature gives the careful one away."""

import shutil
import time
from pathlib import Path

import pytest

from examples.demo import forge
from stele.ledger.reader import LedgerReader
from stele.ledger.sequencer import Ledger
from stele.model.event import Event
from stele.trust import note

OLD, NEW = (f"sha256:{number:064x}" for number in (1, 0))


def ledger(folder: Path, count: int) -> note.Verifier:
    """A ledger of `count` entries whose releases alternate; returns its key."""
    signer = note.Signer.generate("test.example/ledger")
    opened = Ledger.open(folder, signer=signer, clock=time.time_ns)
    try:
        for number in range(count):
            data = {"instance": f"shop-{number:06x}", "release": f"sha256:{number % 2:064x}"}
            opened.append([Event(workload="shop", kind="instance.active", time_ns=time.time_ns(), actor="test", data=data)])
            if number % 100 == 0:
                opened.publish()
    finally:
        opened.close()
    return signer.verifier


@pytest.fixture(params=[5, 300])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, note.Verifier]:
    key = ledger(tmp_path / "ledger", request.param)
    assert LedgerReader(tmp_path / "ledger").check([key]) == []
    return tmp_path / "ledger", key


def test_flipped_bit_is_caught(whole: tuple[Path, note.Verifier]) -> None:
    folder, key = whole
    forge.flip_a_bit(folder)
    assert LedgerReader(folder).check([key])


def test_consistent_rewriting_is_caught_by_the_signed_root_alone(whole: tuple[Path, note.Verifier]) -> None:
    folder, key = whole
    before = LedgerReader(folder).size
    forge.rewrite(folder, OLD, NEW)
    problems = LedgerReader(folder).check([key])
    assert problems
    assert all("root" in problem for problem in problems), problems
    assert LedgerReader(folder).size == before


def test_forgers_own_signature_makes_it_fit_but_only_for_who_trusts_the_forger(whole: tuple[Path, note.Verifier]) -> None:
    folder, key = whole
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    forger = forge.a_forger(copy)
    forge.rewrite(copy, OLD, NEW, forger)
    assert LedgerReader(copy).check([key])
    assert LedgerReader(copy).check([forger.verifier]) == [], "without the key's owner, nothing but the signature is wrong"
    assert all(entry.event.data.get("release") != OLD for _, entry in LedgerReader(copy).entries("shop"))
