"""Verifying a proof: bytes and trusted keys in, verdict out. Pure; imports only `trust`, `model` and its own steps.

The steps are numbered as in docs/spec/proof.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stele.model import epochmap, private
from stele.prove import answers, chain, heads, releases, says, shape, whole, workloads
from stele.prove.answers import Answer
from stele.prove.shape import NeverRanClaim, WorkloadsClaim, invalid
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.event import Entry
    from stele.prove.heads import Bracket, Epoch
    from stele.prove.shape import Claim, Proof
    from stele.trust.trust_keys import Trust


class Verdict(NamedTuple):
    """What a valid proof says.

    `answer`: as data (docs/spec/proof.md), `opened`: private values by index and field. `says`: the answer in plain words; `checked`,
    `time`, `not_checked`: what that rests on, whose word the time is, and what was not looked at. `times`: the same as data.
    """

    claim: Claim
    form: str
    answer: dict[str, Any]
    opened: tuple[dict[str, Any], ...]
    times: tuple[dict[str, Any], ...]
    says: tuple[str, ...]
    checked: tuple[str, ...]
    time: tuple[str, ...]
    not_checked: tuple[str, ...]


def verify(data: bytes, trust: Trust | None) -> Verdict:
    """Check a proof against keys that the verifier brings.

    Raises:
        SteleError: `prove.no-keys`, `prove.invalid`, `prove.not-covered`, `trust.*`.
    """
    if trust is None or not (trust.ledgers or trust.roots):
        raise SteleError(
            "a proof is worth nothing without keys that you trust",
            remedy="pass the ledger's trust.keys, obtained on a way that you trust, with --trust",
            code="prove.no-keys",
        )
    proof = shape.decode(data)  # 1
    root = heads.root_of(proof, trust)
    epochs = heads.check(proof, trust, root)  # 2
    log = whole.check(proof, shape.about(proof.claim), epochs) if proof.form == "log" else None
    brackets = heads.brackets(proof.claim, epochs)  # 3
    if isinstance(proof.claim, WorkloadsClaim):
        found, entries = _workloads(proof, log, epochs, brackets[0]), list(log.mine if log else [])
    else:
        found, entries = _chain(proof, log, epochs, brackets)
    workload = shape.about(proof.claim) or ""
    releases.check(proof.releases, found.named, workload, releases.judge(trust, root, workload), light=proof.form == "light")  # 6
    opened = _openings(proof, entries)
    times = says.times(proof, brackets, epochs, trust)
    return Verdict(
        claim=proof.claim,
        form=proof.form,
        answer=found.plain,
        opened=opened,
        times=times,
        says=says.answer(proof.claim, found.plain) + says.opened(opened),
        checked=says.checked(proof, epochs, found.named, root),
        time=says.time_lines(times),
        not_checked=says.not_checked(proof, epochs, times, trust, root),
    )


def _workloads(proof: Proof, log: whole.Whole | None, epochs: Sequence[Epoch], bracket: Bracket) -> Answer:
    """5, all workloads."""
    at_ns = shape.instants(proof.claim)[0]
    if log is not None:
        return Answer({"workloads": workloads.from_log(log, epochs, bracket, at_ns)})
    return Answer({"workloads": workloads.check(proof.maps, proof.entries, epochs, bracket, at_ns)})


def _chain(
    proof: Proof, log: whole.Whole | None, epochs: Sequence[Epoch], brackets: Sequence[Bracket]
) -> tuple[Answer, list[tuple[int, Entry]]]:
    """4 and 5, what is about one workload."""
    claim = proof.claim
    assert not isinstance(claim, WorkloadsClaim)
    if log is not None:
        found = log.chain(claim.workload, epochs)
    else:
        found = chain.check(proof, claim.workload, epochs, brackets[0])
        if isinstance(claim, NeverRanClaim) and proof.absent is not None:
            chain.check_absent(epochmap.ran_key(claim.workload, claim.release), proof.absent, epochs[-1])
    return answers.of_chain(claim, found, brackets), list(found.entries)


def _openings(proof: Proof, entries: Sequence[tuple[int, Entry]]) -> tuple[dict[str, Any], ...]:
    """7: what is opened is what the entries commit to."""
    by_index = dict(entries)
    before = (-1, "")
    for opening in proof.openings:
        entry = by_index.get(opening.index)
        if (opening.index, opening.field) <= before or entry is None:
            raise invalid("an opening is of no entry that it brings, or out of order")
        if not private.check_opening(entry, opening.field, bytes.fromhex(opening.salt), opening.value):
            raise invalid("an opening is not what the entry commits to")
        before = opening.index, opening.field
    return tuple({"index": each.index, "field": each.field, "value": each.value} for each in proof.openings)
