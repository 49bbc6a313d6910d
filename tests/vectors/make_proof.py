"""Writes proof.json anew: python -m tests.vectors.make_proof. Only for a new version of a format."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stele.ledger.openings import Openings
from stele.ledger.past import PastLedger
from stele.model import epochmap
from stele.prove.verify import verify
from stele.trust import canonical, merkle, note, policy, trust_keys
from stele.trust.release_key import PrivateKey
from stele.trust.root import LogKey, Stolen
from stele.trust.trust_keys import Trust
from tests.ledgers import KEY, OTHER, SECOND, SIGNER, TRUST, event
from tests.proofs import ONE, built, everything, history, never, resum, state, t, world, written
from tests.roots import ALWAYS, document, pinned

HERE = Path(__file__).parent
NOWHERE = "sha256:" + "7" * 64


def good(folder: Path) -> list[tuple[str, str, bytes]]:
    """A proof of every claim and form, light ones of each way to stand around an instant."""
    claims = [
        ("state between two heads, nothing in between", state(11), "light"),
        ("state between two heads, entries in between", state(8.5), "light"),
        ("state at the stamp of a head", state(25), "light"),
        ("state before the first head", state(0.7), "light"),
        ("a workload that never existed", state(25, "nobody"), "light"),
        ("state, the whole chain", state(8.5), "chain"),
        ("state, the whole log", state(3.5), "log"),
        ("history", history(3.5, 8.5), "light"),
        ("history, the whole chain", history(9, 9), "chain"),
        ("never ran", never(NOWHERE, 25), "light"),
        ("never ran, the whole chain", never(NOWHERE, 5), "chain"),
        ("never ran, the whole log", never(ONE, 1.7), "log"),
        ("all workloads", everything(25), "light"),
        ("all workloads, some of them new", everything(5.7), "light"),
        ("all workloads, the whole log", everything(5.7), "log"),
        ("the host's own chain, between two heads", state(8.5, ""), "light"),
        ("the host's own chain, whole", history(3.5, 8.5, ""), "chain"),
        ("the host's own chain, the whole log", state(8.5, ""), "log"),
    ]
    return [("", why, built(folder, claim, form)) for why, claim, form in claims]


def bad(folder: Path) -> list[tuple[str, str, bytes]]:
    """Altered ones."""
    data = built(folder, state(8.5))
    value = canonical.decode(data[:-1])
    absent, never_ran, names = (
        canonical.decode(built(folder, claim)[:-1]) for claim in (state(25, "nobody"), never(NOWHERE, 25), everything(25))
    )
    head = absent["heads"][0]
    text = head["checkpoint"]
    body = (text.partition("\n\n")[0] + "\n").encode()

    def but(base: dict, **changes: object) -> bytes:
        return resum({**base, **changes})

    def signed(checkpoint: str) -> bytes:
        return but(absent, heads=[{**head, "checkpoint": checkpoint}])

    return [
        ("prove.invalid", "another instant, the sum as it was", data.replace(str(t(8.5)).encode(), str(t(8.5) + 1).encode(), 1)),
        ("prove.invalid", "an entry left out", but(value, entries=value["entries"][1:])),
        ("prove.invalid", "the last entry left out", but(value, entries=value["entries"][:-1])),
        ("prove.invalid", "another workload", but(value, claim={**value["claim"], "workload": "other"})),
        ("prove.not-covered", "an instant after the last head", but(absent, claim={**absent["claim"], "at_ns": t(26)})),
        ("prove.invalid", "the head before is missing", but(value, heads=value["heads"][1:])),
        ("prove.invalid", "the head after is missing", but(value, heads=value["heads"][:1])),
        ("prove.invalid", "heads exchanged", but(value, heads=value["heads"][::-1])),
        ("prove.invalid", "no release", but(value, releases=[])),
        ("prove.invalid", "a field more", but(absent, note="hello")),
        ("prove.invalid", "a field less", resum({key: item for key, item in absent.items() if key != "roots"})),
        ("prove.invalid", "a number that is true", but(absent, claim={**absent["claim"], "at_ns": True})),
        ("prove.invalid", "absence of a workload that exists", but(absent, claim={**absent["claim"], "workload": "shop"})),
        ("prove.invalid", "a release that ran", but(never_ran, claim={**never_ran["claim"], "release": ONE})),
        ("prove.invalid", "a workload left out", but(names, workloads={**names["workloads"], "leaves": names["workloads"]["leaves"][1:]})),
        ("prove.invalid", "version 2", but(absent, format="stele-proof v2")),
        ("trust.not-canonical", "with white space", data.replace(b'{"absent":', b'{ "absent":', 1)),
        ("trust.not-canonical", "a key twice", data.replace(b'{"absent":null,', b'{"absent":null,"absent":null,', 1)),
        ("trust.not-canonical", "nested too deep", b"[" * 5000 + b"]" * 5000 + b"\n"),
        ("prove.invalid", "no newline at the end", resum(absent)[:-1]),
        ("trust.bad-signature", "another size than was signed", signed(text.replace("\n24\n", "\n25\n"))),
        (
            "trust.unknown-signer",
            "signed by another key of that name",
            signed(OTHER.sign(body).decode()),
        ),
        ("trust.missing-signature", "without the post-quantum line", signed(text.rpartition("\u2014")[0])),
        ("trust.bad-note", "no signature", signed(text.partition("\n\n")[0] + "\n")),
        *epochs_that_lie(folder),
        *heads_of_forks(folder),
    ]


def relogged(value: dict[str, Any], log: list[str]) -> dict[str, Any]:
    """The proof with another log, by who has the ledger's key: its last checkpoint signed, and all paths made anew."""
    leaves = [merkle.leaf_hash(line.encode()) for line in log]

    def item(old: dict[str, Any]) -> dict[str, Any]:
        path = merkle.inclusion(old["index"], len(log), lambda begin, end: merkle.root(leaves[begin:end]))
        return {**old, "entry": log[old["index"]], "path": [sibling.hex() for sibling in path]}

    checkpoint = SIGNER.sign(note.Checkpoint(SIGNER.name, len(log), merkle.root(leaves)).body()).decode()
    heads = [{**head, "epoch": item(head["epoch"])} for head in value["heads"]]
    heads[-1]["checkpoint"] = checkpoint
    return {**value, "log": log if value["form"] == "log" else [], "heads": heads, "entries": [item(old) for old in value["entries"]]}


def epochs_that_lie(folder: Path) -> list[tuple[str, str, bytes]]:
    """By who has the ledger's key: what the entries do not make can be signed, but not proved with the whole log."""
    value, light = (canonical.decode(built(folder, state(20.5), form)[:-1]) for form in ("log", "light"))

    def but(said: dict[str, Any], time_ns: int = 0, of: dict[str, Any] = value, **head: Any) -> bytes:
        entry = json.loads(value["log"][-1])
        entry["data"] |= said
        entry["time_ns"] += time_ns
        made = relogged(of, [*value["log"][:-1], canonical.encode(entry).decode()])
        made["heads"][-1] |= head
        return resum(made)

    with PastLedger(folder) as past:
        leaves = list(epochmap.leaves(past.newest.node, past._maps.load))
    fewer = epochmap.put(None, [leaf for leaf in leaves if leaf.workload != "other"])
    place = {
        "path": [each.hex() for each in epochmap.find(fewer, epochmap.key_of("shop")).siblings],
        "leaf": value["heads"][-1]["place"]["leaf"],
    }
    hidden = {"map_root": epochmap.hash_of(fewer).hex()}
    return [
        ("", "an epoch signed again, true", but({})),
        ("prove.invalid", "an epoch with another map", but({"map_root": "0" * 64})),
        ("", "an epoch whose map hides another workload: light takes the signer's word", but(hidden, of=light, place=place)),
        ("prove.invalid", "an epoch whose map hides another workload, the whole log", but(hidden, place=place)),
        ("", "an epoch that counts another number of workloads: light takes the signer's word", but({"map_size": 1}, of=light)),
        ("prove.invalid", "an epoch that counts another number of workloads, the whole log", but({"map_size": 1})),
        ("prove.invalid", "an epoch that begins elsewhere", but({"since": 0})),
        ("prove.invalid", "an epoch that does not cover all before it", but({"covers": 1, "since": 1}, of=light)),
        ("prove.invalid", "an epoch with a map of another format", but({"map": 3}, of=light)),
        ("prove.invalid", "an epoch that says of the clock what is not so", but({"behind_ns": 1})),
        ("prove.invalid", "an epoch stamped earlier than what it covers", but({}, -4 * SECOND)),
    ]


def heads_of_forks(folder: Path) -> list[tuple[str, str, bytes]]:
    """Signed heads that are not the beginning of the last one, or of which the proof does not show it."""
    value = canonical.decode(built(folder, state(8.5))[:-1])
    first, last = value["heads"]
    size, later = first["epoch"]["index"] + 1, canonical.decode(built(folder, state(25))[:-1])["heads"][0]["checkpoint"]

    def but(checkpoint: str) -> bytes:
        return resum({**value, "heads": [{**first, "checkpoint": checkpoint}, last]})

    def signed(origin: str, size: int, root: bytes) -> str:
        return SIGNER.sign(note.Checkpoint(origin, size, root).body()).decode()

    root = note.unverified(first["checkpoint"].encode()).root
    return [
        ("", "the last checkpoint in place of one that was not kept", but(last["checkpoint"])),
        ("prove.invalid", "a checkpoint of that size with another root", but(signed(SIGNER.name, size, b"\7" * 32))),
        ("prove.invalid", "a checkpoint of another size with that root", but(signed(SIGNER.name, size - 1, root))),
        ("prove.invalid", "a later checkpoint than the last", but(later)),
        ("prove.invalid", "an audit path that is too long", resum({**value, "heads": [first, {**last, "epoch": longer(last["epoch"])}]})),
        ("prove.invalid", "an entry after the end", resum({**value, "heads": [first, {**last, "epoch": {**last["epoch"], "index": 99}}]})),
    ]


def longer(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "path": [*item["path"], "0" * 64]}


def rooted(folder: Path) -> list[tuple[str, str, bytes, str]]:
    """For verifiers who trust a root: the keys are those that its documents name. Each with its trust file."""
    other = [LogKey(14, None, key) for key in OTHER.verifiers]
    stolen = [Stolen(20, bytes(32), key) for key in SIGNER.verifiers]
    second = PrivateKey(ec.derive_private_key(0xB0B, ec.SECP256R1())).public
    spki = [base64.b64encode(key.der).decode() for key in (KEY.public, second)]
    once, revoked = f"key release 0 - {spki[0]}", f"revoke {policy.key_id(KEY.public)} 99 lost"
    retired = (f"key release 0 2 {spki[0]}", f"key release 2 - {spki[1]}", "rule shop 1 release")
    both = (once, f"key bob 0 - {spki[1]}", "rule shop 2 release bob")
    first, second_ = document(), document(2)
    light, log = built(folder, state(8.5)), built(folder, state(8.5), "log")
    ok = pinned(first)

    def row(expect: str, why: str, documents: list[bytes], trust: Trust = ok, data: bytes = light) -> tuple[str, str, bytes, str]:
        value = {**canonical.decode(data[:-1]), "roots": [text.decode() for text in documents]}
        return expect, why, resum(value), trust_keys.encode(trust).decode()

    def alone(why: str, expect: str, **more: Any) -> tuple[str, str, bytes, str]:
        made = document(**more)
        return row(expect, why, [made], pinned(made))

    rotated = [*(LogKey(0, 14, key) for key in SIGNER.verifiers), *other]
    late = [*(LogKey(0, 15, key) for key in SIGNER.verifiers), *(LogKey(15, None, key) for key in OTHER.verifiers)]
    forged = first.replace(b"threshold 2", b"threshold 1", 1)
    return [
        row("", "a root", [first]),
        row("", "a root, the whole log", [first], data=log),
        row("", "a root and the document after it", [first, second_]),
        row("", "a document of before the one that is trusted", [first, second_], pinned(second_)),
        row("", "the ledger's keys replaced later than the heads", [first, document(2, logs=late)]),
        row("", "a release key that was replaced: what it signed counts", [first, document(2, policy=retired)]),
        row("trust.root-order", "no document", []),
        row("trust.root-order", "another document of that version", [forged]),
        row("trust.root-order", "a version left out", [first, document(3)]),
        row("trust.root-order", "out of order", [second_, first]),
        row("trust.root-order", "the trusted one is not there", [second_]),
        row("trust.root-unsigned", "signed by too few holders", [first, document(2, signers=(1,))]),
        row("trust.root-unsigned", "signed by nobody", [first, document(2, signers=())]),
        row("trust.root-unsigned", "the trusted one is signed by too few", [document(signers=(0,))]),
        row("trust.bad-root", "forged: altered after it was signed", [first, second_.replace(b"rule * 1", b"rule * 9")]),
        row("trust.bad-root", "forged: a word of it", [first, second_.replace(b"threshold 2", b"threshold 1")]),
        row("trust.bad-root", "one holder twice", [first, document(2, signers=(0, 0, 1))]),
        row("trust.bad-root", "not a document", [first, b"stele-root v0\n"]),
        row("trust.bad-root", "a revocation taken back", [first, document(2, policy=(once, revoked, "rule * 1 release")), document(3)]),
        row("trust.unknown-signer", "the ledger's keys replaced before the last head", [first, document(2, logs=rotated)]),
        row("trust.stolen-key", "a ledger key that was stolen", [first, document(2, logs=[*ALWAYS, *other], stolen=stolen)]),
        alone("a release key that is revoked", "prove.invalid", policy=(once, revoked, "rule * 1 release")),
        alone("a release that needs two signers", "prove.invalid", policy=both),
        alone("no rule for the workload", "prove.invalid", policy=(once, "rule other 1 release")),
        alone("no rules, and no release key in the trust file", "prove.invalid", policy=()),
    ]


def private_values(folder: Path) -> list[tuple[str, str, bytes]]:
    """A history with openings (docs/spec/sealed.md)."""
    stop = {"instance": "shop-1", "release": ONE, "reason": "made way", "person": "alice"}
    made = written(folder, [([event(SECOND // 2)], t(1)), ([event(2 * SECOND, kind="instance.stopped", **stop)], t(3))])
    data = built(made, history(1, 3), openings=Openings(made).of)
    value = canonical.decode(data[:-1])
    at = next(place for place, item in enumerate(value["entries"]) if item["openings"])
    person, reason = (value["entries"][at]["openings"][field] for field in ("person", "reason"))

    def but(openings: dict[str, Any], at: int = at) -> bytes:
        changed = {**value["entries"][at], "openings": openings}
        return resum({**value, "entries": [*value["entries"][:at], changed, *value["entries"][at + 1 :]]})

    return [
        ("", "a history with private values", data),
        ("", "one of two private values", but({"person": person})),
        ("prove.invalid", "another private value", but({"person": {**person, "value": "bob"}, "reason": reason})),
        ("prove.invalid", "another salt", but({"person": {**person, "salt": reason["salt"]}})),
        ("prove.invalid", "an opening of another field", but({"reason": person})),
        ("prove.invalid", "an opening of a field that the entry has not", but({"path": person})),
        ("prove.invalid", "an opening of another entry", but({"person": person}, at - 1)),
    ]


def witnessed(folder: Path) -> list[tuple[str, str, bytes]]:
    """With lines of witnesses, of which the trust file knows one."""
    keys = [
        note.Key(f"witness.example/w{number}", Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32), cosigner=True)
        for number in (1, 2)
    ]
    value = canonical.decode(built(folder, state(25, "nobody"))[:-1])
    head = value["heads"][0]
    body = (head["checkpoint"].partition("\n\n")[0] + "\n").encode()
    good, unknown = (key.line(body, t(25) // SECOND).decode() for key in keys)
    false = keys[0].line(body.replace(b"\n24\n", b"\n25\n"), t(25) // SECOND).decode()

    def signed(lines: str) -> bytes:
        return resum({**value, "heads": [{**head, "checkpoint": head["checkpoint"] + lines}]})

    return [
        ("", "a witness that is known, and one that is not", signed(good + unknown)),
        ("trust.bad-signature", "a known witness's line that is false", signed(false)),
        ("trust.bad-note", "a known witness's line twice", signed(good + good)),
    ]


def spelled(folder: Path) -> list[tuple[str, str, bytes]]:
    """Claims and names in spellings that mean nothing, and more than may be brought."""
    never_ran, light = (canonical.decode(built(folder, claim)[:-1]) for claim in (never(NOWHERE, 25), state(8.5)))
    head = light["heads"][0]
    rows: list[tuple[str, dict[str, Any]]] = [
        ("a release in capital hex", {**never_ran, "claim": {**never_ran["claim"], "release": ONE.upper()}}),
        ("a release cut short", {**never_ran, "claim": {**never_ran["claim"], "release": ONE[:30]}}),
        ("a field named by half a surrogate pair", {**light, "\ud800": 1}),
        ("facts with a field named by half a surrogate pair", {**light, "facts": {**light["facts"], "\ud800": 1}}),
        ("more timestamps than may be", {**light, "heads": [{**head, "timestamps": ["AAAA"] * 5}, *light["heads"][1:]]}),
    ]
    return [("prove.invalid", why, resum(value)) for why, value in rows]


def begun_by_a_workload(folder: Path) -> list[tuple[str, str, bytes]]:
    """A ledger whose first epoch is the host's first entry: the map of the second counts the host as new."""
    made = written(folder, [([event(1)], t(1)), ([event(3 * SECOND, workload="b")], t(5))])
    data = built(made, everything(2))
    value = canonical.decode(data[:-1])
    return [
        ("", "all workloads, the epoch before is the first entry of the host", data),
        ("prove.invalid", "without the first entry of the host", resum({**value, "entries": value["entries"][1:]})),
    ]


WITNESS = note.Key("witness.example/w1", Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32), cosigner=True).verifier
WATCHED = trust_keys.parse(trust_keys.encode(TRUST) + f"witness w1 {WITNESS.encode()}\nquorum w1\n".encode())


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = world(Path(name) / "ledger")
        rows = [*good(folder), *bad(folder), *private_values(Path(name) / "private"), *witnessed(folder)]
        rows += [*spelled(folder), *begun_by_a_workload(Path(name) / "begun")]
        trusted = trust_keys.encode(WATCHED).decode()
        every = [*((*row, trusted) for row in rows), *rooted(folder)]
    proofs = []
    for code, why, data, trust in every:
        row = {"code": code, "why": why, "proof": data.decode()} | ({"trust": trust} if trust != trusted else {})
        if not code:
            row["answer"] = verify(data, trust_keys.parse(trust.encode())).answer
        proofs.append(row)
    value = {"trust": trusted, "release_key": KEY.public.hint, "proofs": proofs}
    (HERE / "proof.json").write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
