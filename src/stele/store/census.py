"""What belongs to what in a store: every file that something names, by release, with its role (docs/spec/store.md, Checking).

Reads index.json and the documents that it leads to, each checked against its digest; contents are left to `checking`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from stele.model.release import ANNOTATION_WORKLOAD, DELTA_TYPE, INDEX_TYPE, MANIFEST_TYPE, reference_name
from stele.store import index as indexes
from stele.trust.digest import digest_hex
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.model.release import Release
    from stele.store.index import Index, Plain
    from stele.store.layout import Layout

Role = Literal["manifest", "config", "tree", "layer", "image", "referrers", "referrer", "attached", "delta", "signatures", "foreign"]
Form = Literal["manifest", "blob", "image"]
NESTING = 16  # of other tools' indexes


def image_path(digest: str) -> str:
    """Where an image lies, below the store's folder."""
    return f"erofs/{digest_hex(digest)}.erofs"


def blob_path(digest: str) -> str:
    """Where a blob lies, below the store's folder."""
    return f"blobs/sha256/{digest_hex(digest)}"


class Part(NamedTuple):
    """A file that something names. `size`: bytes, -1 where nobody says. `form`: how a registry has it. `stratum`: of which."""

    digest: str
    size: int
    role: Role
    form: Form = "blob"
    stratum: str = ""

    @property
    def path(self) -> str:
        """Where it lies, below the store's folder."""
        return image_path(self.digest) if self.form == "image" else blob_path(self.digest)


class Holding(NamedTuple):
    """One image of the store. `release`: None if it is another tool's, or cannot be read. `wrong`: what cannot be read, and why."""

    digest: str
    release: Release | None
    parts: tuple[Part, ...]
    wrong: tuple[str, ...] = ()


class Census(NamedTuple):
    """All that index.json leads to, releases in order.

    `others`: what no release needs. `broken`: why index.json cannot be relied on. `odd`: entries that Stele would have written
    otherwise; they do no harm.
    """

    holdings: tuple[Holding, ...]
    others: tuple[Part, ...]
    broken: tuple[str, ...]
    odd: tuple[str, ...]

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Every part, with the digest of the image that needs it ("" for those of none)."""
        for holding in self.holdings:
            for part in holding.parts:
                yield holding.digest, part
        for part in self.others:
            yield "", part


def take(store: Layout) -> Census:
    """The census of a store. What is damaged is told in it; nothing is raised but what `OSError` there is."""
    has_blobs = any((store.root / "blobs" / "sha256").glob("*"))
    try:
        data = (store.root / "index.json").read_bytes()
        index = indexes.Index.decode(data)
        entries = [entry for _, entry in index]
        for entry in entries:
            indexes.descriptor(entry)
        if has_blobs and not entries and "manifests" not in indexes.decode(data, "index.json"):
            return Census((), (), ("it has no list of manifests",), ())
    except FileNotFoundError:
        return Census((), (), ("it is missing",) if has_blobs else (), ())
    except SteleError as error:
        return Census((), (), (error.reason.partition(": ")[2] or error.reason,), ())
    return _Taker(store, index).census()


class _Taker:
    def __init__(self, store: Layout, index: Index) -> None:
        self._store = store
        self._index = index
        self._claimed: set[str] = set()  # what entries of index.json are for
        self._listed: dict[str, tuple[str, Plain]] = {}  # referrers: to what, and as its list has them
        self._broken: list[str] = []
        self._odd: list[str] = []

    def census(self) -> Census:
        entries = self._index.images()
        holdings = [self._holding(digest, entry) for digest, entry in entries.items()]
        others: list[Part] = []
        for tag, entry in self._index:
            named = indexes.descriptor(entry)
            if tag is None:
                self._untagged(named.digest, entry)
            if named.digest in self._claimed:
                continue
            if ANNOTATION_WORKLOAD in indexes.annotations_of(entry):
                self._broken.append(f"its entry {named.digest[:19]} is a release's, and is not said to be one")
            elif (tag or "").startswith("sha256-") or (not tag and entry.get("artifactType")):
                self._odd.append(f"its entry {tag or named.digest[:19]} belongs to no release here")
            others += self._walk(Part(named.digest, named.size, "foreign", "manifest"), [])
        return Census(tuple(holdings), tuple(others), tuple(self._broken), tuple(self._odd))

    def _holding(self, digest: str, entry: Plain) -> Holding:
        wrong: list[str] = []
        self._claimed.add(digest)
        named = indexes.descriptor(entry)
        top = Part(digest, named.size, "manifest", "manifest")
        release: Release | None = None
        try:
            release = self._store.find(digest)
            self._compare(entry, release)
            parts = [top, *_of_release(release)]
        except SteleError as error:
            if error.code != "release.malformed" or ANNOTATION_WORKLOAD in indexes.annotations_of(entry):
                if error.code != "store.damaged":  # else the file that is lost is named itself
                    wrong.append(error.reason)
                parts = [top, *_of_manifest(self._read(top, wrong))]
            else:  # another tool's image
                parts = list(self._walk(top, wrong))
        parts += self._about(digest, wrong)
        return Holding(digest, release, tuple(dict.fromkeys(parts)), tuple(wrong))

    def _untagged(self, digest: str, entry: Plain) -> None:
        """Whether an entry is as the list of referrers has it, and refers to what it says."""
        notes = dict(indexes.annotations_of(entry))
        said = notes.pop(indexes.SUBJECT, None)
        if digest in self._listed:
            subject, item = self._listed[digest]
            listed = indexes.annotations_of(item)
            listed.pop(indexes.SUBJECT, None)
            if {**entry, "annotations": notes} != {**item, "annotations": listed}:
                self._broken.append(f"its entry {digest[:19]} is not what the list of referrers has")
        elif said is not None:
            told = self._read(Part(digest, -1, "foreign"), []).get("subject")
            subject = str(told.get("digest")) if isinstance(told, dict) else ""
        if said is not None and subject not in {"", said}:
            self._broken.append(f"its entry {digest[:19]} is said to refer to {said[:19]}, and refers to {subject[:19]}")

    def _compare(self, entry: Plain, release: Release) -> None:
        name = reference_name(release.workload, release.digest)
        wanted = {indexes.REF_NAME: name, ANNOTATION_WORKLOAD: release.workload, **indexes.IMAGE_KIND}
        if entry.get("size") != release.manifest_size:
            self._broken.append(f"it says a wrong size of {release.digest[:19]}")
        found = indexes.annotations_of(entry)
        if found != wanted:
            ours = any(found.get(key) == value for key, value in wanted.items())
            (self._broken if ours else self._odd).append(f"it calls the release {release.digest[:19]} otherwise than {name}")
            return
        for tag in (indexes.referrers_tag(release.digest), indexes.signatures_tag(release.digest)):
            if self._index.tagged(tag) is None:  # Stele writes all three together
                self._broken.append(f"it lacks {tag[:24]}, which comes with every release")

    def _about(self, digest: str, wrong: list[str]) -> Iterator[Part]:
        """What refers to an image: the lists under its tags, and what they list."""
        for tag, role, kind in (
            (indexes.referrers_tag(digest), "referrers", INDEX_TYPE),
            (indexes.signatures_tag(digest), "signatures", MANIFEST_TYPE),
        ):
            entry = self._index.tagged(tag)
            if entry is None:
                continue
            named = indexes.descriptor(entry)
            self._claimed.add(named.digest)
            if set(entry) - {"mediaType", "digest", "size", "annotations"} or entry.get("mediaType") != kind:
                self._broken.append(f"its entry {tag[:24]} has something else than it should")
            part = Part(named.digest, named.size, role, "manifest")  # type: ignore[arg-type]
            yield part
            plain = self._read(part, wrong)
            if role == "signatures":
                yield from _blobs(plain, "signatures")
                continue
            for item in plain.get("manifests", []):
                yield from self._referrer(digest, item, wrong)

    def _referrer(self, subject: str, item: Plain, wrong: list[str]) -> Iterator[Part]:
        try:
            listed = indexes.referrer(item)
        except SteleError as error:
            wrong.append(error.reason)
            return
        named = listed.descriptor
        self._claimed.add(named.digest)
        part = Part(named.digest, named.size, "referrer", "manifest")
        yield part
        plain = self._read(part, wrong)
        told = plain.get("subject")
        if not plain or (isinstance(told, dict) and told.get("digest") == subject):
            self._listed.setdefault(named.digest, (subject, item))
        else:
            wrong.append(f"{named.digest[:19]} is listed for {subject[:19]}, but refers to something else")
        yield from _blobs(plain, "delta" if listed.artifact_type == DELTA_TYPE else "attached")

    def _walk(self, part: Part, wrong: list[str], depth: int = 0) -> Iterator[Part]:
        """An image or index of another tool, and all that it names."""
        yield part
        plain = self._read(part, wrong)
        yield from _blobs(plain, "foreign")
        for item in plain.get("manifests", []) if depth < NESTING else []:
            try:
                named = indexes.descriptor(item)
            except SteleError as error:
                wrong.append(error.reason)
                continue
            yield from self._walk(Part(named.digest, named.size, "foreign", "manifest"), wrong, depth + 1)

    def _read(self, part: Part, wrong: list[str]) -> dict[str, Any]:
        """A document, decoded; nothing where its bytes are not whole, which whoever hashes them says."""
        try:
            data = self._store.blob(part.digest)
        except SteleError:
            return {}
        if part.size not in {-1, len(data)}:
            self._broken.append(f"it says a wrong size of {part.digest[:19]}")
        try:
            return indexes.decode(data, part.digest[:19])
        except SteleError as error:
            wrong.append(error.reason)
            return {}


def _of_release(release: Release) -> Iterator[Part]:
    yield Part(release.config_digest, -1, "config")
    yield Part(release.tree_digest, -1, "tree")
    for stratum in release.strata:
        yield Part(stratum.layer.digest, stratum.layer.size, "layer", stratum=stratum.name)
        yield Part(stratum.image, stratum.image_size, "image", "image", stratum.name)


def _of_manifest(plain: Plain) -> Iterator[Part]:
    """What a release's manifest names, where its config is lost."""
    config = [part._replace(role="config") for part in _blobs({"config": plain.get("config")}, "foreign")]
    yield from config
    yield from _blobs({"layers": plain.get("layers", [])}, "layer")


def _blobs(plain: Plain, role: Role) -> Iterator[Part]:
    """Config and layers of a manifest that is read; those that are not descriptors are passed over."""
    others = plain.get("blobs")  # of an artifact manifest, which OCI had before 1.1
    for item in [plain.get("config"), *plain.get("layers", []), *(others if isinstance(others, list) else [])]:
        try:
            named = indexes.descriptor(item)
        except SteleError:
            continue
        yield Part(named.digest, named.size, "attached" if item is plain.get("config") and role == "delta" else role)
