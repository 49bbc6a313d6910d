"""What a verdict says in plain words: the answer, what was checked, whose word the time is, what was not checked. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stele.prove.shape import HistoryClaim, NeverRanClaim, StateClaim, instants
from stele.trust import note, timestamp
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.prove.heads import Bracket, Epoch
    from stele.prove.shape import Claim, Head, Proof
    from stele.trust.root import Root
    from stele.trust.trust_keys import Trust

SHOWN_NAMES = 50
SHOWN_ENTRIES = 200
WORD = " is the operator's word"


def when(time_ns: int) -> str:
    """An instant in RFC 3339, to the nanosecond; beyond year 9999 the number."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    if seconds >= 253_402_300_800:
        return f"{time_ns} ns"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"


def _second(seconds: int) -> str:
    """An instant that is told in seconds."""
    return when(seconds * 1_000_000_000).replace(".000000000", "")


def _told(text: str) -> str:
    """What an entry says, on one line: whoever wrote it chose the words, and a line break in them would make a line of the verdict."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def opened(found: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Private values in sentences."""
    return tuple(f"  Entry {each['index']}, {each['field']}: {json.dumps(each['value'], ensure_ascii=True)}" for each in found)


def answer(claim: Claim, plain: dict[str, Any]) -> tuple[str, ...]:
    """The answer in sentences."""
    if isinstance(claim, StateClaim):
        return tuple(_state(claim.workload, claim.at_ns, plain["exists"], plain["state"]))
    if isinstance(claim, HistoryClaim):
        return tuple(_history(claim, plain))
    if isinstance(claim, NeverRanClaim):
        said = f"Until {when(claim.at_ns)} release {_told(claim.release)} was never started as workload {claim.workload!a}."
        return (said,) if plain["exists"] else (said, f"  There was no workload {claim.workload!a}.")
    names = plain["workloads"]
    many = f"there {'was' if len(names) == 1 else 'were'} {len(names)} workload{'s' * (len(names) != 1)}, and no others"
    lines = [f"At {when(claim.at_ns)} {many}{':' if names else '.'}", *(f"  {name!a}" for name in names[:SHOWN_NAMES])]
    return (*lines, f"  … and {len(names) - SHOWN_NAMES} more (--json has them all)") if len(names) > SHOWN_NAMES else tuple(lines)


def _state(workload: str, at_ns: int, exists: bool, state: dict[str, Any]) -> list[str]:
    instant = when(at_ns)
    if not exists:
        return [f"At {instant} there was no workload {workload!a}: until then the ledger has no entry of it."]
    if state["active_instance"]:
        says = [
            f"At {instant} the workload {workload!a} was served by release {_told(state['active_release'])}",
            f"  as instance {_told(state['active_instance'])}, serving since {when(state['active_since_ns'])}.",
        ]
    else:
        says = [f"At {instant} nothing served the workload {workload!a}."]
    for name, live in sorted(state["running"].items()):
        if name != state["active_instance"]:
            since = when(live["since_ns"])
            says.append(f"  Also started and not yet stopped: instance {_told(name)} of release {_told(live['release'])}, since {since}.")
    for incident, live in sorted(state["frozen"].items()):
        of = f"instance {_told(live['instance'])} of release {_told(live['release'])}"
        says.append(f"  Frozen as evidence: {of}, incident {_told(incident)}, since {when(live['since_ns'])}.")
    return says


def _history(claim: HistoryClaim, plain: dict[str, Any]) -> list[str]:
    between = plain["between"]
    says = _state(claim.workload, claim.from_ns, plain["exists"] and (not between or between[0]["seq"] > 0), plain["from"])
    if not plain["exists"]:
        return _state(claim.workload, claim.until_ns, False, plain["until"])
    says.append(f"From then until {when(claim.until_ns)} these entries were made about it, and no others ({len(between)}):")
    for item in between[:SHOWN_ENTRIES]:
        about = " ".join(str(item["data"][key]) for key in ("instance", "release", "incident") if isinstance(item["data"].get(key), str))
        says.append(f"  {when(item['time_ns'])}  {_told(item['kind']):<20}  {_told(about)}")
    if len(between) > SHOWN_ENTRIES:
        says.append(f"  … and {len(between) - SHOWN_ENTRIES} more (--json has them all)")
    return says + _state(claim.workload, claim.until_ns, True, plain["until"])


def checked(proof: Proof, epochs: Sequence[Epoch], named: Sequence[str], root: Root | None) -> tuple[str, ...]:
    """What the verifier has made sure of."""
    last = epochs[-1].opened
    algorithms = {0x01: "Ed25519", 0x04: "cosignature", 0x06: "ML-DSA-44"}
    by = ", ".join(f"{each.verifier.name} ({algorithms.get(each.verifier.algorithm, '?')})" for each in last.signatures)
    lines = [f"the signatures over the ledger's head of {last.checkpoint.size} entries: {by}"]
    if len(epochs) > 1:
        lines.append(f"{len(epochs)} signed heads of one log, each a continuation of the one before")
    if root is not None:
        lines.append(f"that these are the ledger's keys: root documents from the one that you trust to version {root.version}")
    if proof.form == "log":
        lines.append(f"all {len(proof.log)} entries of the log: every hash, chain and epoch made anew")
    elif proof.form == "chain":
        lines.append(
            f"all {len(proof.entries)} entries of this workload, from the first: unbroken, and they make the facts that the ledger signed"
        )
    elif proof.workloads is not None:
        lines.append("that these are all: the root of the signed map, made anew from its leaves")
    else:
        lines.append("where this workload stands in the signed map, and that no entry of it is missing since then")
    if isinstance(proof.claim, NeverRanClaim) and proof.absent is not None:
        lines.append("that the signed map of everything that ever ran does not have it")
    if named:
        by = (
            "so many and by those as the root says for this workload"
            if root is not None and root.policy.rules
            else "by keys that you trust"
        )
        lines.append(f"the signatures of the releases named above ({len(named)}), {by}")
    opened = sum(len(item.openings) for item in proof.entries)
    if opened:
        lines.append(f"{opened} private values are those that the entries commit to")
    return tuple(lines)


def times(proof: Proof, brackets: Sequence[Bracket], epochs: Sequence[Epoch], trust: Trust) -> tuple[dict[str, Any], ...]:
    """Whose word the time is: of each instant, who says that it lies between the two heads."""
    claim, origins = proof.claim, [key.name for key in trust.ledgers] + [pin.origin for pin in trust.roots]
    out: list[dict[str, Any]] = []
    for at_ns, bracket in zip(instants(claim), brackets, strict=True):
        out.append({"who": "operator", "name": epochs[-1].opened.checkpoint.origin, "at_ns": at_ns, "holds": True})
        seen = _seen(epochs[bracket.after], origins)
        # of an earlier head only its own checkpoint says that there was no more then: a later one may stand in its place
        earlier = _seen(epochs[bracket.before], origins) if bracket.before is not None and epochs[bracket.before].own else {}
        for name, seconds in sorted(seen.items()):
            both = name in earlier and earlier[name] * 1_000_000_000 <= at_ns <= (seconds + 1) * 1_000_000_000
            out.append({"who": "witness", "name": name, "at_ns": at_ns, "after_s": seconds, "before_s": earlier.get(name), "holds": both})
        out += [{"who": "authority", "at_ns": at_ns, **each} for each in _stamps(proof.heads[bracket.after], trust)]
    return tuple(out)


def _stamps(head: Head, trust: Trust) -> list[dict[str, Any]]:
    """What timestamp authorities say of a head. They decide nothing: one that is not believed only says nothing."""
    out: list[dict[str, Any]] = []
    for text in head.timestamps:
        try:
            message = timestamp.message_of(head.checkpoint.encode("utf-8", "surrogatepass"))
            stamp = timestamp.verify(note.strict_base64(text), message, trust.authorities)
        except SteleError as error:
            out.append({"name": "", "holds": False, "why": error.reason})
        else:
            out.append({"name": stamp.authority, "holds": True, "stamped_ns": stamp.time_ns, "accuracy_ns": stamp.accuracy_ns})
    return out


def _seen(epoch: Epoch, origins: Sequence[str]) -> dict[str, int]:
    """Which witnesses saw a head, and when (seconds)."""
    return {
        each.verifier.name: each.seconds
        for each in epoch.opened.signatures
        if each.seconds is not None and each.verifier.name not in origins
    }


def time_lines(found: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The same in sentences."""
    lines = []
    for each in found:
        at = when(each["at_ns"])
        if each["who"] == "operator":
            lines.append(f"{at}: the operator's clock ({each['name']})")
        elif each["who"] == "authority":
            said = f"stamped the head after it at {when(each['stamped_ns'])}: it is no younger" if each["holds"] else _told(each["why"])
            lines.append(f"{at}: timestamp authority {each['name']} {said}".replace("  ", " "))
        elif each["holds"]:
            between = f"{_second(each['before_s'])} and {_second(each['after_s'])}"
            lines.append(f"{at}: witness {each['name']} saw the two heads around it at {between}")
        else:
            lines.append(f"{at}: witness {each['name']} saw the head after it at {_second(each['after_s'])}: it is no younger")
    return tuple(lines)


def _on_the_operators_word(last: Epoch, found: Sequence[dict[str, Any]], trust: Trust) -> list[str]:
    lines = []
    seen = any(each["who"] == "witness" for each in found)
    vouched = {each["at_ns"] for each in found if each["who"] == "witness" and each["holds"]}
    if any(each["at_ns"] not in vouched for each in found):
        stamped = any(each["who"] == "authority" and each["holds"] for each in found)
        no_younger = "than stamped" if stamped else "than a witness saw them"
        lines.append(
            "the time: " + (f"beyond that the heads are no younger {no_younger}, it" if stamped or seen else "without a witness it") + WORD
        )
    enough = trust.policy.met([each.verifier for each in last.opened.signatures])
    if seen and not enough:
        lines.append("whether enough witnesses saw the last head: it lacks the quorum that your trust file asks for")
    if not (seen and enough):
        lines.append("whether the operator showed somebody else another ledger: compare checkpoints with others who have one")
    return lines


def not_checked(proof: Proof, epochs: Sequence[Epoch], found: Sequence[dict[str, Any]], trust: Trust, root: Root | None) -> tuple[str, ...]:
    """What this proof does not show."""
    lines: list[str] = []
    behind = max(epoch.behind_ns for epoch in epochs)
    if behind:
        lines.append(f"the clock: it was set back by {behind / 1e9:.3f} s; instants are the log's own, which never goes back")
    lines += _on_the_operators_word(epochs[-1], found, trust)
    if proof.form == "light":
        lines.append("that the signed map is what the entries make: the operator, who has the key, says so; `--full` brings the entries")
    elif proof.form == "chain":
        lines.append("that the maps left out no entry of it: the operator, who has the key, says so; `--whole-log` brings all entries")
    if proof.form == "light" and proof.releases:
        lines.append("what is in the releases: a light proof has their signatures only")
    if proof.releases and root is not None and root.policy.rules:
        lines.append("when the releases were signed: a key that the root calls replaced counts here, one that it revokes never does")
    lines.append(f"anything after {when(epochs[-1].time_ns)}, where this ledger's last head stands")
    lines.append("what code did while it ran, and what ran outside Stele's care")
    return tuple(lines)
