"""The attacks, through the shop's own endpoint and nothing else; what the attacker got, what Stele saw, what visitors noticed."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from examples.demo import load
from examples.demo.attacks import IN_SHORT, MEANING, Attack, Expected, catalogue, target
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
    rows = [(o.attack.title, "yes" if o.got else "no", IN_SHORT[o.result], o.lost) for o in outcomes]
    show.screen.table(rows, head=("ATTACK", "GOT IT", "STELE", "VISITORS"))


def _attack(show: Show, attack: Attack, sealed_page: bytes) -> Outcome:
    screen = show.screen
    screen.sub(attack.title)
    screen.note(f"the attacker makes the shop run: {attack.shown}")
    serving, newest = show.await_serving()["instance"], show.newest()
    with load.Arrivals(show.where.port) as clients:
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
    _say_seen(show, events, serving)
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
        show.screen.say(f"the attacker's answer: nothing ({attempt.outcome or 'none in time'})")


def _say_seen(show: Show, events: list[Event], attacked: str) -> None:
    kinds = ("violation", "write.refused", "change.observed", "instance.frozen", "network.cut", "incident.resolved", "evidence.sealed")
    told = [event for event in events if event["kind"] in kinds]
    # the replacement makes its own files when it starts
    told = [event for event in told if event["kind"] != "change.observed" or event["data"].get("instance") == attacked]
    if told:
        violation = first(events, "violation")
        seen_ns = violation["data"]["seen_ns"] if violation else 0
        show.screen.say("the ledger:")
        show.screen.table([(f"#{event['index']}", event["kind"], _gist(event["kind"], event["data"], seen_ns)) for event in told])
    else:
        show.screen.say("the ledger: nothing")


def _gist(kind: str, data: dict[str, Any], seen_ns: int) -> str:
    if kind == "violation":
        decided = took((data["decided_ns"] - data["seen_ns"]) / 1e9) if data["seen_ns"] else "?"
        return f"{data['kind']}: {data['syscall']} {data['path']} by {data['comm']}, decided {decided} after the call".replace("  ", " ")
    if kind in {"write.refused", "change.observed"}:
        return f"{data['syscall']} {data['path']} by {data['comm'] or 'a process that has ended'}".strip()
    if kind == "instance.frozen":
        return f"{data['instance']}, {took(data['took_ns'] / 1e9)} after the call"
    if kind == "network.cut":
        cut = took((data["cut_ns"] - seen_ns) / 1e9) if seen_ns else "?"
        return f"{data['instance']}, {cut} after the call, {data['in_flight']} connections in flight"
    if kind == "evidence.sealed":
        return (
            f"{data.get('files', '?')} files, {data.get('bytes', 0) / (1 << 20):.0f} MiB, collected in {took(data.get('took_ns', 0) / 1e9)}"
        )
    return str(data.get("instance", ""))


def _say_replaced(show: Show, events: list[Event], found: load.Account) -> None:
    violation, cut, resolved = (first(events, kind) for kind in ("violation", "network.cut", "incident.resolved"))
    assert violation is not None
    show.incidents.append(violation["data"]["incident"])
    facts = violation["data"]
    if facts["seen_ns"]:
        show.measured("detect: from the system call to the decision", (facts["decided_ns"] - facts["seen_ns"]) / 1e9)
        show.measured("freeze: from the system call to frozen", (facts["frozen_ns"] - facts["seen_ns"]) / 1e9)
        if cut is not None:
            show.measured("record: from the system call to committed in the ledger", (cut["data"]["committed_ns"] - facts["seen_ns"]) / 1e9)
            show.measured("cut: from the system call to off the network", (cut["data"]["cut_ns"] - facts["seen_ns"]) / 1e9)
    if show.screen.expect("a clean instance of the same release serves in its place", holds=resolved is not None):
        replaced = seconds_between(violation, resolved)
        assert replaced is not None
        show.measured("replace: from the violation to a healthy instance on the port", replaced)
        show.screen.say(f"visitors meanwhile: {found}; longest gap between two answers {took(found.longest_gap_s)}")
    show.measured("visitors' longest gap in a quarantine", found.longest_gap_s)
    sealed = first(events, "evidence.sealed")
    if sealed is not None:
        show.measured("collect and sign the evidence", sealed["data"]["took_ns"] / 1e9)
