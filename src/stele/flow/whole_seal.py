"""The whole way of sealing: everything is looked at; of files, all that the stat cache does not know."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stele.flow import accompany, attesting, caches, opening
from stele.model import spec as specs
from stele.model.reference import Reference
from stele.model.tree import quote
from stele.seal import codec, command, makers, settings, sources
from stele.seal import release as releases
from stele.seal.again import last as last_seals
from stele.seal.noted import Noted
from stele.seal.sign import sign
from stele.seal.sources import statcache
from stele.seal.sources.source import Limits, refuse_unused
from stele.store import reuse, taking_back

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.flow.asked import Asked, Compression, Options, SourceKind, Way
    from stele.flow.places import Places
    from stele.model.ports import Draft
    from stele.model.release import Release
    from stele.model.spec import Spec
    from stele.model.tree import Tree
    from stele.seal.hands import Hands
    from stele.seal.release import Sealed
    from stele.seal.sources.source import Source
    from stele.store.layout import Layout


def seal(places: Places, asked: Asked, way: Way) -> tuple[Release, dict[str, Any]]:
    """Seal a source; returns the release and what to tell of it. See `sealing.seal`.

    Raises:
        SteleError: `spec.*`, `seal.*`, `registry.*`, `store.*`, `ledger.*`.
    """
    spec = specs.parse_yaml(asked.spec)
    store = opening.open_store(places)
    source = asked.source
    known = caches.read(places, source, caches.STATES) if isinstance(source, Path) and not way.options.paranoid else None
    cache = statcache.decode(known or b"")
    with store.adding():
        sealed, told, last = _make(places, store, asked, spec, way, cache)
    if cache.recorded and isinstance(source, Path):
        caches.keep(places, source, caches.STATES, cache.encode(way.begun_ns))
        if last is not None:
            made = last(hashlib.sha256(asked.spec).hexdigest())
            caches.keep(places, source, caches.LAST, last_seals.encode(made))
    return sealed.release, told


def _make(
    places: Places,
    store: Layout,
    asked: Asked,
    spec: Spec,
    way: Way,
    cache: statcache.StatCache,
) -> tuple[Sealed, dict[str, Any], Callable[[str], last_seals.LastSeal] | None]:
    """Read, examine, make, sign and publish; returns the release, what to tell of it, and what to keep for the next seal."""
    source, options, say = asked.source, way.options, way.say
    say(f"reading {source}")
    packing = cast("Compression", options.compression)
    same = {} if options.paranoid else reuse.strata(store, source if isinstance(source, str) else spec.name, codec.codec_name(packing))
    with makers.helpers() as hands, read(store, source, spec, options, cache, store.partial, hands) as found:
        applied = settings.apply_settings(found.tree, found.contents, spec, asked.spec_file.parent)
        noted = Noted(applied.contents)
        examined = accompany.examine(places, applied.tree, applied.contents, noted, spec)
        say(f"sealing {len(applied.tree)} paths")
        aside = _Aside(cache, way.begun_ns, found, applied, noted, examined, spec)
        sealed = releases.seal(
            applied.tree,
            applied.contents,
            spec,
            store,
            compression=packing,
            platform=found.platform or releases.platform_of(applied.tree, noted),
            reuse=same,
            known=examined.packages,
            meanwhile=aside.make,
            hands=hands,
        )
        came_from = _from(found)
        made_from = attesting.materials(asked, came_from, [item.source for item in spec.settings if item.source], sealed.release)
    say("signing")
    new = attesting.attach(
        sealed.release, came_from, asked,
        store=store, key=way.key, bom=aside.bom, made_from=made_from, looked=accompany.looked(examined.report), now=int(time.time()),
    )  # fmt: skip
    with taking_back.published(store, sign(sealed._replace(referrers=(*sealed.referrers, *new)), way.key, store)):
        way.record(sealed.release)
    told = {
        "paths": len(applied.tree),
        "bytes": applied.tree.bytes_total(),
        **accompany.plain(examined),
        "provenance": attesting.commit_of(made_from),
        "notes": [*found.notes, *examined.notes],
        "warnings": command.warnings(applied.tree, spec),
    }
    if found.kind != "folder" or not cache.folders:
        return sealed, told, None

    def last(spec_digest: str) -> last_seals.LastSeal:
        return _last(cache, aside, applied, sealed, packing, spec, spec_digest, told)

    return sealed, told, last


def _from(found: Source) -> attesting.From:
    nodes = found.tree.nodes
    return attesting.From(
        kind=found.kind,
        names=lambda: [node.path for node in nodes if node.kind in {"file", "symlink"}],
        reference=found.reference,
        input_digest=found.input_digest,
        inputs=found.inputs,
    )


class _Aside:
    """What is made while others make the strata: the SBOM, and what the next seal of a folder may rely on."""

    def __init__(
        self, cache: statcache.StatCache, begun_ns: int, found: Source, applied: settings.Applied, noted: Noted,
        examined: accompany.Examined, spec: Spec,
    ) -> None:  # fmt: skip
        self._cache, self._begun_ns, self._found, self._applied = cache, begun_ns, found, applied
        self._noted, self._examined, self._spec = noted, examined, spec
        self.bom = b""
        self.columns: dict[str, Any] = {}

    def make(self, begun: releases.Begun) -> None:
        """Make both."""
        opening.prepare()
        tree, report = self._applied.tree, self._examined.report
        self.bom = accompany.bill(begun, tree, self._noted, self._spec)
        if self._found.kind != "folder" or not self._cache.folders:
            return
        shown = {item.place for item in (*report.told, *report.allowed)}
        seen = last_seals.Seen(
            folders=self._cache.folders,
            begun_ns=self._begun_ns,
            source=self._found.tree,
            tree=tree,
            encoded=begun.encoded,
            cut=begun.cut,
            read=self._noted.read_digests,
            owned={path for package in begun.packages for path in (*package.paths, *package.database)},
            places={node.path for node in tree.nodes if "/" + quote(node.path)[:500] in shown} if shown else set(),
        )
        self.columns = last_seals.columns(seen)


def _last(
    cache: statcache.StatCache, aside: _Aside, applied: settings.Applied, sealed: Sealed, packing: Compression, spec: Spec,
    spec_digest: str, told: dict[str, Any],
) -> last_seals.LastSeal:  # fmt: skip
    """What the next seal of this folder may rely on."""
    return last_seals.LastSeal(
        made_with=last_seals.made_with(codec.codec_name(packing)),
        release=sealed.release.digest,
        spec=spec_digest,
        sources=[(setting.source, _digest(applied.tree, setting.path)) for setting in spec.settings if setting.source],
        owner=cache.owner,
        bom=aside.bom,
        told=last_seals.Told(
            packages=len(sealed.packages),
            paths=told["paths"],
            bytes=told["bytes"],
            findings=told["secrets"]["told"],
            allowed=told["secrets"]["allowed"],
            notes=told["notes"],
            warnings=told["warnings"],
        ),
        **aside.columns,
    )


def _digest(tree: Tree, path: str) -> str:
    node = tree.get(path.encode("utf-8", "surrogateescape")[1:])
    return node.sha256 if node else ""


def read(
    store: Layout,
    source: Path | Reference | str,
    spec: Spec,
    options: Options,
    cache: statcache.StatCache,
    keep: Callable[[str], Draft],
    hands: Hands | None = None,
) -> Source:
    """Read a source, whatever it is. `keep`: where a registry's blobs go. `hands`: help. Raises like their `load`s."""
    data = spec.kind == "dataset"
    built = {"build_network": options.network, "build_arg": options.arguments}
    if isinstance(source, str):
        from stele.flow import deltas  # nobody else needs these
        from stele.seal import from_release

        kind = options.kind != "auto"
        refuse_unused(
            "a release", **built, kind=kind, reference=options.reference, platform=options.platform, plain_http=options.plain_http
        )
        release = store.release(source)
        deltas.make_whole(store, release)
        return from_release.load(release, store.tree(release.digest), store, spec)
    if isinstance(source, Reference):
        from stele.seal.sources import registry  # nobody else needs HTTP

        refuse_unused("an image in a registry", **built, reference=options.reference)
        return registry.load(
            source, plain_http=options.plain_http, time=spec.time, limits=Limits(), keep=keep, platform=options.platform, data=data
        )
    refuse_unused("what is not in a registry", plain_http=options.plain_http)
    return sources.load(
        source,
        kind=cast("SourceKind", options.kind),
        reference=options.reference,
        time=spec.time,
        cache=cache,
        hands=hands,
        platform=options.platform,
        network=options.network,
        arguments=options.arguments,
        data=data,
    )
