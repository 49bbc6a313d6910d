"""index.json: read as json reads it, decoded once while it says the same, and no more of it followed than can be about a release."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stele.flow import mending, repairing, storecheck
from stele.host import immutable
from stele.model.release import MANIFEST_TYPE, reference_name
from stele.seal import attest
from stele.seal.rebuild import LayerRebuilder
from stele.store import index as indexes
from stele.store.index import REF_NAME, SUBJECT, Index
from stele.store.layout import Layout
from stele.trust import canonical
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from tests.refusals import code
from tests.unit.test_packing import unrecorded
from tests.unit.test_store import put
from tests.unit.test_updates import KEY, seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stele.model.release import Release

BOM = "https://cyclonedx.org/bom"


class Counting(Layout):
    """A store that says which blobs it read."""

    def blob(self, digest: str, *limit: int) -> bytes:
        self.blobs_read.append(digest)
        return super().blob(digest, *limit)

    @property
    def blobs_read(self) -> list[str]:
        return self.__dict__.setdefault("_read_so_far", [])  # type: ignore[no-any-return]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "store"
    for path in tmp_path.glob("*/erofs/*"):
        immutable.make_mutable(path)


def opened(root: Path) -> Counting:
    return Counting(root, trusted=[KEY.public], rebuild=LayerRebuilder())


def version(store: Layout, number: int) -> Release:
    return seal(store, {b"app": b"version %d" % number})


def entries(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((root / "index.json").read_bytes())["manifests"]
    return found


def write(root: Path, found: list[dict[str, Any]]) -> None:
    (root / "index.json").write_bytes(indexes.encoded(found))


def changed(root: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Every entry in turn as `change` has it; None: it goes."""
    write(root, [new for new in map(change, entries(root)) if new is not None])


def tag_of(entry: dict[str, Any]) -> str:
    return str(entry.get("annotations", {}).get(REF_NAME, ""))


def without_lists(release: Release) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """Leave out both documents that lead to a release's signatures, but for untagged entries."""
    gone = {indexes.referrers_tag(release.digest), indexes.signatures_tag(release.digest)}
    return lambda entry: None if tag_of(entry) in gone else entry


def noted(entry: dict[str, Any], **notes: Any) -> dict[str, Any]:
    """An untagged entry with other annotations; None: it has none of that name."""
    if tag_of(entry):
        return entry
    named = {key.replace("_", "."): value for key, value in notes.items()}
    return {**entry, "annotations": {key: value for key, value in {**entry["annotations"], **named}.items() if value is not None}}


# what is read


def test_what_a_signature_check_reads_does_not_grow_with_other_releases(root: Path) -> None:
    version(opened(root), 0)
    cost = []
    for others in (1, 9):
        for number in range(others):
            version(opened(root), 10 * others + number)
        release = version(opened(root), 0)
        store = opened(root)
        store.release(release.digest)
        store.attestations(release.digest, BOM)
        store.signing_keys(release.digest)
        store.evidence(release.digest)
        cost.append(len(store.blobs_read))
        named = {release.digest, release.config_digest, *(item.descriptor.digest for item in store.referrers(release.digest))}
        named |= {store._visible.read().tagged(indexes.referrers_tag(release.digest))["digest"]}  # type: ignore[index]
        assert named <= set(store.blobs_read)
    assert cost[0] == cost[1]


def test_a_workloads_name_leads_to_its_release_without_those_of_others(root: Path) -> None:
    store = opened(root)
    wanted = put(store, name="ours", key=KEY)
    for number in range(5):
        version(store, number)
    for name in ("ours", reference_name("ours", wanted.digest)):
        store = opened(root)
        assert store.find(name) == wanted
        assert set(store.blobs_read) == {wanted.digest, wanted.config_digest}
    store = opened(root)
    assert code(store.find, "not-there") == "store.unknown-release"
    assert store.blobs_read == []


# hostile and other tools' entries


def test_an_entry_that_names_another_subject_is_not_found_and_never_believed(root: Path) -> None:
    store = opened(root)
    one, two = version(store, 1), version(store, 2)
    changed(root, without_lists(one))
    assert store.check_signature(one.digest).form == "bundle"  # by its untagged entries alone
    changed(root, lambda entry: noted(entry, dev_stele_subject=two.digest))
    assert code(store.check_signature, one.digest) == "store.unsigned"
    assert code(store.attestations, one.digest, BOM) == "store.unsigned"
    assert store.check_signature(two.digest)
    # the other's, said to be about this one, whose own are gone
    changed(root, lambda entry: noted(entry, dev_stele_subject=one.digest))
    own = {item["digest"] for item in entries(root) if not tag_of(item)} - {item.descriptor.digest for item in store.referrers(two.digest)}
    changed(root, lambda entry: None if entry["digest"] in own else entry)
    assert any(entry["annotations"].get(SUBJECT) == one.digest for entry in entries(root))
    assert code(store.check_signature, one.digest) == "store.unsigned"


def test_an_entry_without_a_subject_is_read_as_ever(root: Path) -> None:
    store = opened(root)
    one, _ = version(store, 1), version(store, 2)
    changed(root, without_lists(one))
    changed(root, lambda entry: noted(entry, dev_stele_subject=None))
    assert opened(root).check_signature(one.digest).form == "bundle"


@pytest.mark.parametrize("said", ["", "another", 7, ["x"]])
def test_what_the_list_of_referrers_has_is_read_whatever_annotations_say(root: Path, said: Any) -> None:
    store = opened(root)
    one, two = version(store, 1), version(store, 2)
    lie = {"": "", "another": two.digest}.get(said, said) if isinstance(said, str) else said
    changed(root, lambda entry: noted(entry, dev_stele_subject=lie))
    changed(root, lambda entry: None if tag_of(entry) == indexes.signatures_tag(one.digest) else entry)
    assert opened(root).check_signature(one.digest).form == "bundle"
    # also where the list itself lies
    tag = indexes.referrers_tag(one.digest)
    plain = json.loads(store.tagged(tag) or b"")
    for item in plain["manifests"]:
        item["annotations"][SUBJECT] = lie
    listing = canonical.encode(plain)
    digest = store.put(listing)
    changed(root, lambda entry: {**entry, "digest": digest, "size": len(listing)} if tag_of(entry) == tag else entry)
    assert opened(root).check_signature(one.digest).form == "bundle"


def test_an_annotation_of_the_referrers_own_manifest_does_not_hide_it(root: Path) -> None:
    store = opened(root)
    one, two = version(store, 1), version(store, 2)
    made = attest.attest(one, BOM, b'{"by":"us"}', KEY, store)
    lying = type(made)(descriptor=made.descriptor, artifact_type=made.artifact_type, annotations={**made.annotations, SUBJECT: two.digest})
    store.refer(one, (lying,))
    [entry] = [entry for entry in entries(root) if entry["digest"] == made.descriptor.digest]
    assert entry["annotations"][SUBJECT] == one.digest
    assert store.attestations(one.digest, BOM) == [{"by": "us"}]
    assert check(root) == []


def test_a_release_said_to_be_another_workloads_is_not_found_by_its_name_and_told(root: Path) -> None:
    store = opened(root)
    older, newer = version(store, 1), version(store, 2)

    def lie(entry: dict[str, Any]) -> dict[str, Any]:
        return {**entry, "annotations": {**entry["annotations"], "dev.stele.workload": "b"}} if entry["digest"] == newer.digest else entry

    changed(root, lie)
    assert store.find(older.workload) == older
    assert code(store.find, "b") == "store.unknown-release"  # the annotation is not believed
    assert store.find(newer.digest) == newer
    assert any("otherwise than" in reason for reason in check(root))


# check and repair


def check(root: Path) -> list[str]:
    return [item.reason for item in storecheck.check(opened(root), {}, lambda _: None).problems]


def test_a_wrong_subject_is_told_and_repaired(root: Path) -> None:
    store = opened(root)
    one, two = version(store, 1), version(store, 2)
    before = (root / "index.json").read_bytes()
    assert check(root) == []
    changed(root, lambda entry: noted(entry, dev_stele_subject=two.digest))
    [*told] = check(root)
    assert told
    assert all(f"is said to refer to {two.digest[:19]}, and refers to {one.digest[:19]}" in reason for reason in told)
    with mending.Registries({}, (), plain_http=False) as registries:
        assert repairing.repair(opened(root), {}, registries, (), record=unrecorded, say=lambda _: None).left == ()
    assert sorted(map(str, entries(root))) == sorted(map(str, json.loads(before)["manifests"]))


def test_a_wrong_subject_is_told_where_no_list_has_the_entry(root: Path) -> None:
    store = opened(root)
    one, two = version(store, 1), version(store, 2)
    changed(root, without_lists(one))
    changed(root, lambda entry: noted(entry, dev_stele_subject=two.digest))
    assert any("is said to refer to" in reason for reason in check(root))


def test_entries_without_a_subject_are_no_problem(root: Path) -> None:
    version(opened(root), 1)
    changed(root, lambda entry: noted(entry, dev_stele_subject=None))
    assert check(root) == []


def test_what_refers_to_nothing_may_say_what_it_likes(root: Path) -> None:
    store = opened(root)
    one = version(store, 1)
    digest = store.put(b'{"config":{},"layers":[]}')
    foreign = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": 25, "artifactType": "x/y", "annotations": {SUBJECT: one.digest}}
    write(root, [*entries(root), foreign])
    assert check(root) == []
    assert store.check_signature(one.digest)


# one decoding


def test_the_same_bytes_are_decoded_once_and_what_was_written_is_known(root: Path) -> None:
    store = opened(root)
    version(store, 1)
    known = store._visible.read()
    assert store._visible.read() is known
    data = (root / "index.json").read_bytes()
    (root / "index.json").unlink()
    (root / "index.json").write_bytes(data)  # another file that says the same
    assert store._visible.read() is known
    assert list(Index.decode(data)) == list(known)


def test_what_another_process_publishes_between_two_reads_is_seen(root: Path) -> None:
    one, two = opened(root), opened(root)
    first = version(one, 1)
    assert two.releases() == [first]
    second = version(one, 2)
    assert two.releases() == [first, second]
    third = version(two, 3)  # on top of what it had not decoded itself
    assert one.releases() == [first, second, third]


def test_an_index_rewritten_in_place_within_one_tick_is_seen(root: Path) -> None:
    store = opened(root)
    version(store, 1)
    path = root / "index.json"
    before = path.stat()
    store.releases()
    data = path.read_bytes()
    with path.open("r+b") as file:  # as long as before, in the same file
        file.write(data.replace(b"dev.stele.workload", b"dev.stele.workloed"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat()[:3] == before[:3]
    assert b"workloed" in store._visible.read().encode()
    path.write_bytes(b"")
    assert code(store.releases) == "store.damaged"
    path.unlink()
    assert store.releases() == []


def test_what_skopeo_adds_is_seen_and_stays(root: Path, tmp_path: Path) -> None:
    store = opened(root)
    version(store, 1)
    subprocess.run(["umoci", "init", "--layout", str(tmp_path / "other")], check=True)
    subprocess.run(["umoci", "new", "--image", f"{tmp_path / 'other'}:base"], check=True)
    subprocess.run(["skopeo", "copy", "-q", f"oci:{tmp_path / 'other'}:base", f"oci:{root}:base"], check=True)
    assert store.tagged("base")
    subjects = {entry["digest"]: entry["annotations"].get(SUBJECT) for entry in entries(root) if not tag_of(entry)}
    assert set(subjects.values()) == {store.releases()[0].digest}  # skopeo left them as they were
    version(store, 2)
    assert store.tagged("base")


def test_nobody_alters_what_was_decoded(root: Path, tmp_path: Path) -> None:
    store = opened(root)
    one = version(store, 1)

    def same() -> None:
        data, index = store._visible._known or (b"", Index())
        assert list(index) == list(Index.decode(data))
        assert index.encode() == data

    version(store, 2)
    same()
    made = attest.attest(one, BOM, b"{}", KEY, store)
    store.refer(one, (made,))
    same()
    for use in (
        store.releases,
        lambda: store.release(one.digest),
        lambda: store.evidence(one.digest),
        lambda: store.attestations(one.digest, BOM),
        lambda: store.referrers(one.digest),
        lambda: check(root),
        store.foreign_layers,
        lambda: version(store, 1),
    ):
        use()
        same()
    store.unrefer(one.digest, {made.descriptor.digest})
    same()
    assert made.descriptor.digest not in {item["digest"] for item in entries(root)}


def test_an_entry_that_is_no_object_is_damage(root: Path) -> None:
    store = opened(root)
    version(store, 1)
    (root / "index.json").write_text('{"manifests": [1]}')
    assert code(store.releases) == "store.damaged"
    assert check(root)


@pytest.mark.parametrize("wrong", [{"digest": []}, {"digest": 7}, {"size": "1"}, {"size": None}, {"size": -1}, {"digest": "sha256:x"}])
def test_an_entry_that_is_no_descriptor_is_damage_where_it_may_be_a_release(root: Path, wrong: dict[str, Any]) -> None:
    store = opened(root)
    one = version(store, 1)
    entry = {"mediaType": MANIFEST_TYPE, "digest": one.digest, "size": 1, **wrong}
    write(root, [*entries(root), {**entry, "artifactType": "x/y"}])
    version(store, 2)  # another tool's, which stays as it is
    assert {**entry, "artifactType": "x/y"} in entries(root)
    write(root, [*entries(root), entry])
    assert code(store.releases) == "store.damaged"


@pytest.mark.parametrize(
    ("text", "tag", "subject"),
    [
        ('{"annotations": {"%s": "a"}, "annotations": {"%s": "b"}}', None, "b"),
        ('{"annotations": {"%s": "a", "%s": "b"}, "annotations": {}}', None, ""),
        ('{"annotations": {"x%s": "a", "dev\\u002estele\\u002esubject": "b", "x%s": ""}}', None, "b"),
        ('{"annotations": {"%s": "a", "%s": "b", "dev.stele.subject": "c"}}', "a", ""),
    ],
)
def test_what_a_hostile_spelling_says_is_what_json_makes_of_it(text: str, tag: str | None, subject: str) -> None:
    """Also within a file that is spelled as ours is but for that entry."""
    entry = text % (REF_NAME, SUBJECT)
    data = Index.of([{"x": 1}]).encode().replace(b'{\n   "x": 1\n  }', entry.encode())
    assert entry.encode() in data
    index = Index.decode(data)
    assert list(index) == [(tag, json.loads(data)["manifests"][0])]
    for name in ("a", "b", "c"):
        assert bool(index.about(name)) == (tag is None and subject in {"", name})
    assert index.encode() == data


# as json has it

_KEYS = st.sampled_from(["manifests", "layers", "a", "\u20ac", "\x7f"]) | st.text(max_size=3)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)
_PIECES = [
    *"{}[]:,",
    *('"a"', '"a":', '"manifests":', '"manifests":[]', "null", "true"),
    *("NaN", "-Infinity", "Infinity", "1", "-0", "01", "1.", "1e400", "1e5"),
    *('"\\ud800"', '"\\udc00"', '"\\ud83d\\ude00"', '"\\udc00\\ud800"', '"\\u0000"', '"\\/"'),
    *('"\\x"', '"\t"', '"\x7f"', '"\u20ac"', '"\ud800"'),
    *(" ", "\n", "\x0c", "\ufeff", "\x00", "18446744073709551616", "9" * 5000, "-9223372036854775809", "nul", "'a'", "//"),
]
_TEXTS = st.lists(st.sampled_from(_PIECES), max_size=9).map("".join) | st.builds(
    json.dumps, st.dictionaries(_KEYS, _VALUES, max_size=4), ensure_ascii=st.booleans(), indent=st.sampled_from([None, 1])
)


@st.composite
def spelled(draw: st.DrawFn) -> bytes:
    text = draw(_TEXTS)
    if draw(st.booleans()):
        text = '{"manifests":[' + text + "]}"
    data = text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])), "surrogatepass")
    if draw(st.integers(0, 3)) == 0 and data:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + draw(st.binary(max_size=2)) + data[at + 1 :]
    return data


def as_json_has_it(data: bytes) -> Any:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not all(isinstance(value.get(key, []), list) for key in ("manifests", "layers")):
        return None
    return value


@given(spelled() | st.binary(max_size=12))
@example(b'{"manifests":[],"manifests":[1]}')
@example(b'{"manifests":{},"manifests":[]}')
@example(b'{"a":1,"a":{"b":NaN}}')
@example(b'{"a":"\xed\xa0\x80"}')
@example(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
@example(b'{"a":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}")
@example(b'{"a":' + b"9" * 4301 + b"}")
@example(b'{"a":-0,"b":-0.0,"c":1e400,"d":1E5}')
def test_what_is_accepted_is_what_json_accepts_and_means_the_same(data: bytes) -> None:
    wanted = as_json_has_it(data)
    try:
        found = indexes.decode(data, "it")
    except SteleError as error:
        assert error.code == "store.damaged"
        found = None
    assert repr(found) == repr(wanted)  # also NaN, -0.0 and the order of keys


@given(st.dictionaries(_KEYS, st.lists(st.dictionaries(_KEYS, _VALUES, max_size=4), max_size=3), max_size=2))
@example({"manifests": [{"a": 2**64, "b": -(2**63) - 1, "c": "\x7f", "\x80": "\x00\x1f\b\f", "d": 1e16, "e": float("nan")}]})
@example({"manifests": [{"annotations": {"b": "1", "a": '2"\\/'}, "size": 2**63, "digest": "x", "empty": [{}, []]}]})
def test_what_is_written_is_what_json_writes(value: dict[str, Any]) -> None:
    data = json.dumps(value).encode()
    index = Index.decode(data)
    whole = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": value.get("manifests", [])}
    assert index.encode() == json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n"
    assert repr(list(Index.decode(index.encode()))) == repr(list(Index.decode(json.dumps(whole, sort_keys=True).encode())))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "t", "u", 7]),
            st.sampled_from([None, "x", "y", 7, "\u20ac"]),
            st.sampled_from([None, "shop", 7]),
            st.sampled_from([MANIFEST_TYPE, "other", None]),
            st.sampled_from(["", "kind", None, 1.5]),
        ),
        max_size=9,
    ),
    st.booleans(),
)
def test_looking_up_is_as_going_through_all_in_order(made: list[tuple[Any, ...]], with_nulls: bool) -> None:
    found: list[dict[str, Any]] = []
    for number, (tag, subject, workload, media_type, kind) in enumerate(made):
        notes = {REF_NAME: tag, SUBJECT: subject, "dev.stele.workload": workload}
        notes = {key: value for key, value in notes.items() if value is not None or with_nulls}
        entry = {"digest": sha256(b"%d" % number), "size": 1, "mediaType": media_type or MANIFEST_TYPE, "annotations": notes}
        found.append(entry | ({} if kind is None else {"artifactType": kind}))

    def noted(entry: dict[str, Any], key: str) -> str | None:
        value = entry["annotations"].get(key)
        return None if value is None else str(value)

    whole = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": found}
    spellings = [json.dumps(whole), json.dumps(whole, indent=1, sort_keys=True) + "\n"]
    for index in (Index.of(found), *(Index.decode(text.encode()) for text in spellings)):
        assert [entry for _, entry in index] == found
        assert [tag for tag, _ in index] == [noted(entry, REF_NAME) for entry in found]
        for name in ("t", "u", "7", "v"):
            assert index.tagged(name) == next((item for item in reversed(found) if noted(item, REF_NAME) == name), None)
        for subject in ("x", "7", "w"):
            untagged = [item for item in found if noted(item, REF_NAME) is None]
            assert index.about(subject) == [item for item in untagged if noted(item, SUBJECT) in {None, subject}]
        images = [item for item in found if item["mediaType"] == MANIFEST_TYPE and not item.get("artifactType")]
        assert list(index.images().values()) == images
        assert list(index.image_digests) == [item["digest"] for item in images]
        for name in ("shop", "t", "other"):
            wanted = [item for item in images if noted(item, "dev.stele.workload") in {None, name} or noted(item, REF_NAME) == name]
            assert index.named(name) == [item["digest"] for item in wanted]
