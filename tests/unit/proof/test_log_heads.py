"""A proof that brings the log brings heads that are in it: nobody makes an epoch of later times for an old checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stele.model.event import decode_entry
from stele.trust import canonical, note
from stele.trust.errors import SteleError
from tests.ledgers import SIGNER
from tests.proofs import built, check, resum, state, t


def log_proof(folder: Path, seconds: float) -> dict[str, Any]:
    found = json.loads(built(folder, state(seconds), "log"))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("since", ["0", "as it was"])
def test_an_epoch_after_the_end_of_the_log_is_no_head(folder, since):
    """Without any key: the newest checkpoint says nothing of what comes after it."""
    plain = log_proof(folder, 25)
    item = plain["heads"][-1]["epoch"]
    entry = json.loads(item["entry"])
    item["index"] = len(plain["log"]) + 7
    entry["time_ns"], entry["data"]["covers"] = t(1_000_000), item["index"]
    if since == "0":
        entry["data"]["since"] = 0
    item["entry"] = canonical.encode(entry).decode()
    assert decode_entry(item["entry"].encode()).event.kind == "epoch"
    plain["claim"]["at_ns"] = t(999_999) if since == "0" else t(1_000_000)
    with pytest.raises(SteleError) as raised:
        check(resum(plain))
    assert raised.value.code == "prove.invalid"


def test_every_head_is_of_this_log(folder):
    """Two heads of one size: the first is of a fork."""
    plain = log_proof(folder, 8.5)
    first, last = plain["heads"]
    size = len(plain["log"])
    first["checkpoint"] = SIGNER.sign(note.Checkpoint(SIGNER.name, size, b"\7" * 32).body()).decode()
    with pytest.raises(SteleError) as raised:
        check(resum(plain))
    assert raised.value.code == "prove.invalid"
    assert last["checkpoint"] != first["checkpoint"]
