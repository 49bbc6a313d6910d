"""Sources: a folder, a docker archive or an OCI layout becomes one tree and its contents.

Each kind of source is one module with one `load`. They read; they never write outside one anonymous temporary file,
never extract, never follow a symlink of the source, and refuse what cannot be represented. They know nothing of strata,
releases or the store. Called by `flow`; the rules that they share are in `seal.normalise` and docs/spec/sources.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stele.model.spec import DEFAULT_TIME

if TYPE_CHECKING:
    from pathlib import Path

    from stele.seal.sources.source import Source


def load(
    source: Path,
    *,
    kind: Literal["auto", "folder", "docker-archive", "oci-layout"] = "auto",
    reference: str = "",
    time: int = DEFAULT_TIME,
) -> Source:
    """Read a source.

    Raises:
        SteleError: `seal.*`, see docs/spec/sources.md.
    """
    from stele.seal.sources import folder

    del kind, reference  # until the other kinds are here
    return folder.load(source, time=time)
