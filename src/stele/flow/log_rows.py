"""Entries as plain rows, and what a person wants to know of them first. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stele.model import private

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stele.model.event import Entry


def plain(index: int, entry: Entry) -> dict[str, Any]:
    """An entry as plain data, with its place in the log.

    `data` has the private fields, too, that were opened; `sealed` names those that were not.
    """
    event = entry.event
    return {
        "index": index, "workload": event.workload, "seq": entry.seq, "kind": event.kind, "time_ns": event.time_ns,
        "actor": event.actor, "data": event.facts(), "sealed": private.closed(entry),
    }  # fmt: skip


def short(value: Any) -> str:
    """A value as people want it: 12 digits of a digest."""
    text = str(value)
    return text[7:19] if text.startswith("sha256:") else text[:200]


def took(nanoseconds: Any) -> str:
    """A duration in words."""
    if not isinstance(nanoseconds, int):
        return "?"
    return f"{nanoseconds / 1e6:.1f} ms" if nanoseconds < 1_000_000_000 else f"{nanoseconds / 1e9:.1f} s"


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _word(facts: Mapping[str, Any], key: str, before: str = "") -> str:
    value = facts.get(key)
    if value in (None, "", [], False):
        return ""
    return f"({short(value)})" if before == "()" else _join(before, short(value))


def _count(facts: Mapping[str, Any], key: str) -> int:
    value = facts.get(key)
    return len(value) if isinstance(value, list) else 0


def _report(facts: Mapping[str, Any]) -> str:
    who = _word(facts, "comm", "by")
    count = facts.get("count")
    times = f"({count} times)" if isinstance(count, int) and count > 1 else ""
    what = _join(_word(facts, "kind"), _word(facts, "syscall"), _word(facts, "path"), who, times)
    return _join(what, _word(facts, "instance", "in"), _word(facts, "incident", "incident"))


def _with(*words: str) -> Callable[[Mapping[str, Any]], str]:
    """A sentence of `key` or `before|key`, without those that say nothing."""
    pairs = [word.rpartition("|") for word in words]
    return lambda facts: _join(*(_word(facts, key, before) for before, _, key in pairs))


_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "release.sealed": _with("release"),
    "release.admitted": _with("release"),
    "release.quarantined": _with("release", "()|reason"),
    "release.pushed": _with("release", "to|to"),
    "release.pulled": _with("release", "from|origin"),
    "deploy.started": _with("release", "in place of|previous", "()|reason"),
    "deploy.confirmed": _with("release"),
    "deploy.failed": _with("release", "()|reason"),
    "instance.starting": _with("instance", "of|release", "as|role", "for incident|incident"),
    "instance.active": _with("instance", "of|release", "in place of|replaces", "()|reason"),
    "instance.stopped": _with("instance", "of|release", "()|reason"),
    "instance.failed": _with("instance", "of|release", "()|reason"),
    "rollback.decided": _with("from|serving", "to|to", "by|by"),
    "violation": _report,
    "write.refused": _report,
    "change.observed": _report,
    "watcher.lost": _report,
    "instance.frozen": lambda facts: _join(
        _word(facts, "instance"), f"in {took(facts['took_ns'])}" if facts.get("took_ns") else "", _word(facts, "incident", "incident")
    ),
    "network.cut": lambda facts: _join(
        _word(facts, "instance"), f"{facts['in_flight']} connections lost" if facts.get("in_flight") else "",
        _word(facts, "incident", "incident"),
    ),
    "incident.resolved": _with("incident", "replaced by|instance"),
    "incident.unresolved": _with("incident", "()|reason"),
    "evidence.sealed": lambda facts: _join(
        _word(facts, "incident"), f"{facts['files']} files" if facts.get("files") else "", _word(facts, "root", "root")
    ),
    "evidence.accessed": _with("incident", "how"),
    "store.removing": lambda facts: f"{_count(facts, 'files')} files of the store {_word(facts, 'why', '()')}",
    "store.repairing": lambda facts: f"{_count(facts, 'problems')} problems of the store",
    "store.repaired": lambda facts: f"{_count(facts, 'mended')} files of the store, {_count(facts, 'left')} not",
    "agent.stopped": lambda facts: "with everything that ran" if facts.get("removed") else "instances run on",
    "agent.started": lambda facts: "",
    "witness.behind": lambda facts: f"{facts.get('witness')}: {facts.get('named')} entries, after {facts.get('cosigned')}",
    "epoch": _with("covers", "map|map_root"),
}  # fmt: skip
_OTHERWISE = _with("instance", "of|release", "incident|incident", "to|to", "()|reason")


def facts(entry: Entry) -> dict[str, Any]:
    """What an entry says, for people: what cannot be opened is said to be so."""
    return {**entry.event.facts(), **dict.fromkeys(private.closed(entry), f"[{private.CLOSED}]")}


def gist(entry: Entry) -> str:
    """The facts that a person looks for first, in a few words."""
    return _SENTENCES.get(entry.event.kind, _OTHERWISE)(facts(entry))


def who(entry: Entry) -> str:
    """The person who acted, if it can be opened, else the role."""
    event = entry.event
    return str(event.private.get(private.PERSON) or event.actor)
