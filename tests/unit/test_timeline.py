"""The timeline: what it says of deploys, incidents, rollbacks and gaps, and that it draws in any width and of any entries."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.flow import chart, page, timeline
from stele.flow.places import Places
from stele.model.event import KINDS, Entry, Event
from stele.trust import trust_keys
from tests.ledgers import SECOND, START, TRUST, opened
from tests.unit.test_log_view import run

ONE, TWO = "sha256:" + "1a" * 32, "sha256:" + "2b" * 32


def story():
    """Deploy, upgrade, incident with replacement, rollback; the agent stops once and dies once."""

    def at(second, kind, workload="shop", /, **data):
        person = {"person": "alice"} if kind == "deploy.started" else {}
        actor = "operator" if person else "agent"
        return Event(workload=workload, kind=kind, time_ns=START + second * SECOND, actor=actor, data=data, private=person)

    return [
        at(0, "agent.started", ""),
        at(10, "deploy.started", release=ONE, previous="", reason="apply"),
        at(11, "instance.starting", instance="shop-1", release=ONE, role="candidate"),
        at(12, "instance.active", instance="shop-1", release=ONE, replaces="", reason="apply"),
        at(20, "deploy.confirmed", release=ONE),
        at(100, "deploy.started", release=TWO, previous=ONE, reason="apply"),
        at(101, "instance.starting", instance="shop-2", release=TWO, role="candidate"),
        at(103, "instance.active", instance="shop-2", release=TWO, replaces="shop-1", reason="apply"),
        at(104, "instance.stopped", instance="shop-1", release=ONE),
        at(110, "deploy.confirmed", release=TWO),
        at(200, "violation", incident="shop-i1", instance="shop-2", release=TWO, kind="exec-unsealed", syscall="execve"),
        at(200, "instance.frozen", incident="shop-i1", instance="shop-2", release=TWO, took_ns=2_500_000),
        at(220, "instance.starting", incident="shop-i1", instance="shop-3", release=TWO, role="replacement"),
        at(221, "instance.active", instance="shop-3", release=TWO, replaces="shop-2", reason="replacement"),
        at(221, "incident.resolved", incident="shop-i1", instance="shop-3", release=TWO),
        at(230, "evidence.sealed", incident="shop-i1", instance="shop-2", release=TWO, files=9),
        at(300, "agent.stopped", "", removed=False),
        at(360, "agent.started", ""),
        at(400, "deploy.started", release=ONE, previous=TWO, reason="rollback"),
        at(401, "instance.active", instance="shop-4", release=ONE, replaces="shop-3", reason="rollback"),
        at(402, "instance.stopped", instance="shop-3", release=TWO),
        at(420, "heartbeat", ""),
        at(480, "agent.started", ""),
        at(500, "heartbeat", ""),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    found = Places(tmp_path_factory.mktemp("data"))
    found.keys.mkdir()
    found.trust.write_bytes(trust_keys.encode(TRUST))
    with opened(found.ledger, clock=lambda: START) as ledger:
        ledger.append(story())
        ledger.append([Event(workload="idle", kind="instance.active", time_ns=START, actor="agent", data={"release": ONE})])
        ledger.publish()
    return found


def shown(places, *argv):
    return run("--data", str(places.data), "log", "timeline", *argv).output


def test_it_is_read_without_a_manual(places):
    text = shown(places, "shop", "--width", "121")
    lines = text.splitlines()
    assert lines[0].startswith("2027-01-15 08:00:00.000 to 2027-01-15 08:08:20.000 UTC (8 min 20 s)")
    rows = {line[:21].strip(): line[21:] for line in lines if line[:21].strip()}
    # 100 columns of 5 seconds
    assert rows["1a" * 6].rstrip() == ("  █" + "█" * 18 + " " * 59).ljust(80) + "█" * 20
    assert rows["2b" * 6] == " " * 20 + "█" * 20 + "   ░" + "█" * 37
    assert rows["nothing served"] == " " * 40 + "····"
    assert [match.start() for match in re.finditer("[▶✗↶]", rows["what happened"])] == [1, 19, 39, 79]
    assert rows["agent"] == "─" * 59 + " " * 13 + "─" * 11 + " " * 13 + "─" * 4
    assert "▶ deploy of 1a1a1a1a1a1a by alice; served after 2.0 s, confirmed after 10.0 s" in text
    assert "▶ deploy of 2b2b2b2b2b2b in place of 1a1a1a1a1a1a by alice; served after 3.0 s, confirmed" in text
    said = "✗ incident shop-i1: exec-unsealed execve in shop-2; frozen in 2.5 ms; replaced by shop-3 after 21.0 s; evidence sealed"
    assert said in text
    assert "↶ rollback to 1a1a1a1a1a1a in place of 2b2b2b2b2b2b by alice; served after 1.0 s" in text
    assert "○ no agent for 60.0 s: it was stopped" in text
    assert "○ no agent for 60.0 s: it DIED" in text


def test_all_workloads_are_a_line_each(places):
    lines = shown(places, "--width", "101").splitlines()
    (row,) = (line for line in lines if line.lstrip().startswith("shop "))
    assert "|1a1a1a█" in row
    assert "|2b2b2b█" in row
    assert "✗" in row


def test_a_part_of_it_shows_what_served_at_its_beginning(places):
    text = shown(places, "shop", "--since", "2027-01-15T08:02:00Z", "--until", "2027-01-15T08:03:00Z", "--width", "81")
    assert "2b2b2b2b2b2b " + "█" * 60 in text
    assert "deploy" not in text.split("UTC")[1].replace("started, did not serve", "")


def test_without_colours_and_without_unicode(places, monkeypatch):
    line = timeline.build(
        [(index, Entry(event=event, seq=0, prev="")) for index, event in enumerate(story())],
        begin_ns=0, end_ns=START + 500 * SECOND, time_before=lambda index: START,
    )  # fmt: skip
    text = "\n".join("".join(part for part, _ in parts) for parts in chart.draw(line, width=100, signs=chart.ASCII))
    assert text.isascii()
    assert "x incident shop-i1" in text


def test_json_has_the_spans(places):
    found = json.loads(shown(places, "shop", "--json"))
    serving = [(span["instance"], (span["end_ns"] - span["begin_ns"]) // SECOND) for span in found["lanes"][0]["spans"] if span["serves"]]
    assert serving == [("shop-1", 91), ("shop-2", 97), ("shop-3", 180), ("shop-4", 99)]
    assert [gap["died"] for gap in found["gaps"]] == [False, True]


def test_an_unknown_workload_is_said(places):
    with pytest.raises(Exception, match="nothing about a workload 'nobody'"):
        shown(places, "nobody")


class Loads(HTMLParser):
    """What a page would fetch."""

    found: tuple[str, ...] = ()

    def handle_starttag(self, tag, attrs):
        assert tag not in {"script", "link", "img", "iframe", "object", "base"}, tag
        self.found += tuple(value for name, value in attrs if name in {"src", "href", "xlink:href", "onload"})


def test_the_page_loads_nothing_and_escapes_all(places, tmp_path):
    shown(places, "shop", "--html", str(tmp_path / "shop.html"))
    text = (tmp_path / "shop.html").read_text("utf-8")
    parser = Loads()
    parser.feed(text)
    assert parser.found == ()
    assert "default-src 'none'" in text
    assert "rollback to 1a1a1a1a1a1a" in text
    bad = Event(workload="<script>", kind="violation", time_ns=START, actor="agent", data={"incident": '"><img src=x>', "kind": "<b>"})
    line = timeline.build([(0, Entry(event=bad, seq=0, prev=""))], begin_ns=0, end_ns=START + 1, time_before=lambda index: 0)
    parser.feed(page.draw(line, origin="<i>"))


values = (
    st.sampled_from(["", "shop-1", "shop-2", ONE, TWO, "rollback", "\x1b[31m"]) | st.integers() | st.none() | st.lists(st.text(max_size=3))
)
keys = ("instance", "release", "incident", "reason", "previous", "took_ns", "kind", "path", "comm", "files")
events = st.builds(
    Event,
    workload=st.sampled_from(["shop", "other", ""]),
    kind=st.sampled_from(sorted(KINDS)),
    time_ns=st.integers(0, (1 << 62) - 1),
    actor=st.sampled_from(["agent", "operator"]),
    data=st.dictionaries(st.sampled_from(keys), values, max_size=6),
)


@settings(deadline=None)
@given(st.lists(events, max_size=30), st.integers(1, 200), st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_whatever_the_ledger_says_it_is_drawn(found, width, begin, end):
    entries = [(index, Entry(event=event, seq=0, prev="")) for index, event in enumerate(found)]
    line = timeline.build(entries, begin_ns=begin, end_ns=end, time_before=lambda index: 0)
    for parts in chart.draw(line, width=width, signs=chart.UNICODE):
        assert all(isinstance(text, str) for text, _ in parts)
    page.draw(line, origin="x")
