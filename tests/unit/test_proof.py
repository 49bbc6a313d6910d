"""Proofs: what they say is what was logged, whatever was changed in one does not hold, and both verifiers say the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.flow.proving import Question, file_name
from stele.ledger.mapfile import remove
from stele.ledger.openings import Openings
from stele.model import facts
from stele.model import history as histories
from stele.prove import shape
from stele.prove.standalone import stele_verify
from stele.prove.verify import verify
from stele.trust import canonical, cosign, dsse, note, trust_keys
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests.ledgers import KEY, OTHER, SECOND, SIGNER, START, TRUST, event, sealed
from tests.proofs import HISTORY, ONE, TWO, built, check, everything, history, never, other_says, resum, state, t, world, written
from tests.refusals import code

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "proof.json").read_text())
NOWHERE = "sha256:" + "7" * 64
FORMS = ("light", "chain", "log")
HALVES = [number / 2 for number in range(51)]
NONE = facts.NONE.plain()
KINDS: dict[str, bytes] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return world(tmp_path_factory.mktemp("proof") / "ledger")


@pytest.fixture(scope="module")
def kinds(folder) -> dict[str, bytes]:
    """A proof of every claim and form."""
    claims = {
        "state": state(8.5),
        "newest": state(25),
        "absent": state(25, "nobody"),
        "history": history(3.5, 8.5),
        "never": never(NOWHERE, 25),
        "workloads": everything(8.5),
    }
    made = {(name, form): (claim, form) for name, claim in claims.items() for form in FORMS if (name, form) != ("workloads", "chain")}
    KINDS.update({f"{name} {form}": built(folder, *args) for (name, form), args in made.items()})
    return KINDS


def of(kinds: dict[str, bytes], name: str) -> dict[str, Any]:
    return canonical.decode(kinds[name][:-1])


@pytest.mark.parametrize("vector", VECTORS["proofs"], ids=lambda vector: vector["why"])
def test_vectors(vector):
    trust = trust_keys.parse(VECTORS["trust"].encode())
    if vector["code"]:
        assert code(check, vector["proof"].encode(), trust) == vector["code"]
    else:
        assert check(vector["proof"].encode(), trust).answer == vector["answer"]


# ---- what they say -----------------------------------------------------------------------------------


def logged(workload: str, seconds: float) -> list[Any]:
    """The events of a workload until then, from the list that the ledger was written from."""
    every = [each for events, _ in HISTORY for each in events if each[0] <= seconds and each[1] == workload]
    return [event(t(at) - START, workload=name, kind=kind, **data) for at, name, kind, data in every]


def facts_at(workload: str, seconds: float) -> dict[str, Any]:
    return facts.of(histories.reduce(workload, logged(workload, seconds))).plain()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("workload", ["shop", "late", "nobody"])
def test_the_state_at_every_instant(folder, form, workload):
    for seconds in HALVES:
        answer = check(built(folder, state(seconds, workload), form)).answer
        assert answer == {
            "exists": bool(logged(workload, seconds)),
            "entries": len(logged(workload, seconds)),
            "state": facts_at(workload, seconds),
        }


@pytest.mark.parametrize("form", FORMS)
def test_histories_between_any_two_instants(folder, form):
    for begin in (0, 1, 2.5, 3, 6, 8.5, 10, 19, 25):
        for end in (begin, 3.5, 6, 8, 9, 17, 25):
            if begin <= end:
                answer = check(built(folder, history(begin, end), form)).answer
                assert (answer["from"], answer["until"]) == (facts_at("shop", begin), facts_at("shop", end))
                between = logged("shop", end)[len(logged("shop", begin)) :]
                assert [(each["kind"], each["time_ns"], each["data"]) for each in answer["between"]] == [
                    (each.kind, each.time_ns, each.data) for each in between
                ]
                assert [each["seq"] for each in answer["between"]] == list(range(len(logged("shop", begin)), len(logged("shop", end))))


@pytest.mark.parametrize("form", FORMS)
def test_a_release_never_ran_until_it_did(folder, form):
    for seconds in HALVES:
        for release, workload, covered in ((NOWHERE, "shop", 99), (TWO, "shop", 14), (ONE, "nobody", 99), (ONE, "late", 99)):
            claim = never(release, seconds, workload)
            if seconds <= covered:
                assert check(built(folder, claim, form)).answer["ran"] is False
            else:  # the head after the instant has it, so that nothing shorter than a history can say more
                assert code(built, folder, claim, form) == "prove.it-ran"


@pytest.mark.parametrize("form", ["light", "log"])
def test_all_workloads_at_every_instant(folder, form):
    for seconds in HALVES:
        names = [name for name, begun in (("late", 22), ("other", 5.5), ("shop", 1.5)) if begun <= seconds]
        assert check(built(folder, everything(seconds), form)).answer == {"workloads": names}


def test_every_line_of_a_verdict(folder):
    verdict = check(built(folder, state(8.5)))
    assert verdict.says == (
        "At 2027-01-15T08:00:08.500000000Z nothing served the workload 'shop'.",
        f"  Also started and not yet stopped: instance shop-bbbbbb of release {ONE}, since 2027-01-15T08:00:08.000000000Z.",
        f"  Frozen as evidence: instance shop-aaaaaa of release {ONE}, incident shop-i1, since 2027-01-15T08:00:07.000000000Z.",
    )
    assert verdict.checked == (
        "the signatures over the ledger's head of 14 entries: test.example/ledger (Ed25519), test.example/ledger (ML-DSA-44)",
        "2 signed heads of one log, each a continuation of the one before",
        "where this workload stands in the signed map, and that no entry of it is missing since then",
        "the signatures of the releases named above (1), by keys that you trust",
    )
    assert verdict.time == ("2027-01-15T08:00:08.500000000Z: the operator's clock (test.example/ledger)",)
    assert [line.partition(":")[0] for line in verdict.not_checked] == [
        "the time",
        "whether the operator showed somebody else another ledger",
        "that the signed map is what the entries make",
        "what is in the releases",
        "anything after 2027-01-15T08",
        "what code did while it ran, and what ran outside Stele's care",
    ]
    served = check(built(folder, state(25), "chain"))
    assert served.says[:2] == (
        f"At 2027-01-15T08:00:25.000000000Z the workload 'shop' was served by release {TWO}",
        "  as instance shop-cccccc, serving since 2027-01-15T08:00:17.000000000Z.",
    )
    assert served.checked[1].startswith("all 10 entries of this workload")
    nobody = check(built(folder, state(25, "nobody"), "log"))
    assert nobody.says == ("At 2027-01-15T08:00:25.000000000Z there was no workload 'nobody': until then the ledger has no entry of it.",)
    assert nobody.checked[1] == "all 24 entries of the log: every hash, chain and epoch made anew"


def test_a_clock_that_was_set_back(tmp_path):
    """Epochs never go back: an instant is passed once, and the verdict says that the clock was wrong."""
    one = {"instance": "shop-1", "release": ONE}
    made = written(
        tmp_path / "l",
        [
            ([event(10 * SECOND, kind="instance.starting", **one)], t(11)),
            ([event(5000 * SECOND, kind="instance.active", **one)], t(12)),  # the clock was far ahead
            ([event(13 * SECOND, kind="instance.stopped", **one)], t(14)),
        ],
    )
    for form in FORMS:
        for seconds in (11.5, 12, 14, 4999):
            assert check(built(made, state(seconds), form)).answer["entries"] == 1
        served = check(built(made, state(5000), form))
        assert (served.answer["entries"], served.answer["state"]["active_instance"]) == (2, "shop-1")
        assert served.not_checked[0].startswith("the clock: it was set back by 4988")
        newest = shape.StateClaim(workload="shop", at_ns=t(5000) + 2)
        assert check(built(made, newest, form)).answer == {"exists": True, "entries": 3, "state": NONE}
    assert code(built, made, state(5001)) == "prove.not-covered"


def test_entries_between_the_heads_count_up_to_the_first_that_is_later(tmp_path):
    """The example of the spec."""
    made = written(tmp_path / "l", [([], t(5)), ([event(at * SECOND) for at in (10, 20, 15, 30)], t(40))])
    for form in FORMS:
        assert [check(built(made, state(at), form)).answer["entries"] for at in (5, 9, 17, 20, 29, 30, 40)] == [0, 0, 1, 3, 3, 4, 4]


def test_a_ledger_without_maps_gives_the_same_proofs(folder, tmp_path):
    import shutil

    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    remove(copied)
    for claim in (state(8.5), history(3.5, 8.5), never(NOWHERE, 3), everything(8.5)):
        assert built(copied, claim) == built(folder, claim)


def test_a_checkpoint_that_was_not_kept_is_replaced_by_the_next(folder, tmp_path):
    import shutil

    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    for name in ("9", "14"):
        (copied / "checkpoints" / name).unlink()
    for form in FORMS:
        assert check(built(copied, state(8.5), form)).answer == check(built(folder, state(8.5), form)).answer


def test_what_cannot_be_proved(folder):
    assert code(built, folder, state(25.5)) == "prove.not-covered"
    assert code(built, folder, history(3, 26)) == "prove.not-covered"
    assert code(built, folder, never(ONE, 25)) == "prove.it-ran"
    with pytest.raises(SteleError, match="entry 1 of its chain"):
        built(folder, never(ONE, 25))


def test_a_damaged_ledger_gives_no_proof(tmp_path):
    made = written(tmp_path / "l", [([event(1)], t(1)), ([event(2)], t(2))])
    for path in (made / "tile" / "entries" / "000.p").iterdir():
        path.write_bytes(path.read_bytes().replace(b'"actor":"test"', b'"actor":"evil"'))
    assert code(built, made, state(2), "chain") == "ledger.damaged"


# ---- what they refuse --------------------------------------------------------------------------------


def test_no_keys_and_other_keys(kinds):
    data = kinds["state light"]
    assert code(verify, data, None) == "prove.no-keys"
    assert code(verify, data, TRUST._replace(ledgers=())) == "prove.no-keys"
    assert code(check, data, TRUST._replace(ledgers=OTHER.verifiers)) == "trust.unknown-signer"
    assert code(check, data, TRUST._replace(ledgers=(SIGNER.verifier, OTHER.verifiers[1]))) == "trust.missing-signature"
    assert code(check, data, TRUST._replace(releases=())) == "prove.invalid"
    assert code(check, data, TRUST._replace(releases=(PrivateKey.generate().public,))) == "prove.invalid"
    assert check(data, TRUST._replace(ledgers=(*OTHER.verifiers[:1], *SIGNER.verifiers)))
    assert check(data, TRUST._replace(ledgers=(SIGNER.verifier,)))  # without a post-quantum key, its line means nothing


def test_every_byte_matters(kinds):
    """Each byte flipped, deleted, doubled: the proof does not hold, and nothing but a refusal comes out."""
    data = kinds["absent light"]
    for at in range(len(data)):
        for changed in (
            data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :],
            data[:at] + data[at + 1 :],
            data[: at + 1] + data[at:],
        ):
            if changed != data:
                with pytest.raises(SteleError):
                    verify(changed, TRUST)
    for at in range(0, len(data), 5):
        assert code(check, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]) in {"prove.invalid", "trust.not-canonical"}


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in paths(item, (*path, key)))]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def changed_at(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    at(value, path[:-1])[path[-1]] = new
    return value


def agrees(data: bytes) -> shape.Claim | None:
    """Both verifiers say the same; returns the claim if it holds."""
    try:
        return check(data).claim
    except SteleError:
        return None


SMALL_CHANGES = [
    lambda old: old + 1 if isinstance(old, int) else old[:-1] + ("0" if old[-1:] != "0" else "1") if isinstance(old, str) else None,
    lambda old: -old if isinstance(old, int) and old else [old],
    lambda old: old.upper() if isinstance(old, str) and old.upper() != old else old[1:] if isinstance(old, (str, list)) else True,
]


@pytest.mark.parametrize("change", SMALL_CHANGES)
@pytest.mark.parametrize("name", ["state light", "history light", "never chain", "workloads light", "newest log"])
def test_every_field_matters_even_where_the_sum_is_made_to_fit(kinds, name, change):
    """A forger can compute the sum anew. Only the question may change then, and is truly answered."""
    value = of(kinds, name)
    for path in paths(value)[1:]:
        old = at(value, path)
        new = change(old)
        if path[0] == "sum" or (type(new) is type(old) and new == old):
            continue
        claim = agrees(resum(changed_at(value, path, new)))
        assert claim is None or path[0] == "claim", path


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.text(max_size=8)
    | st.sampled_from(["a" * 64, ONE]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(["workload", "release"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.usefixtures("kinds")
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_both_verifiers_say_the_same_of_anything(data):
    """Parts of one proof in place of those of another, removed, doubled, or replaced by anything."""
    names = sorted(KINDS)
    value = of(KINDS, data.draw(st.sampled_from(names)))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(value)[1:]))
        other = of(KINDS, data.draw(st.sampled_from(names)))
        how = data.draw(st.sampled_from(["plain", "same", "any", "drop", "double"]))
        holder = at(value, path[:-1])
        if how == "plain":
            holder[path[-1]] = data.draw(PLAIN)
        elif how == "same":
            try:
                holder[path[-1]] = copy.deepcopy(at(other, path))
            except (KeyError, IndexError, TypeError):
                continue
        elif how == "any":
            holder[path[-1]] = copy.deepcopy(at(other, data.draw(st.sampled_from(paths(other)[1:]))))
        elif isinstance(holder, list):
            holder[path[-1] : path[-1] + 1] = [] if how == "drop" else [holder[path[-1]]] * 2
        else:
            del holder[path[-1]]
    agrees(resum(value))


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace") + b"\n"))
def test_anything_else_is_refused(data):
    assert code(check, data) in {"prove.invalid", "trust.not-canonical"}


def test_hostile_shapes_cost_little():
    for data in (
        b"[" * 200_000 + b"\n",
        b'{"a":' * 50_000 + b"\n",
        b"9" * 100_000 + b"\n",
        b'"' + b"x" * (65 << 20) + b'"\n',
        b'{"a":1,"a":1}\n',
    ):
        assert code(check, data + b"\n") in {"prove.invalid", "trust.not-canonical"}


# ---- attacks -----------------------------------------------------------------------------------------


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
    entries, place = value["entries"][:-1], value["places"][-1]
    short = {**value, "entries": entries, "places": [*value["places"][:-1], {**place, "count": place["count"] - 1}]}
    assert code(check, resum(short)) == "prove.invalid"


def test_another_workloads_leaf_is_no_absence(folder, kinds):
    value, there = of(kinds, "absent light"), of(kinds, "newest light")
    shop = copy.deepcopy(there["places"])
    leaf = {"workload": "shop", "count": 10, "head": there["start"]["head"], "state": sha256(canonical.encode(there["start"]["facts"]))}
    shop[0] |= {"count": 0, "other": leaf}
    named = {**value, "claim": {**value["claim"], "workload": "shop"}}
    for places in (shop, [{**shop[0], "other": None}], value["places"]):
        assert code(check, resum({**named, "places": places})) == "prove.invalid"
    assert code(check, resum({**value, "places": shop})) == "prove.invalid"


def test_a_stale_checkpoint_is_not_the_head_after(folder):
    """An old head, where nothing had happened yet, in place of the one after the instant."""
    true, old = (canonical.decode(built(folder, claim)[:-1]) for claim in (state(9.5), state(5.5)))
    assert code(check, resum({**old, "claim": true["claim"]})) == "prove.not-covered"
    for heads in ([old["heads"][-1], true["heads"][-1]], [old["heads"][0], true["heads"][-1]], [true["heads"][0], old["heads"][-1]]):
        assert code(check, resum({**true, "heads": heads})) == "prove.invalid"


def test_wide_and_swapped_brackets(folder):
    """Heads that are signed and around the instant, but not next to each other."""
    narrow, before = (canonical.decode(built(folder, claim)[:-1]) for claim in (state(8.5), state(3)))
    wide = {**narrow, "heads": [before["heads"][0], narrow["heads"][1]]}
    assert code(check, resum(wide)) == "prove.invalid"
    assert code(check, resum({**narrow, "heads": narrow["heads"][::-1], "places": narrow["places"][::-1]})) == "prove.invalid"
    assert code(check, resum({**narrow, "heads": narrow["heads"][1:], "places": narrow["places"][1:]})) == "prove.invalid"
    assert code(check, resum({**narrow, "heads": narrow["heads"][:1], "places": narrow["places"][:1]})) == "prove.not-covered"


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
    from stele.ledger.sequencer import Ledger
    from tests.proofs import Clock

    other = tmp_path / "fork"
    ledger = Ledger.open(other, signer=SIGNER, clock=Clock(t(1)))
    ledger.append([event(1, kind="instance.starting", instance="evil", release=TWO)])
    ledger.close()
    made = written(tmp_path / "second", [([event(number)], t(number + 1)) for number in range(12)])
    value = of(kinds, "state light")
    forked = canonical.decode(built(made, state(8.5))[:-1])
    for number in (0, 1):
        heads = list(value["heads"])
        heads[number] = forked["heads"][number]
        assert code(check, resum({**value, "heads": heads})) == "prove.invalid"
    for name in ("places", "entries", "start", "heads"):
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
    before, after = value["maps"]
    leaves = after["leaves"]
    for changed in (
        {"leaves": [row for row in leaves if row["workload"] != "other"]},
        {"leaves": leaves[::-1]},
        {"leaves": [*leaves, leaves[-1]]},
        {"leaves": []},
        {"rest": "0" * 64},
        before,
    ):
        assert code(check, resum({**value, "maps": [before, {**after, **changed}]})) == "prove.invalid"
    for maps in ([after, before], [after, after], [after], []):
        assert code(check, resum({**value, "maps": maps})) == "prove.invalid"
    late = canonical.decode(built(folder, everything(23))[:-1])
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


# ---- witnesses, timestamps, private values -----------------------------------------------------------


WITNESSES = [
    note.Key("witness.example/w1", Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34))), cosigner=True),
    note.Key("witness.example/w2", MLDSA44PrivateKey.from_seed_bytes(bytes(range(3, 35)))),
]
WATCHED = trust_keys.parse(
    trust_keys.encode(TRUST)
    + b"".join(f"witness w{number} {key.verifier.encode()}\n".encode() for number, key in enumerate(WITNESSES))
    + b"group both 2 w0 w1\nquorum both\n"
)


def cosigned(value: dict[str, Any], *seconds: int) -> bytes:
    """The proof with cosignatures of both witnesses on its heads, made at these times."""
    heads = []
    for head, at in zip(value["heads"], seconds, strict=True):
        body = (head["checkpoint"].partition("\n\n")[0] + "\n").encode()
        heads.append({**head, "checkpoint": head["checkpoint"] + "".join(key.line(body, at).decode() for key in WITNESSES)})
    return resum({**value, "heads": heads})


def test_whose_word_the_time_is(kinds):
    value = of(kinds, "state light")
    second = t(8.5) // SECOND
    verdict = check(cosigned(value, second - 2, second + 2), WATCHED)
    assert [(each["who"], each["name"], each["holds"]) for each in verdict.times] == [
        ("operator", SIGNER.name, True),
        ("witness", "witness.example/w1", True),
        ("witness", "witness.example/w2", True),
    ]
    assert "witness witness.example/w1 saw the two heads around it" in verdict.time[1]
    assert not any("operator's word" in line for line in verdict.not_checked)
    assert not any("quorum" in line or "another ledger" in line for line in verdict.not_checked)
    late = check(cosigned(value, second + 5, second + 9), WATCHED)
    assert [each["holds"] for each in late.times] == [True, False, False]
    assert any("no younger than a witness saw them, it is the operator's word" in line for line in late.not_checked)
    assert "it is no younger" in late.time[1]
    assert other_says(cosigned(value, 1, second), WATCHED)["seen"] == [
        dict.fromkeys(("witness.example/w1", "witness.example/w2"), 1),
        dict.fromkeys(("witness.example/w1", "witness.example/w2"), second),
    ]
    # to who does not know the witnesses their lines mean nothing; a line of a known one that is false refuses the whole
    assert check(cosigned(value, 1, 2)).answer == verdict.answer
    swapped = canonical.decode(cosigned(value, 1, 2)[:-1])
    lines = [head["checkpoint"].rpartition("\u2014") for head in swapped["heads"]]
    swapped["heads"][0]["checkpoint"] = lines[0][0] + "\u2014" + lines[1][2]
    assert code(check, resum(swapped), WATCHED) == "trust.bad-signature"
    assert check(resum(swapped)).answer == verdict.answer
    twice = value["heads"][0]["checkpoint"] + canonical.decode(cosigned(value, 1, 2)[:-1])["heads"][0]["checkpoint"].partition("\n\n")[2]
    assert (
        code(check, resum({**value, "heads": [{**value["heads"][0], "checkpoint": twice}, value["heads"][1]]}), WATCHED) == "trust.bad-note"
    )


def test_no_entry_makes_a_line_of_the_verdict(tmp_path):
    """A hostile operator chooses the words of his entries."""
    evil = "x\nchecked:\n  + all entries of the log\u2028\x1b[2J"
    data = {"instance": evil, "release": ONE}
    happened = [event(SECOND // 2, kind="instance.starting", **data), event(SECOND // 2, kind="instance.active", **data)]
    more = [
        event(2 * SECOND, kind="instance.starting", **{**data, "instance": "y" + evil}),
        event(2 * SECOND, kind="heartbeat", incident=evil),
    ]
    frozen = [event(2 * SECOND, kind="instance.frozen", incident=evil, **data), event(3 * SECOND, kind="instance.active", **data)]
    made = written(tmp_path / "l", [(happened, t(1)), (more + frozen, t(4))])
    for claim in (state(1), state(4), history(0.2, 4)):
        verdict = check(built(made, claim, "chain"))
        assert any("\\nchecked" in line for line in verdict.says)
        assert all(line.isprintable() for line in (*verdict.says, *verdict.checked, *verdict.time, *verdict.not_checked))
    never_ = never("sha256:\n", 4)
    assert all(line.isprintable() for line in check(built(made, never_)).says)


def test_one_witness_of_two_is_no_quorum(kinds):
    second = t(8.5) // SECOND
    both = canonical.decode(cosigned(of(kinds, "state light"), second - 2, second + 2)[:-1])
    note_, _, _ = both["heads"][1]["checkpoint"].rpartition("\u2014")
    verdict = check(resum({**both, "heads": [both["heads"][0], {**both["heads"][1], "checkpoint": note_}]}), WATCHED)
    assert any(each["who"] == "witness" and each["holds"] for each in verdict.times)
    assert any("lacks the quorum" in line for line in verdict.not_checked)
    assert any("another ledger" in line for line in verdict.not_checked)


def test_timestamps_decide_nothing(kinds):
    value = of(kinds, "newest light")
    for tokens in (["AAAA"], ["not base64"], ["MAMCAQA="] * 3):
        verdict = check(resum({**value, "heads": [{**value["heads"][0], "timestamps": tokens}]}))
        assert [each["holds"] for each in verdict.times] == [True] + [False] * len(tokens)
        assert any("the time: without a witness" in line for line in verdict.not_checked)


def test_private_values_on_request(tmp_path):
    stop = {"instance": "shop-1", "release": ONE, "reason": "made way", "person": "alice"}
    made = written(tmp_path / "l", [([event(SECOND // 2)], t(1)), ([event(2 * SECOND, kind="instance.stopped", **stop)], t(3))])
    claim = history(0.2, 3)
    closed = check(built(made, claim))
    assert closed.opened == ()
    assert sorted(closed.answer["between"][1]["sealed"]) == ["person", "reason"]
    for form in FORMS:
        data = built(made, claim, form, openings=Openings(made).of)
        verdict = check(data)
        assert [(each["field"], each["value"]) for each in verdict.opened] == [("person", "alice"), ("reason", "made way")]
        assert b"alice" not in built(made, claim, form)
        assert '"made way"' in verdict.says[-1]
        value = canonical.decode(data[:-1])
        one, two = value["openings"]
        for changed in ({"value": "bob"}, {"field": "reason"}, {"salt": two["salt"]}, {"index": 0}, {"index": 99}):
            assert code(check, resum({**value, "openings": [{**one, **changed}]})) == "prove.invalid"
        for wrong in ([two, one], [one, one]):
            assert code(check, resum({**value, "openings": wrong})) == "prove.invalid"
        assert check(resum({**value, "openings": [two]})).opened[0]["field"] == "reason"


# ---- the standalone verifier -------------------------------------------------------------------------


def test_the_standalone_verifier_is_one_short_file_of_its_own():
    """All lines count: blank ones, comments, documentation. The formatter lays it out as all else (`make lint`)."""
    lines = Path(stele_verify.__file__).read_text("utf-8").splitlines()
    assert len(lines) <= 400
    assert max(map(len, lines)) <= 140
    assert not [line for line in lines if "fmt:" in line or "noqa" in line]
    found = [line for line in lines if line.startswith(("import ", "from "))]
    imported = {name.strip(" ,").partition(".")[0] for line in found for name in line.partition(" import ")[0].split()[1:]}
    assert imported <= {"base64", "hashlib", "itertools", "json", "re", "sys", "cryptography"}


def test_an_epoch_under_a_checkpoint_that_does_not_cover_it(folder):
    """In form `log`, which brings no paths: an older checkpoint in place of the head's own."""
    value, old = (canonical.decode(built(folder, claim, "log")[:-1]) for claim in (state(8.5), state(5)))
    heads = [{**value["heads"][0], "checkpoint": old["heads"][-1]["checkpoint"]}, value["heads"][1]]
    assert code(check, resum({**value, "heads": heads})) == "prove.invalid"


def test_the_standalone_verifier_runs_alone(kinds, tmp_path):
    import subprocess
    import sys

    alone = tmp_path / "stele_verify.py"
    alone.write_bytes(Path(stele_verify.__file__).read_bytes())
    (tmp_path / "shop.proof").write_bytes(kinds["state light"])
    (tmp_path / "trust.keys").write_bytes(trust_keys.encode(TRUST))
    argv = [sys.executable, "-I", str(alone), "shop.proof", "trust.keys"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "shop-bbbbbb" in done.stdout
    (tmp_path / "shop.proof").write_bytes(kinds["state light"].replace(b"shop-bbbbbb", b"shop-bbbbbc"))
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "prove.invalid" in done.stderr + done.stdout) == (1, True)


def test_other_trust_files(kinds):
    for text in (b"", b"stele-trust v0\n", trust_keys.encode(TRUST) + b"x", trust_keys.encode(TRUST) * 2):
        with pytest.raises(stele_verify.Refused):
            stele_verify.Proof(kinds["absent light"], text).verdict()
        with pytest.raises(SteleError):
            trust_keys.parse(text)
    assert other_says(kinds["absent light"], TRUST) != "prove.invalid"


# ---- files -------------------------------------------------------------------------------------------


def test_files_of_two_questions_have_two_names():
    at, later = "2026-03-01T12:00:00Z", "2026-03-01T12:00:00.5Z"
    questions = {
        "shop.proof": Question("shop"),
        "shop.at-20260301T120000Z.proof": Question("shop", at=at),
        "shop.at-20260301T120000.5Z.proof": Question("shop", at=later),
        "shop.between-20260301T120000Z-20260301T120000.5Z.proof": Question("shop", between=(at, later)),
        f"shop.never-ran-{'7' * 64}.proof": Question("shop", never_ran=NOWHERE),
        f"shop.never-ran-{'7' * 64}.at-20260301T120000Z.proof": Question("shop", at=at, never_ran=NOWHERE),
        "all.workloads.proof": Question(workloads=True),
        "workloads.proof": Question("workloads"),
        "..%2Fshop.proof": Question("../shop"),
    }
    assert {name: file_name(question) for name, question in questions.items()} == {name: name for name in questions}
