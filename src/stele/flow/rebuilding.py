"""Sealing a source again without keeping anything, and comparing what comes out with a release (docs/spec/release.md, Rebuilding)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from stele.flow import deltas, packing, whole_seal
from stele.flow.asked import read_spec
from stele.model import difference
from stele.model import spec as specs
from stele.model.release import LAYER_TYPES
from stele.seal import makers, settings
from stele.seal import release as releases
from stele.seal.sources import statcache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stele.flow.asked import Compression, Options
    from stele.model.difference import Difference
    from stele.model.reference import Reference
    from stele.model.release import Release
    from stele.store.layout import Layout

CONTENT = ("tree", "diff_ids", "config", "images", "verity roots")  # functions of content alone


class Rebuilt(NamedTuple):
    """What came out. `differs`: which of CONTENT are others; `manifest`: its digest, which depends on the codec, too.

    `why`: what explains a manifest that is another although nothing of CONTENT is; "" where it is the same. `difference`: of trees, specs.
    """

    release: Release
    manifest: str
    differs: tuple[str, ...]
    why: str
    difference: Difference | None
    took_ns: int

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return {
            "release": self.release.digest,
            "rebuilt": self.manifest,
            "same": not self.differs,
            "differs": list(self.differs),
            "why": self.why,
            "took_ns": self.took_ns,
        }


def rebuild(store: Layout, name: str, source: Path | Reference, spec_file: Path, options: Options, say: Callable[[str], None]) -> Rebuilt:
    """Seal a source as a release was, and compare. Nothing is kept, signed or recorded; no cache is believed.

    Args:
        store: has the release.
        name: of the release; its signature must hold.
        source: what it is said to be made from.
        spec_file: `stele.yaml`; its folder is where settings' sources lie.
        options: how to read the source; its compression does not count, the release says it.
        say: told of each step.

    Raises:
        SteleError: `store.*`, `spec.*`, `seal.*`, `registry.*`.
    """
    begun = time.monotonic_ns()
    release = store.release(name)
    spec = specs.parse_yaml(read_spec(spec_file))
    compression = next(key for key, kind in LAYER_TYPES.items() if kind == release.strata[0].layer.media_type)
    say(f"reading {source}")
    nowhere = packing.Nowhere()
    with makers.helpers() as hands, whole_seal.read(store, source, spec, options, statcache.StatCache(), nowhere.draft, hands) as found:
        applied = settings.apply_settings(found.tree, found.contents, spec, spec_file.parent)
        say(f"sealing {len(applied.tree)} paths again")
        made = releases.seal(
            applied.tree,
            applied.contents,
            spec,
            nowhere,
            compression=cast("Compression", compression),
            platform=found.platform or releases.platform_of(applied.tree, applied.contents),
            hands=hands,
        ).release
    differs = _differs(release, made)
    told = None
    if differs:
        say("looking for what differs")
        with deltas.opened(store, release) as side:
            told = difference.compare(release, side.tree, made, applied.tree)
    why = "" if differs or made.digest == release.digest else explain(release.codec, made.codec)
    return Rebuilt(release, made.digest, differs, why, told, time.monotonic_ns() - begun)


def _differs(release: Release, made: Release) -> tuple[str, ...]:
    pairs = (
        (release.tree_digest, made.tree_digest),
        ([s.diff_id for s in release.strata], [s.diff_id for s in made.strata]),
        (release.config_digest, made.config_digest),
        ([s.image for s in release.strata], [s.image for s in made.strata]),
        ([s.verity_root for s in release.strata], [s.verity_root for s in made.strata]),
    )
    return tuple(what for what, (old, new) in zip(CONTENT, pairs, strict=True) if old != new)


def explain(theirs: str, ours: str) -> str:
    """Why layers with the same content have other digests: what compressed them. Pure."""
    if theirs == ours:
        return f"the manifest says the same codec ({ours}) and other layers: whoever sealed it compressed them otherwise than it says"
    return (
        f"its layers were compressed by {theirs or 'a codec that it does not name'}, these by {ours}: "
        "what is in them is the same, and the digest of the manifest is not"
    )
