"""Forged proofs made of true parts: of other instants, sizes, workloads, releases and ledgers."""

from __future__ import annotations

import json

from stele.trust import canonical, cosign, dsse
from tests.ledgers import KEY, OTHER, event, sealed
from tests.proofs import ONE, TWO, built, check, everything, history, of, resum, state, t, written
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
