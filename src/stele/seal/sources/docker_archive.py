"""A docker archive as source: what `docker save` (old and new) and `podman save` write; manifest.json says what is where."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from stele.seal.inode import Notes
from stele.seal.sources.image import Config, Image, Layer, ambiguous, check_platform, flatten, mismatch, parse, platform_of, read_small
from stele.trust.digest import sha256

if TYPE_CHECKING:
    from stele.seal.sources.image import Blobs
    from stele.seal.sources.source import Limits, Source

_NAMED_BY_DIGEST = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?\Z", re.ASCII)


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    """One image of manifest.json."""

    config: str
    layers: list[str] = []  # null, where there are none
    repo_tags: list[str] | None = None


def load(blobs: Blobs, *, reference: str, time: int, limits: Limits, platform: str = "", data: bool = False) -> Source:
    """Read one image of a docker archive; closes `blobs`. `platform`: what it must be for, as `linux/arm64`; "": anything.
    `data`: as in `tree_of`.

    Layers are checked by the diff_ids of the config, the config by its own name (which is the image id).

    Raises:
        SteleError: `seal.ambiguous-image`, and those of `image.flatten`.
    """
    try:
        saved = parse(read_small(blobs, "manifest.json"), list[_Saved], "manifest.json")
        chosen, name = _choose(saved, reference)
        config = read_small(blobs, chosen.config)
        named = _NAMED_BY_DIGEST.match(chosen.config)
        if named and sha256(config) != f"sha256:{named[1]}":
            raise mismatch(chosen.config, f"sha256:{named[1]}", sha256(config))
        image = Image(sha256(config), name, parse(config, Config, "the image's config"), [Layer(name) for name in chosen.layers])
        check_platform(platform_of(image.config), platform)
        return flatten(blobs, image, "docker-archive", time=time, limits=limits, notes=Notes(), data=data)
    finally:
        blobs.close()


def _choose(saved: list[_Saved], reference: str) -> tuple[_Saved, str]:
    found = {one.config: one for one in saved if not reference or _is_meant(one, reference)}
    if len(found) != 1:
        raise ambiguous([tag for one in saved for tag in one.repo_tags or [one.config]], reference, how_many=len(found))
    (chosen,) = found.values()
    return chosen, reference or next(iter(chosen.repo_tags or ()), "")


def _is_meant(one: _Saved, reference: str) -> bool:
    """By id, or by tag: `app:1` also means `localhost/app:1` and `docker.io/library/app:1`; `app` means `app:latest`."""
    named = _NAMED_BY_DIGEST.match(one.config)
    if named and reference.removeprefix("sha256:") == named[1]:
        return True
    tag = reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
    return any(known == tag or known.endswith(f"/{tag}") for known in one.repo_tags or [])
