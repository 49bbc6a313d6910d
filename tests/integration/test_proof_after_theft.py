"""What was the case before the ledger's key was stolen stays provable to who follows the root of trust."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.data_folder import Data
from tests.integration.test_root_of_trust import applied, data, grow, trust_of

__all__ = ["data"]
pytestmark = pytest.mark.timeout(900)


def test_the_state_of_before_a_theft(data: Data):
    grow(data, 3)
    known = trust_of(data, "trust.1")
    before = data("prove", "shop", "-o", "before.proof")
    data("trust", "recover", "-o", "root.2")
    applied(data, "root.2", "alice", "carol")
    (data.data / "keys" / "ledger.key").unlink()
    grow(data, 2)
    instant = next(each["at_ns"] for each in before["times"])
    at = datetime.fromtimestamp(instant // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{instant % 10**9:09d}Z"
    again = data("prove", "shop", "--at", at, "-o", "again.proof")
    assert again["answer"] == before["answer"]
    for trust in (known, trust_of(data, "trust.2")):
        verdict = data("verify", "again.proof", "--trust", trust)
        assert verdict["answer"] == before["answer"]
        assert any("to version 2" in line for line in verdict["checked"])
