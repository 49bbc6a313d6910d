"""Sealing: source → tree → release → signature → store → ledger.

`seal` takes the short way where a folder was sealed before and only the content of plain files changed (`flow.reseal`), else the
whole one (`flow.whole_seal`); what comes out is the same.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stele.flow.asked import Asked, Options, Way, read_spec
from stele.trust.errors import SteleError

__all__ = ["Options", "event_recorder", "recorder", "seal", "source_of"]
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from stele.flow.places import Places
    from stele.flow.reseal import Again
    from stele.flow.signers import Ask
    from stele.model.reference import Reference
    from stele.model.release import Release


def source_of(text: str, kind: str) -> Path | Reference:
    """What a person means: a path, or an image in a registry (`docker://…`, or where no such path is and it reads like one).

    Raises:
        SteleError: `registry.bad-reference`, `seal.source-missing` where nothing was named.
    """
    if not text:  # which a path would take for the folder that one is in
        raise SteleError("no source was named", remedy="give the path of a folder or an archive", code="seal.source-missing")
    is_one = kind == "registry" or text.startswith("docker://")
    if is_one or (kind == "auto" and not os.path.lexists(text) and not text.startswith(("/", "."))):
        from stele.model import reference as references

        try:
            return references.parse(text.removeprefix("docker://"))
        except SteleError:
            if is_one:
                raise
    return Path(text)


def seal(
    places: Places,
    source: Path | Reference | str,
    spec_file: Path,
    *,
    options: Options,
    say: Callable[[str], None],
    record: Callable[[Release], None],
    ask: Ask | None = None,
) -> dict[str, Any]:
    """Seal a source; returns what a person wants to know of the release.

    Args:
        places: the data folder.
        source: what `options.kind` says, or an image in a registry; text names a release in the store, to be sealed with other settings.
        spec_file: `stele.yaml`; its folder is where settings' sources lie.
        options: how.
        say: told of each step.
        record: commits `release.sealed`; the release counts as sealed only then.
        ask: gives passphrases and PINs; None: nobody does.

    Raises:
        SteleError: `spec.*`, `seal.*`, `registry.*`, `store.*`, `ledger.*`.
    """
    begun, begun_ns = time.monotonic_ns(), time.time_ns()
    asked = Asked(source, spec_file, read_spec(spec_file), options.compression, begun_ns // 1_000_000_000)
    with _looking(places, asked, options) as looking:  # which others do, while the rest of this program is loaded
        from stele.flow import signers

        key = signers.open_signer(places, options.key, ask or signers.nobody)  # before anything long: who cannot sign need not wait
        way = Way(options, key, begun_ns, say, record)
        made = looking.seal(way) if looking is not None else None
    release, told = made or _whole(places, asked, way)
    return {
        "workload": release.workload,
        "release": release.digest,
        "tree": release.tree_digest,
        "config": release.config_digest,
        "strata": [{"name": s.name, "diff_id": s.diff_id, "verity_root": s.verity_root} for s in release.strata],
        **told,
        "took_ns": time.monotonic_ns() - begun,
    }


def _looking(places: Places, asked: Asked, options: Options) -> AbstractContextManager[Again | None]:
    """Begin to look at a folder that was sealed before."""
    plain = Options(kind=options.kind, compression=options.compression, key=options.key)
    if options != plain or options.kind not in {"auto", "folder"} or not isinstance(asked.source, Path) or not asked.source.is_dir():
        return contextlib.nullcontext()
    from stele.flow import reseal

    return reseal.looking(places, asked)


def _whole(places: Places, asked: Asked, way: Way) -> tuple[Release, dict[str, Any]]:
    from stele.flow import whole_seal

    return whole_seal.seal(places, asked, way)


def recorder(places: Places, ask_agent: Callable[[dict[str, Any]], object]) -> Callable[[Release], None]:
    """How to record a seal."""
    commit = event_recorder(places, ask_agent)

    def record(release: Release) -> None:
        from stele.flow import opening, signing

        keys = signing.keys_of(opening.open_store(places), release.digest)
        commit(release.workload, "release.sealed", release=release.digest, tree=release.tree_digest, keys=keys)

    return record


def event_recorder(places: Places, ask_agent: Callable[[dict[str, Any]], object]) -> Callable[..., None]:
    """How to record what was done with a release: in the ledger itself, or through the agent where one holds the ledger."""

    def record(workload: str, kind: str, /, **data: Any) -> None:
        from stele.flow import opening

        def here() -> None:
            with contextlib.closing(opening.open_ledger(places)) as ledger:
                from stele.flow.record import Recorder

                Recorder.of_caller(ledger.append)(workload, kind, **data)

        def through_agent() -> None:
            ask_agent({"kind": kind, **data})

        opening.in_turn(here, through_agent)

    return record
