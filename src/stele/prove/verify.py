"""Verifying a proof: bytes and trusted keys in, verdict out. Pure; imports only `trust`, `model` and its own steps.

The steps are numbered as in docs/spec/proof.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stele.model import epochmap
from stele.prove import answers, chain, heads, releases, says, shape, whole, workloads
from stele.prove.answers import Answer
from stele.prove.shape import NeverRanClaim, WorkloadsClaim, invalid
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.prove.chain import Chain
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
    brackets = heads.brackets(proof.claim, epochs)  # 3
    if proof.form == "log":
        whole.check(proof, epochs[-1])  # 4
    if isinstance(proof.claim, WorkloadsClaim):
        found = Answer({"workloads": workloads.check(proof, chain.entries(proof, epochs[-1]), epochs, brackets[0])})  # 5
    else:
        found = answers.of_chain(proof.claim, _chain(proof, epochs, brackets), brackets)
    workload = shape.about(proof.claim) or ""
    releases.check(proof.releases, found.named, workload, releases.judge(trust, root, workload), light=proof.form == "light")  # 6
    opened = tuple(
        {"index": item.index, "field": field, "value": opening.value}
        for item in proof.entries
        for field, opening in sorted(item.openings.items())
    )
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


def _chain(proof: Proof, epochs: Sequence[Epoch], brackets: Sequence[Bracket]) -> Chain:
    """4 and 5, what is about one workload."""
    claim = proof.claim
    assert not isinstance(claim, WorkloadsClaim)
    found = chain.check(proof, claim.workload, epochs, brackets[0])
    if isinstance(claim, NeverRanClaim):
        assert proof.absent is not None
        if chain.find(epochmap.ran_key(claim.workload, claim.release), proof.absent, epochs[-1]) is not None:
            raise invalid("the release was started")
    return found
