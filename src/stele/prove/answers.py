"""The answers: from a chain or a list of workloads to what the claim asked. Pure (docs/spec/proof.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stele.model import facts
from stele.prove import releases
from stele.prove.shape import HistoryClaim, NeverRanClaim, StateClaim, invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.event import Event
    from stele.prove.chain import Chain
    from stele.prove.heads import Bracket


class Answer(NamedTuple):
    """`plain`: the answer as data; `named`: the releases whose signatures it needs, sorted."""

    plain: dict[str, Any]
    named: tuple[str, ...] = ()


def of_chain(claim: StateClaim | HistoryClaim | NeverRanClaim, chain: Chain, brackets: Sequence[Bracket]) -> Answer:
    """The answer about one workload.

    Raises:
        SteleError: `prove.invalid`: the release was started.
    """
    if isinstance(claim, NeverRanClaim):
        if any(facts.started(entry.event) == claim.release for _, entry in chain.entries):
            raise invalid("the release was started")
        return Answer({"exists": chain.counts[-1] > 0, "entries": chain.counts[-1], "ran": False})
    if isinstance(claim, HistoryClaim):
        return _history(claim, chain, brackets)
    count = chain.count_at(brackets[0], claim.at_ns)
    state = chain.state_at(count)
    plain = {"exists": count > 0, "entries": count, "state": facts.of(state).plain()}
    return Answer(plain, tuple(sorted(releases.named_in(state))))


def _history(claim: HistoryClaim, chain: Chain, brackets: Sequence[Bracket]) -> Answer:
    begin, end = chain.count_at(brackets[0], claim.from_ns), chain.count_at(brackets[1], claim.until_ns)
    first, last = chain.state_at(begin), chain.state_at(end)
    between = [(index, entry) for index, entry in chain.entries if begin <= entry.seq < end]
    named = releases.named_in(first) | releases.named_in(last) | {facts.started(entry.event) for _, entry in between}
    plain = {
        "exists": end > 0,
        "entries": end,
        "from": facts.of(first).plain(),
        "until": facts.of(last).plain(),
        "between": [{"index": index, "seq": entry.seq, "sealed": entry.sealed, **_shown(entry.event)} for index, entry in between],
    }
    return Answer(plain, tuple(sorted(named - {""})))


def _shown(event: Event) -> dict[str, Any]:
    return {"kind": event.kind, "time_ns": event.time_ns, "actor": event.actor, "data": event.data}
