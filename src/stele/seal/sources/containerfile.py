"""A Containerfile (Dockerfile) as source: buildah builds it in a store of its own, which is gone afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stele.host import proc
from stele.seal.sources import oci_layout
from stele.seal.sources.blobs import FolderBlobs
from stele.seal.sources.source import Input
from stele.trust.digest import parse_digest
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.seal.sources.source import Limits, Source

NAMES = ("Containerfile", "Dockerfile")
_TIMEOUT = 4 * 3600.0  # seconds
# what pulling a base image may need of the caller's surroundings
_KEPT = (
    "HOME", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE", "CONTAINERS_REGISTRIES_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy",
    "https_proxy", "no_proxy",
)  # fmt: skip


def find(source: Path) -> tuple[Path, Path] | None:
    """The Containerfile that a path means, and its context; None if it means none."""
    if source.is_file():
        return (source, source.parent) if source.name.endswith(NAMES) or source.name.startswith(NAMES) else None
    return next(((source / name, source) for name in NAMES if (source / name).is_file()), None)


def load(source: Path, *, network: bool, arguments: Sequence[str], platform: str, time: int, limits: Limits, data: bool = False) -> Source:
    """Build and read an image.

    Args:
        source: a Containerfile, or a folder with one, which is its context.
        network: whether its RUN steps may use the network. Base images are pulled in any case.
        arguments: as `NAME=value`, for its ARG lines. They are recorded: no secrets.
        platform: as `linux/amd64`; "" for this machine's.
        time: modification time of every node.
        limits: on what it may unfold to.
        data: as in `tree_of`.

    Raises:
        SteleError: `seal.source-missing`, `seal.build-failed`, `host.program-missing`, and those of `oci_layout.load`.
    """
    found = (source, source.parent) if source.is_file() else find(source)
    if found is None:
        raise SteleError(
            f"{source} is no Containerfile, and holds none", remedy="name one, or a folder that has one", code="seal.source-missing"
        )
    file, context = found
    work = Path(tempfile.mkdtemp(prefix="stele-build-"))
    buildah = ["buildah", "--root", str(work / "root"), "--runroot", str(work / "run"), "--storage-driver", "vfs"]
    env = {**proc.CLEAN_ENV, **{key: os.environ[key] for key in _KEPT if key in os.environ}}
    try:
        argv = [*buildah, "build", "--quiet", "--layers=false", "--file", str(file), "--iidfile", str(work / "image")]
        argv += ["--network", "host" if network else "none", "--timestamp", str(time)]
        argv += ["--isolation", "oci", "--runtime", "runc"] if os.geteuid() == 0 else ["--isolation", "rootless"]
        argv += [f"--build-arg={argument}" for argument in arguments]
        argv += ["--platform", platform] if platform else []
        done = proc.run([*argv, str(context)], timeout=_TIMEOUT, env=env, check=False)
        if done.returncode != 0:
            raise _failed(file, done.stderr or done.stdout, network=network)
        image = (work / "image").read_text().strip()
        proc.run([*buildah, "push", "--quiet", image, f"oci:{work / 'layout'}:built"], timeout=_TIMEOUT, env=env)
        used = _used(proc.run([*buildah, "images", "--all", "--json", "--no-trunc"], timeout=60, env=env).stdout, image)
        read = oci_layout.load(FolderBlobs(work / "layout"), reference="", time=time, limits=limits, data=data)
    finally:
        _remove(work, env)
    inputs = (Input(uri=f"file:{file.name}", digest=_digest(file)), *used, *(Input(uri=f"arg:{text}", digest="") for text in arguments))
    note = "built with the network" if network else "built without the network"
    return msgspec.structs.replace(read, kind="containerfile", reference="", inputs=inputs, notes=(*read.notes, note))


def _failed(file: Path, said: bytes, *, network: bool) -> SteleError:
    text = said.decode("utf-8", "replace").strip()[-2000:]
    remedy = "correct what it says; `buildah build` by hand shows the whole output"
    if not network:
        remedy = "its RUN steps have no network: if they need it, seal with --build-network; else " + remedy
    return SteleError(f"{file} could not be built: {text or 'it said nothing'}", remedy=remedy, code="seal.build-failed")


def _digest(file: Path) -> str:
    from stele.trust.digest import sha256

    return sha256(file.read_bytes())


class _Stored(msgspec.Struct, frozen=True):
    """An image in buildah's store. `names`: none of what a build made."""

    id: str
    digest: str
    names: list[str] | None = None


def _used(said: bytes, built: str) -> list[Input]:
    """The images that a build used, of all its stages, by the digests of their manifests: those in its store beside the one it made."""
    try:
        stored = msgspec.json.decode(said, type=list[_Stored])
        found = {
            (name.partition("@")[0], parse_digest(image.digest)) for image in stored if image.id != built for name in image.names or ()
        }
    except (msgspec.MsgspecError, SteleError) as error:
        raise SteleError(
            f"buildah does not say what it built from: {error}", remedy="use another version of buildah", code="seal.build-failed"
        ) from error
    return [Input(uri=f"docker://{name}", digest=digest) for name, digest in sorted(found)]


def _remove(work: Path, env: dict[str, str]) -> None:
    if os.geteuid() != 0:  # its files belong to ids of a user namespace
        proc.run(["buildah", "unshare", "rm", "-rf", str(work)], timeout=600, env=env, check=False)
    shutil.rmtree(work, ignore_errors=True)
