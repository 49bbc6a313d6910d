"""Following a ledger by its root of trust: the key that signs changes, and a verifier who knows only the root follows."""

from __future__ import annotations

import contextlib
import json
import shutil

from stele.ledger.sequencer import Ledger
from stele.model.event import Event
from stele.trust import root as roots
from tests.integration.test_root_of_trust import Thief, applied, check, data, grow, trust_of
from tests.unit.test_published import web

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
    before = (data.folder / "m" / "checkpoint").read_bytes()
    second = data(*argv)
    assert second["alarms"] == []
    # cut off after the document was kept, before the checkpoint was
    (data.folder / "m" / "checkpoint").write_bytes(before)
    again = data(*argv)
    assert (again["alarms"], again["fresh"]) == ([], second["fresh"])
    assert second["fresh"] > 6
    grow(data, 1)
    assert data(*argv)["alarms"] == []
    assert data(*argv[:5], *argv[7:])["alarms"] == []  # a folder by the ledger's name
    # who begins now learns of both versions from the ledger
    shutil.rmtree(data.folder / "m")
    assert data(*argv)["alarms"] == []
    found = data("log", "witnesses")
    assert found["published"] == data(*argv)["size"]


def test_a_thiefs_fork_that_ends_before_the_good_head_is_not_believed(data):
    """It holds the public document that names the theft, and is too short to be shown a beginning of the good head."""
    grow(data, 2)
    thief = Thief(data, "fork")
    grow(data, 12)
    data("trust", "recover", "-o", "root.2")
    applied(data, "root.2")
    now = trust_of(data, "trust.2")
    root = roots.parse((data.data / "keys" / "trust.root").read_bytes())
    with contextlib.closing(Ledger.open(thief.ledger, signer=thief.signer, clock=lambda: 2 * 10**18)) as written:
        facts = {"version": 2, "digest": root.pin.digest, "document": (data.data / "keys" / "trust.root").read_text()}
        written.append([Event(workload="", kind="trust.root", time_ns=2 * 10**18, actor="operator", data=facts)])
        written.publish()
        assert written.size < root.stolen[0].size
    monitor = ("log", "monitor", str(thief.ledger), "--trust", str(now), "--state", str(data.folder / "m"), "--once", "--stale", "0s")
    found = json.loads(data.run(*monitor).stdout)
    assert [alarm["kind"] for alarm in found["alarms"]] == ["bad-checkpoint"]
    assert data.refused("log", "--from", str(thief.ledger), "--trust", str(now)) == "trust.stolen-key"
    with web(thief.ledger) as url:
        assert data.refused("log", "--from", url, "--trust", str(now)) == "trust.stolen-key"
    assert any("good head" in problem or "stolen key" in problem for problem in check(data, thief.ledger, now))
    # the honest one is followed from the head that the thief may have signed, too
    assert data(*monitor[:2], str(data.data / "ledger"), *monitor[3:])["alarms"] == []
    # the folder's own writer does not go on with it either
    shutil.rmtree(data.data / "ledger")
    shutil.copytree(thief.ledger, data.data / "ledger")
    refused = data.refused("hold", "place", "--workload", "shop", "--reason", "x")
    assert refused in {"ledger.damaged", "trust.no-ledger-key", "trust.stolen-key"}
