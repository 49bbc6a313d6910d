"""Following a ledger by its root of trust: the key that signs changes, and a verifier who knows only the root follows."""

from __future__ import annotations

import shutil

from tests.integration.test_root_of_trust import applied, data, grow, trust_of

_SHARED = (data,)


def test_a_monitor_follows_a_rotation(data):
    trust = trust_of(data, "trust.1")
    ledger = data.data / "ledger"
    argv = ("log", "monitor", str(ledger), "--trust", str(trust), "--state", str(data.folder / "m"), "--once", "--stale", "0s")
    first = data(*argv)
    assert first["alarms"] == []
    data("trust", "rotate", "--at", first["size"] + 3, "-o", "root.2")
    applied(data, "root.2")
    grow(data, 6)
    second = data(*argv)
    assert second["alarms"] == []
    assert second["fresh"] > 6
    grow(data, 1)
    assert data(*argv)["alarms"] == []
    # who begins now learns of both versions from the ledger
    shutil.rmtree(data.folder / "m")
    assert data(*argv)["alarms"] == []
    found = data("log", "witnesses")
    assert found["published"] == data(*argv)["size"]
