"""The attacks, through the shop's own endpoint and nothing else; what the attacker got, what Stele saw, what visitors noticed."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from examples.demo import load
from examples.demo.attacks import MEANING, Attack, Expected, catalogue, target
from examples.demo.screen import took
from examples.demo.show import WORKLOAD, first, seconds_between

if TYPE_CHECKING:
    from examples.demo.show import Show
    from examples.demo.stele import Event

ANSWER_LIMIT_S = 20.0
SETTLE_LIMIT_S = 30.0
UNSEEN_WAIT_S = 1.0  # how long the ledger is given to show something about an attack that left no trace


class Outcome(NamedTuple):
    """How an attack came out: `result` as in `Expected`, or "succeeded unseen" and the like in words for the table."""

    attack: Attack
    got: bool
    result: Expected
    lost: str


class Attempt(threading.Thread):
    """The attacker's one request. `outcome` is None as long as there is no answer; `ended` is when it came (monotonic seconds)."""

    def __init__(self, port: int, attack: Attack) -> None:
        super().__init__(name=f"attack-{attack.key}", daemon=True)
        self._port, self._attack = port, attack
        self.outcome: load.Outcome | None = None
        self.body = b""
        self.ended = 0.0

    def run(self) -> None:
        """Send it and wait."""
        outcome, self.body = load.ask(self._port, target(self._attack.line), timeout=ANSWER_LIMIT_S)
        self.ended = time.monotonic()
        self.outcome = outcome


def assault(show: Show) -> None:
    """All attacks, one after the other, against the serving version."""
    show.screen.section("Attack it through its own endpoint")
    show.screen.say("/cgi-bin/lookup puts its `name` into a shell line unquoted. Every attack below is one GET request to it.")
    _, sealed_page = load.ask(show.where.port)
    outcomes = [_attack(show, attack, sealed_page) for attack in catalogue()]
    show.screen.sub("In short")
    rows = [(o.attack.title, "yes" if o.got else "no", MEANING[o.result], o.lost) for o in outcomes]
    show.screen.table([(a, b, c, d) for a, b, c, d in rows], head=("ATTACK", "GOT IT", "STELE", "VISITORS"))


def _attack(show: Show, attack: Attack, sealed_page: bytes) -> Outcome:
    screen = show.screen
    screen.sub(attack.title)
    screen.note(f"the attacker makes the shop run: {attack.shown}")
    serving, newest = show.await_serving()["instance"], show.newest()
    with show.clients(threads=2) as clients:
        clients.await_answers(10, timeout=20)
        attempt = Attempt(show.where.port, attack)
        attempt.start()
        events = show.stele.await_events(
            WORKLOAD, after=newest, until=lambda found: _settled(attack, attempt, found), timeout=SETTLE_LIMIT_S
        )
        was_frozen = first(events, "instance.frozen", instance=serving) is not None
        if was_frozen:
            show.await_serving(instead_of=serving)
        answers = clients.await_answers(20, timeout=SETTLE_LIMIT_S)
    found = load.account(clients.requests())
    events = show.stele.events(WORKLOAD, after=newest)
    got = attack.prize.encode() in attempt.body
    _say_answer(show, attempt, was_frozen=was_frozen)
    _say_seen(show, events)
    result: Expected = "frozen" if was_frozen else "refused" if _seen(events) else "blocked" if not got else "unseen"
    as_expected = result == attack.expected
    screen.say(f"→ {MEANING[result]}: {attack.why}" if as_expected else f"→ {MEANING[result]}")
    screen.expect(f"as expected ({MEANING[attack.expected]})", holds=as_expected and got == (attack.expected == "unseen"))
    if was_frozen:
        _say_replaced(show, events, found)
    elif found.lost:
        screen.warn(f"visitors: {found}")
    outcome, page = load.ask(show.where.port)
    screen.expect("visitors see the sealed page, byte for byte", holds=answers and outcome == "ok" and page == sealed_page)
    if attack.key == "drop":
        show.moments["during"] = time.time_ns()
    return Outcome(attack, got, result, f"{found.lost} of {found.total} lost")


def _settled(attack: Attack, attempt: Attempt, events: list[Event]) -> bool:
    """Whether there is nothing more to wait for: the incident resolved with its evidence, or an answer and what it led to."""
    if first(events, "instance.frozen"):
        done = first(events, "incident.resolved") or first(events, "incident.unresolved")
        return done is not None and first(events, "evidence.sealed") is not None
    if attempt.outcome is None or attack.expected == "frozen":
        return False
    if attack.expected == "refused":
        return _seen(events)
    return time.monotonic() - attempt.ended > UNSEEN_WAIT_S


def _seen(events: list[Event]) -> bool:
    return first(events, "violation") is not None or first(events, "write.refused") is not None


def _say_answer(show: Show, attempt: Attempt, *, was_frozen: bool) -> None:
    if attempt.body:
        show.screen.say("the attacker's answer:")
        show.screen.quote(attempt.body.decode("utf-8", "replace").strip()[:400])
    elif was_frozen and attempt.outcome in {None, "timed out"}:
        show.screen.say("the attacker's answer: none; the connection hangs, what would answer is frozen")
    else:
        show.screen.say(f"the attacker's answer: none ({attempt.outcome})")


def _say_seen(show: Show, events: list[Event]) -> None:
    kinds = ("violation", "write.refused", "change.observed", "instance.frozen", "network.cut", "incident.resolved", "evidence.sealed")
    rows = [(f"#{event['index']}", event["kind"], _gist(event["data"])) for event in events if event["kind"] in kinds]
    if rows:
        show.screen.say("the ledger:")
        show.screen.table(rows)
    else:
        show.screen.say("the ledger: nothing")


def _gist(data: dict[str, Any]) -> str:
    parts = [str(data[key]) for key in ("kind", "syscall", "path") if data.get(key)]
    if data.get("comm"):
        parts.append(f"by {data['comm']} ({data.get('pid')})")
    if data.get("seen_ns") and data.get("decided_ns"):
        parts.append(f"decided after {took((data['decided_ns'] - data['seen_ns']) / 1e9)}")
    if data.get("took_ns"):
        parts.append(f"frozen after {took(data['took_ns'] / 1e9)}")
    if "in_flight" in data:
        parts.append(f"{data['in_flight']} connections in flight")
    parts += [str(data[key]) for key in ("instance",) if not data.get("comm") and data.get(key)]
    return ", ".join(parts)


def _say_replaced(show: Show, events: list[Event], found: load.Account) -> None:
    violation, frozen, resolved = (first(events, kind) for kind in ("violation", "instance.frozen", "incident.resolved"))
    assert violation is not None
    assert frozen is not None
    show.incidents.append(violation["data"]["incident"])
    facts = violation["data"]
    if facts["seen_ns"]:
        show.measured("detect: from the system call to the decision", (facts["decided_ns"] - facts["seen_ns"]) / 1e9)
        show.measured("freeze: from the system call to frozen", (facts["frozen_ns"] - facts["seen_ns"]) / 1e9)
    if show.screen.expect("a clean instance of the same release serves in its place", holds=resolved is not None):
        replaced = seconds_between(violation, resolved)
        assert replaced is not None
        show.measured("replace: from the violation to a healthy instance on the port", replaced)
        show.screen.say(f"visitors meanwhile: {found}; longest gap between two answers {took(found.longest_gap_s)}")
    show.measured("visitors' longest gap in a quarantine", found.longest_gap_s)
    sealed = seconds_between(frozen, first(events, "evidence.sealed"))
    if sealed is not None:
        show.measured("collect and sign the evidence", sealed)
