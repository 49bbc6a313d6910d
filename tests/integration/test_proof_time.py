"""Whose word the time is, with OpenSSL's timestamp authority."""

from __future__ import annotations

import time

from stele.trust import timestamp
from tests.ledgers import SECOND, TRUST
from tests.proofs import built, check, state, world
from tests.tsa import Authority


def test_a_head_that_an_authority_stamped(tmp_path):
    folder, authority, other = world(tmp_path / "ledger"), Authority(tmp_path / "tsa"), Authority(tmp_path / "other")
    message = timestamp.message_of((folder / "checkpoints" / "14").read_bytes())
    token = authority.stamp(timestamp.request(message, 7))
    assert authority.judge(message, token)
    (folder / "checkpoints" / "14.tsr").write_bytes(token)
    data = built(folder, state(8.5))
    verdict = check(data, TRUST._replace(authorities=(authority.root,)))
    operator, stamped = verdict.times
    assert (operator["who"], stamped["who"], stamped["name"], stamped["holds"]) == ("operator", "authority", "CN=tsa", True)
    assert abs(stamped["stamped_ns"] - time.time_ns()) < 60 * SECOND
    assert "timestamp authority CN=tsa stamped the head after it" in verdict.time[1]
    assert verdict.not_checked[0].startswith("the time: beyond that the heads are no younger than stamped")
    # by somebody whom the verifier does not trust it says nothing, and changes nothing
    for trust in (TRUST, TRUST._replace(authorities=(other.root,))):
        unheard = check(data, trust)
        assert (unheard.answer, unheard.times[1]["holds"]) == (verdict.answer, False)
        assert unheard.not_checked[0].startswith("the time: without a witness")
