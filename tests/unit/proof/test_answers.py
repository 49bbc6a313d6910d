"""What proofs say is what was logged, and what a verdict says is what was checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stele.flow.proving import Question, file_name
from stele.ledger.mapfile import remove
from stele.ledger.openings import Openings
from stele.model import facts
from stele.model import history as histories
from stele.prove import shape
from stele.trust import canonical, trust_keys
from stele.trust.errors import SteleError
from tests.ledgers import SECOND, START, event
from tests.proofs import FORMS, HISTORY, NOWHERE, ONE, TWO, built, check, everything, history, never, resum, state, t, written
from tests.refusals import code

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "proof.json").read_text())
HALVES = [number / 2 for number in range(51)]
NONE = facts.NONE.plain()


@pytest.mark.parametrize("vector", VECTORS["proofs"], ids=lambda vector: vector["why"])
def test_vectors(vector):
    trust = trust_keys.parse(vector.get("trust", VECTORS["trust"]).encode())
    if vector["code"]:
        assert code(check, vector["proof"].encode(), trust) == vector["code"]
    else:
        assert check(vector["proof"].encode(), trust).answer == vector["answer"]


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
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    remove(copied)
    for claim in (state(8.5), history(3.5, 8.5), never(NOWHERE, 3), everything(8.5)):
        assert built(copied, claim) == built(folder, claim)


def test_a_checkpoint_that_was_not_kept_is_replaced_by_the_next(folder, tmp_path):
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
    for claim in (never(NOWHERE, 4, "\u0455hop\n"), state(4, "\u0455hop\n")):  # a letter that looks like another
        assert all(line.isascii() and line.isprintable() for line in check(built(made, claim)).says)


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
        item = next(item for item in value["entries"] if item["openings"])
        person, reason = item["openings"]["person"], item["openings"]["reason"]
        for wrong in (
            {"person": {**person, "value": "bob"}},
            {"person": {**person, "salt": reason["salt"]}},
            {"reason": person},
            {"person": reason},
            {"nobody": person},
            {"": person},
        ):
            item["openings"] = wrong
            assert code(check, resum(value)) == "prove.invalid"
        item["openings"] = {"reason": reason}
        assert check(resum(value)).opened[0]["field"] == "reason"
        other = next(other for other in value["entries"] if other is not item)
        item["openings"], other["openings"] = {}, {"reason": reason}
        assert code(check, resum(value)) == "prove.invalid"
        other["openings"], value["heads"][0]["epoch"]["openings"] = {}, {"reason": reason}
        assert code(check, resum(value)) == "prove.invalid"


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
