"""Proving and verifying: proof files, and releases in the store."""

from __future__ import annotations

import contextlib
import re
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from stele.flow import opening, rooted
from stele.flow.times import parse_instant
from stele.host import durable
from stele.ledger.openings import Openings
from stele.ledger.past import PastLedger
from stele.prove import build, shape
from stele.prove import verify as verifier
from stele.trust import note, root, trust_keys
from stele.trust.digest import parse_digest
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stele.flow.places import Places
    from stele.prove.shape import Claim
    from stele.prove.verify import Verdict
    from stele.store.layout import Layout


STANDALONE = Path(shape.__file__).parent / "standalone" / "stele_verify.py"


class Question(NamedTuple):
    """What somebody wants proved. Instants as people write them, "" for the newest that the ledger covers.

    `reveal`: bring private values, where they can be opened.
    """

    workload: str = ""
    at: str = ""
    between: tuple[str, str] | None = None
    never_ran: str = ""
    workloads: bool = False
    reveal: bool = False


def file_name(question: Question) -> str:
    """What the answer's file is called: two questions never have one name. The names of workloads have no dots."""
    parts = ["all.workloads" if question.workloads else quote(question.workload, safe="")]
    if question.between:
        parts.append("-".join(["between", *map(_in_name, question.between)]))
    if question.never_ran:
        parts.append(f"never-ran-{_in_name(question.never_ran.removeprefix('sha256:'))}")
    if question.at:
        parts.append(f"at-{_in_name(question.at)}")
    return ".".join([*parts, "proof"])


def _in_name(text: str) -> str:
    return quote(re.sub(r"(\d{4})-(\d\d)-(\d\dT\d\d):(\d\d):(\d\d)", r"\1\2\3\4\5", text), safe="")


def prove(places: Places, question: Question, form: str, output: Path, verifier_in: Path | None = None) -> dict[str, Any]:
    """Write a proof, and the standalone verifier into the folder `verifier_in`.

    Raises:
        SteleError: `prove.*`, `ledger.*`, `store.*`.
    """
    begun = time.monotonic_ns()

    @cache
    def store() -> Layout:
        return opening.open_store(places)  # only where a release is named

    openings = Openings(places.ledger) if question.reveal else None
    documents = rooted.documents_of(places.ledger)
    with PastLedger(places.ledger, _stolen(documents)) as log:
        claim = _claim(question, log.newest.time_ns, store)
        data = build.build(log, claim, form, lambda digest: store().evidence(digest), openings.of if openings else None, documents)
    took = time.monotonic_ns() - begun
    durable.write(output, data, mode=0o600 if question.reveal else 0o644)
    if verifier_in is not None:
        durable.make_dirs(verifier_in)
        durable.write(verifier_in / STANDALONE.name, STANDALONE.read_bytes())
    made = {"file": str(output), "bytes": len(data), "took_ns": took, "form": form}
    with contextlib.suppress(SteleError, OSError):  # what it says, if it holds by the keys of this place: no proof of anything
        made |= _plain(verifier.verify(data, trust_keys.parse(places.trust.read_bytes())))
    return made


def _stolen(documents: Sequence[bytes]) -> Callable[[bytes], bool]:
    """Whether a checkpoint is signed with a key that the newest root document calls stolen: then only a later one is believed."""
    stolen = {(item.verifier.name, item.verifier.key_id) for item in root.parse(documents[-1]).stolen} if documents else set()
    return lambda signed: any((name, identity) in stolen for name, identity, _ in note.split_note(signed)[1])


def _claim(question: Question, newest_ns: int, store: Callable[[], Layout]) -> Claim:
    at_ns = parse_instant(question.at) if question.at else newest_ns
    if question.workloads:
        return shape.WorkloadsClaim(at_ns=at_ns)
    if question.never_ran:
        return shape.NeverRanClaim(workload=question.workload, release=_release(question.never_ran, store), at_ns=at_ns)
    if question.between:
        begin, end = (parse_instant(text) for text in question.between)
        if begin > end:
            raise SteleError("the second instant is before the first", remedy="give the earlier one first", code="prove.bad-instant")
        return shape.HistoryClaim(workload=question.workload, from_ns=begin, until_ns=end)
    return shape.StateClaim(workload=question.workload, at_ns=at_ns)


def _release(reference: str, store: Callable[[], Layout]) -> str:
    """A digest as it is, whether or not the store knows it; anything else as the store names releases."""
    with contextlib.suppress(SteleError):
        return parse_digest(reference)
    return store().find(reference).digest


def verify_file(path: Path, trust: Path | None) -> dict[str, Any]:
    """Check a proof file against the keys that the verifier brings. Needs nothing else: no store, ledger, agent or network.

    Raises:
        SteleError: `prove.*`, `trust.*`: it does not hold.
    """
    keys = trust_keys.parse(trust.read_bytes()) if trust is not None else None
    with open(path, "rb") as file:  # somebody else made it: no more is read than a proof can have
        try:
            return _plain(verifier.verify(file.read(shape.MAX_PROOF + 1), keys))
        except (MemoryError, RecursionError) as error:
            raise shape.invalid("checking it takes more memory than there is here") from error


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "claim": msgspec.to_builtins(verdict.claim),
        "form": verdict.form,
        "answer": verdict.answer,
        "opened": list(verdict.opened),
        "times": list(verdict.times),
        "says": list(verdict.says),
        "checked": list(verdict.checked),
        "time": list(verdict.time),
        "not_checked": list(verdict.not_checked),
    }
