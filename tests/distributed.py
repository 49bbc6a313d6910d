"""Data folders with releases, and their ways to registries and back, as the commands go them."""

from __future__ import annotations

import shutil
from pathlib import Path

from stele.flow import initialise, pulling, pushing, sealing
from stele.flow.places import Places


def quiet(*_: object, **__: object) -> None:
    """Neither tells nor records."""


def other(tmp_path: Path, name: str, keys: Places | None) -> Places:
    """Another data folder, which has the trust policy of `keys`."""
    made = Places(tmp_path / name)
    initialise.make_keys(made)
    if keys is not None:
        shutil.copy(keys.policy, made.policy)
    return made


def seal(places: Places, version: str, *, compression: str = "zstd", host: str = "one") -> str:
    """`host`: what another stratum than that of `version` holds."""
    root = places.data.parent / "root"
    (root / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    (root / "bin" / "sh").unlink(missing_ok=True)
    (root / "bin" / "sh").symlink_to("busybox")
    (root / "version").write_text(version)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc" / "machine-id").write_text(host)
    spec = places.data.parent / "stele.yaml"
    spec.write_text('{"stele": 0, "name": "app", "command": ["/bin/busybox", "cat", "/version"]}')
    found = sealing.seal(places, root, spec, options=sealing.Options(compression=compression), say=quiet, record=quiet)
    return str(found["release"])


def push(places: Places, name: str, target: str, *, delta: bool = False) -> dict:
    return pushing.push(places, name, target, plain_http=False, delta=delta, say=quiet, record=quiet)


def pull(places: Places, source: str, *, whole: bool = False) -> dict:
    return pulling.pull(places, source, plain_http=False, whole=whole, say=quiet, record=quiet)
