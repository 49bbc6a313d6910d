"""Sealing: source → tree → release → signature → store → ledger."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from stele.flow import accompany, deltas, opening, signers, signing
from stele.flow.person import person
from stele.flow.record import Recorder
from stele.host import durable
from stele.model import reference as references
from stele.model import spec as specs
from stele.model.reference import Reference
from stele.seal import codec, from_release, settings, sources
from stele.seal import release as releases
from stele.seal.sign import sign
from stele.seal.sources import statcache
from stele.seal.sources.source import Limits
from stele.store import reuse
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.flow.places import Places
    from stele.flow.signers import Ask
    from stele.model.release import Release
    from stele.model.spec import Spec
    from stele.seal.release import Sealed
    from stele.seal.sources.source import Source
    from stele.store.layout import Layout
    from stele.trust.release_key import ReleaseSigner

SourceKind = Literal["auto", "folder", "docker-archive", "oci-layout", "root-tar", "debian", "containerfile"]
Compression = Literal["zstd", "gzip", "none"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to seal. `kind`, `reference`, `platform`, `network`, `arguments`: see `stele.seal.sources.load`.

    `plain_http`: no TLS to a registry. `compression`: of the layers. `paranoid`: read every file, make every stratum, whatever is known.
    `key`: what signs (see `signers.open_signer`).
    """

    kind: str = "auto"
    reference: str = ""
    platform: str = ""
    network: bool = False
    arguments: tuple[str, ...] = ()
    plain_http: bool = False
    compression: str = "zstd"
    paranoid: bool = False
    key: str = ""


def source_of(text: str, kind: str) -> Path | Reference:
    """What a person means: a path, or an image in a registry (`docker://…`, or where no such path is and it reads like one).

    Raises:
        SteleError: `registry.bad-reference`.
    """
    if kind == "registry" or text.startswith("docker://"):
        return references.parse(text.removeprefix("docker://"))
    if kind == "auto" and not os.path.lexists(text) and not text.startswith(("/", ".")):
        with contextlib.suppress(SteleError):
            return references.parse(text)
    return Path(text)


def seal(
    places: Places,
    source: Path | Reference | str,
    spec_file: Path,
    *,
    options: Options,
    say: Callable[[str], None],
    record: Callable[[Release], None],
    ask: Ask = signers.nobody,
) -> dict[str, Any]:
    """Seal a source; returns what a person wants to know of the release.

    Args:
        places: the data folder.
        source: what `options.kind` says, or an image in a registry; text names a release in the store, to be sealed with other settings.
        spec_file: `stele.yaml`; its folder is where settings' sources lie.
        options: how.
        say: told of each step.
        record: commits `release.sealed`; the release counts as sealed only then.
        ask: gives passphrases and PINs.

    Raises:
        SteleError: `spec.*`, `seal.*`, `registry.*`, `store.*`, `ledger.*`.
    """
    begun, begun_ns = time.monotonic_ns(), time.time_ns()
    asked = accompany.Asked(source, spec_file, options.compression, int(time.time()))
    spec = specs.parse_yaml(spec_file.read_bytes())
    key = signers.open_signer(places, options.key, ask)  # first: who cannot sign need not wait
    store = opening.open_store(places)
    cache = _stat_cache(places, source) if isinstance(source, Path) and not options.paranoid else statcache.StatCache()
    with store.adding():
        sealed, told = _make(places, store, asked, spec, options, cache, key, say)
    record(sealed.release)
    if cache.recorded and isinstance(source, Path):
        _keep_stat_cache(places, source, cache.encode(begun_ns))
    return {
        "workload": spec.name,
        "release": sealed.release.digest,
        "tree": sealed.release.tree_digest,
        "config": sealed.release.config_digest,
        "strata": [{"name": s.name, "diff_id": s.diff_id, "verity_root": s.verity_root} for s in sealed.release.strata],
        **told,
        "took_ns": time.monotonic_ns() - begun,
    }


def _make(
    places: Places,
    store: Layout,
    asked: accompany.Asked,
    spec: Spec,
    options: Options,
    cache: statcache.StatCache,
    key: ReleaseSigner,
    say: Callable[[str], None],
) -> tuple[Sealed, dict[str, Any]]:
    """Read, examine, make, sign and publish; returns the release, and what to tell of it."""
    source = asked.source
    say(f"reading {source}")
    packing = cast("Compression", options.compression)
    same = {} if options.paranoid else reuse.strata(store, source if isinstance(source, str) else spec.name, codec.codec_name(packing))
    with _read(store, source, spec, options, cache) as found:
        applied = settings.apply_settings(found.tree, found.contents, spec, asked.spec_file.parent)
        examined = accompany.examine(places, applied.tree, applied.contents, spec)
        say(f"sealing {len(applied.tree)} paths")
        sealed = releases.seal(
            applied.tree,
            applied.contents,
            spec,
            store,
            compression=packing,
            platform=found.platform,
            reuse=same,
            known=examined.packages,
        )
        bom = accompany.bill(sealed, applied.tree, applied.contents)
        made_from = accompany.materials(asked, found, spec, sealed.release)
    say("signing")
    attested = accompany.attach(examined, sealed, found, asked, store=store, key=key, bom=bom, made_from=made_from, now=int(time.time()))
    store.publish(sign(attested.sealed, key, store))
    told = {
        "paths": len(applied.tree),
        "bytes": applied.tree.bytes_total(),
        **accompany.plain(attested, examined),
        "notes": [*found.notes, *examined.notes],
    }
    return sealed, told


def _read(store: Layout, source: Path | Reference | str, spec: Spec, options: Options, cache: statcache.StatCache) -> Source:
    if isinstance(source, str):
        release = store.release(source)
        if store.unpack is not None and not deltas.is_whole(store, release):
            store.unpack.strata(release)
        return from_release.load(release, store.tree(release.digest), store, spec)
    if isinstance(source, Reference):
        from stele.seal.sources import registry  # nobody else needs HTTP

        return registry.load(source, plain_http=options.plain_http, time=spec.time, limits=Limits(), platform=options.platform)
    return sources.load(
        source,
        kind=cast("SourceKind", options.kind),
        reference=options.reference,
        time=spec.time,
        cache=cache,
        platform=options.platform,
        network=options.network,
        arguments=options.arguments,
    )


def _stat_cache_path(places: Places, source: Path) -> Path:
    return places.stat_caches / hashlib.sha256(os.fsencode(os.path.realpath(source))).hexdigest()


def _stat_cache(places: Places, source: Path) -> statcache.StatCache:
    """What is known of a source folder's files; only what this user wrote, and nobody else could, is believed."""
    try:
        fd = os.open(_stat_cache_path(places, source), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return statcache.StatCache()
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
            return statcache.StatCache()
        return statcache.decode(file.read())


def _keep_stat_cache(places: Places, source: Path, data: bytes) -> None:
    """Keep it for the next seal; that it cannot be kept is no harm."""
    with contextlib.suppress(OSError):
        durable.make_dirs(places.stat_caches, 0o700)
        durable.write(_stat_cache_path(places, source), data, mode=0o600)


def recorder(places: Places, ask_agent: Callable[[dict[str, Any]], object]) -> Callable[[Release], None]:
    """How to record a seal."""
    commit = event_recorder(places, ask_agent)

    def record(release: Release) -> None:
        keys = signing.keys_of(opening.open_store(places), release.digest)
        commit(release.workload, "release.sealed", release=release.digest, tree=release.tree_digest, keys=keys)

    return record


def event_recorder(places: Places, ask_agent: Callable[[dict[str, Any]], object]) -> Callable[..., None]:
    """How to record what was done with a release: in the ledger itself, or through the agent where one holds the ledger."""

    def record(workload: str, kind: str, /, **data: Any) -> None:
        try:
            ledger = opening.open_ledger(places)
        except SteleError as error:
            if error.code != "ledger.locked":
                raise
            ask_agent({"kind": kind, **data})
            return
        with contextlib.closing(ledger):
            Recorder(ledger.append, actor="operator", person=person(), clock=time.time_ns)(workload, kind, **data)

    return record
