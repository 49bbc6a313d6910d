"""A ledger with a history and many checkpoints, proofs of it, and both verifiers: whatever a test asks, they must say the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from stele.ledger import sequencer
from stele.ledger.past import PastLedger
from stele.model.event import Event
from stele.model.release import ReleaseEvidence
from stele.prove import build, shape
from stele.prove.standalone import stele_verify
from stele.prove.verify import Verdict, verify
from stele.trust import canonical, trust_keys
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.trust.trust_keys import Trust
from tests.ledgers import SECOND, START, TRUST, Clock, event, opened, sealed

FORMS = ("light", "chain", "log")
NOWHERE = "sha256:" + "7" * 64
ONE, TWO = sealed()[0], sealed(content=b"two")[0]
A, B, C = ({"instance": f"shop-{name}", "release": release} for name, release in (("aaaaaa", ONE), ("bbbbbb", ONE), ("cccccc", TWO)))
# what happens, and the second at which a checkpoint is signed after it
HISTORY: list[tuple[list[tuple[float, str, str, dict[str, Any]]], float]] = [
    ([(0.5, "", "agent.started", {"swept": []})], 1),
    ([(1.5, "shop", "release.sealed", {"release": ONE})], 2),
    ([(3, "shop", "instance.starting", A), (4, "shop", "instance.active", A)], 5),
    ([(5.5, "other", "release.sealed", {"release": "sha256:" + "0" * 64})], 6),
    (
        [
            (7, "shop", "instance.frozen", {"incident": "shop-i1", **A}),
            (8, "shop", "instance.starting", B),
            (8.5, "other", "instance.starting", {"instance": "other-1", "release": "sha256:" + "0" * 64}),
            (9, "shop", "instance.active", B),
        ],
        10,
    ),
    ([(11, "shop", "deploy.confirmed", {"release": ONE})], 12),
    ([(13, "", "heartbeat", {"alive": True})], 14),
    ([(16, "shop", "instance.starting", C), (17, "shop", "instance.active", C), (18, "shop", "instance.stopped", B)], 20),
    ([(22, "late", "release.sealed", {"release": ONE})], 25),
]


def t(seconds: float) -> int:
    return START + int(seconds * SECOND)


def written(folder: Path, history: Sequence[tuple[Sequence[Event], int]]) -> Path:
    """A ledger with these events, and after each batch a checkpoint at this instant."""
    clock = Clock()
    with mock.patch.object(sequencer, "PUBLISH_EVERY_S", 3600), opened(folder, clock=clock) as ledger:
        for events, at_ns in history:
            ledger.append(events)
            clock.now = at_ns - SECOND
            ledger.publish()
    return folder


def world(folder: Path) -> Path:
    """The ledger of HISTORY."""
    made = [([event(t(at) - START, workload=name, kind=kind, **data) for at, name, kind, data in events], t(cp)) for events, cp in HISTORY]
    return written(folder, made)


def evidence(digest: str) -> ReleaseEvidence:
    for content in (b"one", b"two"):
        found, material = sealed(content=content)
        if found == digest:
            return material
    raise AssertionError(digest)


def state(seconds: float, workload: str = "shop") -> shape.Claim:
    return shape.StateClaim(workload=workload, at_ns=t(seconds))


def history(begin: float, end: float, workload: str = "shop") -> shape.Claim:
    return shape.HistoryClaim(workload=workload, from_ns=t(begin), until_ns=t(end))


def never(release: str, seconds: float, workload: str = "shop") -> shape.Claim:
    return shape.NeverRanClaim(workload=workload, release=release, at_ns=t(seconds))


def everything(seconds: float) -> shape.Claim:
    return shape.WorkloadsClaim(at_ns=t(seconds))


def built(folder: Path, claim: shape.Claim, form: str = "light", evidence: Any = evidence, **kwargs: Any) -> bytes:
    with PastLedger(folder) as log:
        return build.build(log, claim, form, evidence, **kwargs)


def other_says(data: bytes, trust: Trust) -> dict[str, Any] | str:
    """What the standalone verifier says: its verdict, or the code."""
    try:
        return stele_verify.Proof(data, trust_keys.encode(trust)).verdict()
    except ValueError as error:
        return str(error)[1:].partition("]")[0]


def check(data: bytes, trust: Trust = TRUST) -> Verdict:
    """The verdict of `stele verify`; the standalone verifier must give the same, or refuse with the same code.

    Raises:
        SteleError: both refuse.
    """
    other = other_says(data, trust)
    try:
        verdict = verify(data, trust)
    except SteleError as error:
        assert other == error.code, (other, error.code, error.reason)
        raise
    assert isinstance(other, dict), (other, verdict)
    assert other["answer"] == json.loads(json.dumps(verdict.answer))
    assert (other["form"], other["opened"]) == (verdict.form, list(verdict.opened))
    return verdict


def resum(value: dict[str, Any]) -> bytes:
    """The file of altered fields, with a sum that fits."""
    plain = {key: item for key, item in value.items() if key != "sum"}
    return canonical.encode({**plain, "sum": sha256(canonical.encode(plain))}) + b"\n"


def of(kinds: dict[str, bytes], name: str) -> dict[str, Any]:
    """The fields of one of the proofs in tests/unit/proof/conftest.py."""
    found = canonical.decode(kinds[name][:-1])
    assert isinstance(found, dict)
    return found
