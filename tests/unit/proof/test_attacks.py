"""Forged proofs made of true parts: of other instants, sizes, workloads, releases and ledgers."""

from __future__ import annotations

import json
import tracemalloc

from stele.model.release import ReleaseEvidence
from stele.trust import canonical, cosign, dsse, merkle, note
from stele.trust.digest import sha256
from tests.ledgers import KEY, OTHER, SECOND, SIGNER, TRUST, event, sealed
from tests.proofs import ONE, TWO, built, check, everything, history, never, of, other_says, resum, state, t, written
from tests.refusals import code


def test_entries_left_out_repeated_or_exchanged(kinds):
    value = of(kinds, "history light")
    entries = value["entries"]
    assert len(entries) >= 4
    for wrong in (
        entries[1:],
        entries[:-1],
        entries[:1] + entries[2:],
        [*entries, entries[-1]],
        entries[::-1],
        [],
        entries[:1] * len(entries),
    ):
        assert code(check, resum({**value, "entries": wrong})) == "prove.invalid"


def test_a_missing_tail_with_a_map_that_counts_less(kinds):
    value = of(kinds, "state chain")
    leaf = value["heads"][-1]["place"]["leaf"]
    leaf["count"], leaf["head"] = leaf["count"] - 1, json.loads(value["entries"].pop()["entry"])["prev"]
    assert code(check, resum(value)) == "prove.invalid"


def test_another_workloads_leaf_is_no_absence(folder, kinds):
    value, there = of(kinds, "absent light"), of(kinds, "newest light")
    (head,), place = value["heads"], there["heads"][0]["place"]
    named = {**value, "claim": {**value["claim"], "workload": "shop"}}
    long = ["0" * 64] * 257
    for base, wrong in (
        (named, place),
        (named, {**place, "leaf": None}),
        (named, head["place"]),
        (value, place),
        (value, {"path": long, "leaf": None}),
        (value, {"path": [], "leaf": None}),
    ):
        assert code(check, resum({**base, "heads": [{**head, "place": wrong}]})) == "prove.invalid"


def test_a_chain_that_begins_in_the_middle(folder):
    """With facts, only where the first head stands before the instant."""
    early, later = (canonical.decode(built(folder, claim)[:-1]) for claim in (state(0.7, ""), state(1, "")))
    assert [len(value["heads"]) for value in (early, later)] == [1, 1]
    assert early["facts"] is None
    assert code(check, resum({**early, "facts": later["facts"], "entries": []})) == "prove.invalid"
    middle = canonical.decode(built(folder, state(8.5))[:-1])
    assert code(check, resum({**middle, "facts": None})) == "prove.invalid"
    assert code(check, resum({**middle, "facts": {**middle["facts"], "good": ONE}})) == "prove.invalid"
    assert code(check, resum({**middle, "facts": {**middle["facts"], "active_since_ns": -1}})) == "prove.invalid"
    assert code(check, resum({**middle, "form": "chain"})) == "prove.invalid"
    whole = canonical.decode(built(folder, state(8.5), "chain")[:-1])
    bare = [{**release, "manifest": "", "config": ""} for release in whole["releases"]]
    assert check(resum({**whole, "form": "light", "releases": bare})).answer == check(resum(middle)).answer


def test_a_stale_checkpoint_is_not_the_head_after(folder):
    """An old head, where nothing had happened yet, in place of the one after the instant."""
    true, old = (canonical.decode(built(folder, claim)[:-1]) for claim in (state(9.5), state(5.5)))
    assert code(check, resum({**old, "claim": true["claim"]})) == "prove.not-covered"
    for heads in ([old["heads"][-1], true["heads"][-1]], [old["heads"][0], true["heads"][-1]], [true["heads"][0], old["heads"][-1]]):
        assert code(check, resum({**true, "heads": heads})) == "prove.invalid"


def test_wide_and_swapped_brackets(folder):
    """Heads that are signed and around the instant, but not next to each other."""
    four = canonical.decode(built(folder, history(3, 8.5))[:-1])
    narrow = canonical.decode(built(folder, state(8.5))[:-1])
    assert four["heads"][2:] == narrow["heads"]
    for heads in (
        [four["heads"][0], narrow["heads"][1]],
        [four["heads"][0], *narrow["heads"]],
        narrow["heads"][::-1],
        narrow["heads"][1:],
        narrow["heads"][:1],
        [*narrow["heads"], narrow["heads"][1]],
        four["heads"],
    ):
        assert code(check, resum({**narrow, "heads": heads})) == "prove.invalid"


def test_more_heads_than_the_claim_needs(folder):
    two = canonical.decode(built(folder, history(5, 10))[:-1])
    state_at = {"kind": "state", "workload": "shop", "at_ns": t(10)}
    assert code(check, resum({**two, "claim": state_at})) == "prove.invalid"


def test_a_time_beyond_the_head(kinds):
    for name in ("state light", "history light", "never light", "workloads light", "newest log"):
        value = of(kinds, name)
        key = "until_ns" if name.startswith("history") else "at_ns"
        assert code(check, resum({**value, "claim": {**value["claim"], key: 2**62}})) == "prove.not-covered"


def test_a_proof_of_two_ledgers(folder, tmp_path, kinds):
    """Two histories under one key: the split that an operator could show."""
    made = written(tmp_path / "second", [([event(number)], t(number + 1)) for number in range(12)])
    value = of(kinds, "state light")
    forked = canonical.decode(built(made, state(8.5))[:-1])
    for number in (0, 1):
        heads = list(value["heads"])
        heads[number] = forked["heads"][number]
        assert code(check, resum({**value, "heads": heads})) == "prove.invalid"
    for name in ("entries", "facts", "heads"):
        assert code(check, resum({**value, name: forked[name]})) == "prove.invalid"


def test_a_head_that_was_forged(kinds):
    value = of(kinds, "absent light")
    head = value["heads"][0]
    text = head["checkpoint"]
    for wrong, expected in (
        (text.replace("\n24\n", "\n25\n"), "trust.bad-signature"),
        (text.partition("\n\n")[0] + "\n\n", "trust.bad-note"),
        (OTHER.sign((text.partition("\n\n")[0] + "\n").encode()).decode(), "trust.unknown-signer"),
        (text.replace("\u2014", "-"), "trust.bad-note"),
        (text.rpartition("\u2014")[0], "trust.missing-signature"),
    ):
        assert code(check, resum({**value, "heads": [{**head, "checkpoint": wrong}]})) == expected


def test_the_wrong_size_of_a_map(folder, kinds):
    value = of(kinds, "workloads light")
    leaves, late = value["workloads"]["leaves"], canonical.decode(built(folder, everything(23))[:-1])
    for changed in (
        {"leaves": [row for row in leaves if row["workload"] != "other"]},
        {"leaves": leaves[::-1]},
        {"leaves": [*leaves, leaves[-1]]},
        {"leaves": []},
        {"rest": "0" * 64},
        late["workloads"],
    ):
        assert code(check, resum({**value, "workloads": {**value["workloads"], **changed}})) == "prove.invalid"
    assert len(late["entries"]) == 1
    for entries in ([], late["entries"] * 2, value["entries"]):
        assert code(check, resum({**late, "entries": entries})) == "prove.invalid"


def test_never_ran_of_a_release_that_ran(folder, kinds):
    value = of(kinds, "never light")
    for release, workload in ((ONE, "shop"), (TWO, "shop")):
        claim = {**value["claim"], "release": release, "workload": workload}
        assert code(check, resum({**value, "claim": claim})) == "prove.invalid"
        assert code(check, resum({**of(kinds, "never log"), "claim": claim})) == "prove.invalid"


def test_a_log_with_an_epoch_that_lies(folder, kinds):
    value = of(kinds, "newest log")
    for number, text in enumerate(value["log"]):
        for wrong in (text.replace('"map_size":', '"map_size":1'), text.replace('"actor":"test"', '"actor":"evil"')):
            if wrong != text:
                log = [*value["log"][:number], wrong, *value["log"][number + 1 :]]
                assert code(check, resum({**value, "log": log})) == "prove.invalid"
    for log in (value["log"][:-1], value["log"][1:], value["log"][::-1], []):
        assert code(check, resum({**value, "log": log})) == "prove.invalid"


def test_a_release_of_another_workload_is_refused(tmp_path):
    digest, material = sealed(name="other")
    one = {"instance": "shop-1", "release": digest}
    events = [event(1, kind="instance.starting", **one), event(2, kind="instance.active", **one)]
    made = written(tmp_path / "l", [(events, t(1))])
    assert check(built(made, state(1), "light", lambda _: material))  # its manifest is not there
    assert code(check, built(made, state(1), "chain", lambda _: material)) == "prove.invalid"


def test_a_release_that_is_not_what_was_signed_is_refused(folder):
    _, good = sealed()
    _, other = sealed(content=b"two")
    for wrong in (
        other,
        good._replace(config=other.config),
        good._replace(payload=other.payload),
        good._replace(signatures=other.signatures),
        good._replace(signatures=(b"",)),
        good._replace(payload=good.payload.replace(b"in-toto", b"in-TOTO")),
        good._replace(manifest=good.manifest + b" "),
    ):
        assert code(check, built(folder, state(8.5), "chain", lambda _, w=wrong: w)) == "prove.invalid"
    statement = canonical.decode(good.payload)
    for altered in ({**statement, "predicateType": "x"}, {**statement, "subject": []}, {**statement, "_type": "x"}):
        payload = canonical.encode(altered)
        signed = good._replace(payload=payload, signatures=(KEY.sign(dsse.pae(cosign.PAYLOAD_TYPE, payload)),))
        assert code(check, built(folder, state(8.5), "light", lambda _, w=signed: w)) == "prove.invalid"
    value = canonical.decode(built(folder, state(8.5))[:-1])
    release = value["releases"][0]
    for found in ([], [release] * 2, [{**release, "signatures": []}], [{**release, "signatures": release["signatures"] * 17}]):
        assert code(check, resum({**value, "releases": found})) == "prove.invalid"


def test_an_epoch_under_a_checkpoint_that_does_not_cover_it(folder):
    """In form `log`, which brings no paths: an older checkpoint in place of the head's own."""
    value, old = (canonical.decode(built(folder, claim, "log")[:-1]) for claim in (state(8.5), state(5)))
    heads = [{**value["heads"][0], "checkpoint": old["heads"][-1]["checkpoint"]}, value["heads"][1]]
    assert code(check, resum({**value, "heads": heads})) == "prove.invalid"


def test_the_first_entry_of_the_host_may_be_the_epoch_before(tmp_path):
    """That epoch's map does not cover it, and the next one counts it as new."""
    made = written(tmp_path / "l", [([event(1)], t(1)), ([event(3 * SECOND, workload="b")], t(5)), ([event(6 * SECOND)], t(9))])
    names = [check(built(made, everything(at))).answer["workloads"] for at in (0, 1, 2, 3, 5, 7, 9)]
    assert names == [[], ["shop"], ["shop"], *[["b", "shop"]] * 4]
    value = canonical.decode(built(made, everything(2))[:-1])
    assert len(value["entries"]) == 2
    for entries in (value["entries"][1:], value["entries"][:1], []):
        assert code(check, resum({**value, "entries": entries})) == "prove.invalid"


def test_never_ran_in_another_spelling(folder):
    """It would be true, and read as if it were about the release that ran."""
    for release in (ONE.upper(), ONE[:30], ONE[7:], ONE + "\n", " " + ONE, ""):
        assert code(check, built(folder, never(release, 25))) == "prove.invalid"


def test_an_epoch_that_covers_nothing_and_has_something_in_its_map(tmp_path):
    """By who has the key, in light form: both say the same of it."""
    made = written(tmp_path / "l", [([event(1)], t(1)), ([event(3 * SECOND)], t(5))])
    value = canonical.decode(built(made, state(5))[:-1])
    row = {"workload": "shop", "count": 1, "head": "sha256:" + "0" * 64, "state": sha256(canonical.encode(value["facts"]))}
    root = sha256(b"\0" + canonical.encode(row))[7:]
    said = {"behind_ns": 0, "covers": 0, "map": 2, "map_root": root, "map_size": 1, "since": 0}
    plain = {"v": 1, "workload": "", "seq": 0, "prev": "", "kind": "epoch", "time_ns": t(5), "actor": "ledger", "data": said, "sealed": {}}
    entry = canonical.encode(plain)
    checkpoint = SIGNER.sign(note.Checkpoint(SIGNER.name, 1, merkle.leaf_hash(entry)).body()).decode()
    item = {"index": 0, "entry": entry.decode(), "path": [], "openings": {}}
    head = {**value["heads"][0], "checkpoint": checkpoint, "epoch": item, "place": {"path": [], "leaf": row}}
    forged = {**value, "heads": [head], "entries": []}
    assert check(resum(forged)).answer["entries"] == 1
    names = {"leaves": [row], "rest": "0" * 64}
    every = {"claim": {"kind": "workloads", "at_ns": t(5)}, "facts": None, "workloads": names, "heads": [{**head, "place": None}]}
    assert check(resum({**forged, **every})).answer == {"workloads": ["shop"]}


def test_a_release_without_a_config(tmp_path):
    """Signed by a trusted key: the manifest names the digest of nothing."""
    manifest = canonical.encode({"annotations": {"dev.stele.workload": "shop"}, "config": {"digest": sha256(b"")}})
    name = sha256(manifest)
    payload = canonical.encode(
        {"_type": cosign.STATEMENT_TYPE, "predicateType": cosign.PREDICATE_TYPE, "subject": [{"digest": {"sha256": name[7:]}}]}
    )
    material = ReleaseEvidence(manifest, b"", payload, (KEY.sign(dsse.pae(cosign.PAYLOAD_TYPE, payload)),))
    made = written(tmp_path / "l", [([event(1, kind="instance.starting", instance="a", release=name)], t(1))])
    assert code(check, built(made, state(1), "chain", lambda _: material)) == "prove.invalid"
    assert check(built(made, state(1), "light", lambda _: material))


def test_names_with_half_a_surrogate_pair(kinds):
    """Anywhere where a name is looked for: refused, and by no other error."""
    half = "\ud800"
    value = of(kinds, "state light")
    head, item = value["heads"][0], value["heads"][0]["epoch"]
    entry = json.loads(item["entry"])
    entry["data"][half] = 1
    other = {**item, "entry": canonical.encode(entry).decode()}
    for wrong in (
        {**value, half: 1},
        {**value, "claim": {**value["claim"], half: 1}},
        {**value, "claim": {**value["claim"], "kind": half}},
        {**value, "facts": {**value["facts"], half: 1}},
        {**value, "facts": {**value["facts"], "running": {"a": {half: 1}}}},
        {**value, "heads": [{**head, "place": {**head["place"], "leaf": {half: 1}}}, *value["heads"][1:]]},
        {**value, "heads": [{**head, half: 1}, *value["heads"][1:]]},
        relogged(value, [other["entry"]]),
    ):
        assert code(check, resum(wrong)) == "prove.invalid"


def relogged(value: dict, log: list[str]) -> dict:
    """The proof with one head, over a log of one entry, by who has the key."""
    checkpoint = SIGNER.sign(note.Checkpoint(SIGNER.name, 1, merkle.leaf_hash(log[0].encode())).body()).decode()
    item = {"index": 0, "entry": log[0], "path": [], "openings": {}}
    return {**value, "heads": [{**value["heads"][0], "checkpoint": checkpoint, "epoch": item}]}


def test_many_live_instances_cost_little_memory(tmp_path):
    """States are kept where they are asked for, not of every entry."""
    many = [event(number, kind="instance.starting", instance=f"i{number}") for number in range(3000)]
    made = written(tmp_path / "l", [(many, t(1))])
    data = built(made, state(1), "chain")
    tracemalloc.start()
    try:
        assert isinstance(other_says(data, TRUST), dict)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_workloads_beside_an_empty_map(tmp_path):
    """By who has the key: an epoch over nothing says truly that there is nothing."""
    said = {"behind_ns": 0, "covers": 0, "map": 2, "map_root": "0" * 64, "map_size": 0, "since": 0}
    plain = {"v": 1, "workload": "", "seq": 0, "prev": "", "kind": "epoch", "time_ns": t(5), "actor": "ledger", "data": said, "sealed": {}}
    made = written(tmp_path / "l", [([event(1)], t(1))])
    value = relogged(canonical.decode(built(made, everything(1))[:-1]), [canonical.encode(plain).decode()])
    value |= {"claim": {"kind": "workloads", "at_ns": t(5)}, "entries": []}
    rows = value["workloads"]["leaves"]
    assert check(resum({**value, "workloads": {"leaves": [], "rest": "0" * 64}})).answer == {"workloads": []}
    assert code(check, resum({**value, "workloads": {"leaves": rows, "rest": "0" * 64}})) == "prove.invalid"
