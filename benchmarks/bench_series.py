"""A series of releases: bytes that an update moves, storage at rest, and how long making, applying and preparing take.

    sudo .venv/bin/python benchmarks/bench_series.py [--json FILE] [--kind python|node]

Each version of a series (benchmarks/series.py) is sealed into one store; a delta from the version before is made, as `stele push` does;
a second store that has the version before takes it, and prepares its images for mounting. Beside it skopeo and podman pull the
same releases from a real registry (docker-registry), whose log says how many bytes it sent. At rest the twelve releases, packed, are
compared with repositories of restic and borg that hold the same folders: `packed` keeps the newest layers, `packed, all` packs the
newest releases' contents too and leaves their images, which are ready to be mounted and are counted apart.

`changed` are the files' bytes that the version before does not have, compressed together at zstd-3.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

sys.path.insert(0, str(Path(__file__).parent))
from measure import keep
from series import KINDS, versions

from stele.flow import deltas, packing, updates
from stele.flow.unpacking import Unpacking
from stele.host import immutable
from stele.model import spec as specs
from stele.model.release import BUNDLE_TYPE, Publication, Release, reference_name
from stele.seal import release as sealing
from stele.seal import sources
from stele.seal.delta.plan import groups, pairs
from stele.seal.rebuild import LayerRebuilder
from stele.seal.sign import sign
from stele.store.layout import Layout
from stele.trust.release_key import PrivateKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = PrivateKey.generate()
TIME = 315_532_800


def main() -> None:
    """Print a line per update, the medians, and the storage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None)
    parser.add_argument("--kind", choices=KINDS, default=None)
    options = parser.parse_args()
    results: list[dict[str, object]] = []
    for kind in (options.kind,) if options.kind else KINDS:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            try:
                results.append(_series(kind, Path(folder)))
            finally:
                for path in Path(folder).glob("*/erofs/*"):
                    immutable.make_mutable(path)
    keep(results, options.json)


def _store(root: Path) -> Layout:
    store = Layout(root, trusted=[KEY.public], rebuild=LayerRebuilder())
    store.unpack = Unpacking(store)
    return store


def _seal(store: Layout, root: Path, kind: str) -> Release:
    spec = specs.from_builtins({"stele": 0, "name": kind, "command": ["/srv/app/run"]})
    with sources.load(root, kind="folder", reference="", time=TIME) as found:
        sealed = sealing.seal(found.tree, found.contents, spec, store, platform="linux/amd64")
        store.publish(sign(sealed, KEY, store))
    return sealed.release


def _changed(before: Path, after: Path) -> int:
    with (
        sources.load(before, kind="folder", reference="", time=TIME) as old,
        sources.load(after, kind="folder", reference="", time=TIME) as new,
    ):
        ranges = [piece for group in groups(pairs(old.tree, new.tree)) for piece in group.pieces]
        return len(
            zstandard.ZstdCompressor(level=3).compress(b"".join(new.contents.read(item.digest) for item in ranges if not item.start))
        )


def _series(kind: str, folder: Path) -> dict[str, object]:
    roots = versions(kind)
    here, there = _store(folder / "here"), _store(folder / "there")
    before = _seal(here, roots[0], kind)
    _seal(there, roots[0], kind)
    for stratum in before.strata:
        there.prepare_image(stratum)
    print(f"\n{kind}: bytes moved by each update, and the time it takes")
    heads = ("", "changed", "delta", "ratio", "with all", "skopeo", "podman", "push", "make", "apply", "prepare")
    print("  " + "".join(f"{head:>11}" for head in heads))
    rows: list[dict[str, float]] = []
    with _registry(folder) as registry:
        registry.push(here.root, before)
        registry.skopeo(before)
        registry.podman(before)
        for old, new in itertools.pairwise(roots):
            row = _update(here, there, old, new, kind, registry)
            rows.append(row)
            seconds = "".join(f"{row[key]:9.3f} s" for key in ("make_s", "apply_s", "prepare_s"))
            sizes = "".join(f"{int(row[key]):11,}" for key in ("moved", "skopeo", "podman", "push"))
            print(f"  {new.name:>11}{int(row['changed']):11,}{int(row['delta']):11,}{row['ratio']:11.2f}{sizes}{seconds}", flush=True)
        registry.forget()
    for key in ("delta", "moved", "skopeo", "podman"):
        ratios = [row[key] / row["changed"] for row in rows]
        print(f"  {key:>8} / changed: median {statistics.median(ratios):7.3f}, highest {max(ratios):7.3f}")
    rest = _at_rest(kind, folder, roots)
    return {"title": f"series of {kind}", "rows": rows, "at_rest": rest, "one_file": _one_file(there, folder, roots[-1], kind)}


def _update(here: Layout, there: Layout, old: Path, new: Path, kind: str, registry: _Registry) -> dict[str, float]:
    base = here.find(kind)
    release = _seal(here, new, kind)
    begun = time.perf_counter()
    offer = deltas.attach_delta(here, base, release)
    made = time.perf_counter()
    push = registry.push(here.root, release)
    changed = _changed(old, new)
    took = time.perf_counter()
    received = updates.receive(there, release.digest, here, limit=1 << 62, say=lambda _: None)
    applied = time.perf_counter()
    assert received is not None
    there.publish(Publication(release=received.release))
    published = time.perf_counter()
    for stratum in release.strata:
        there.prepare_image(stratum)
    ready = time.perf_counter()
    return {
        "changed": changed,
        "delta": offer.size,
        "ratio": offer.size / changed,
        "moved": offer.size + _metadata(here, release),
        "skopeo": registry.skopeo(release),
        "podman": registry.podman(release),
        "push": push,
        "make_s": made - begun,
        "apply_s": applied - took,
        "prepare_s": ready - published,
    }


def _metadata(store: Layout, release: Release) -> int:
    """Bytes that a pull moves besides the delta: the list of referrers, the delta's manifest, the signature with its manifest."""
    referrers = store.referrers(release.digest)
    size = len(json.dumps([{**item.descriptor.plain(), "annotations": item.annotations} for item in referrers]))
    for item in referrers:
        if item.artifact_type == BUNDLE_TYPE:
            manifest = json.loads(store.blob(item.descriptor.digest))
            size += item.descriptor.size + sum(layer["size"] for layer in manifest["layers"])
        elif item.artifact_type.endswith("delta.v0"):
            size += item.descriptor.size
    return size


class _Registry:
    """A docker-registry, and two clients that keep what they pulled before."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self._folder, self._log = address, folder, folder / "registry.log"

    def _moved(self, *argv: str, key: str = "http.response.written") -> int:
        start = self._log.stat().st_size
        subprocess.run(argv, check=True, capture_output=True)
        total = 0
        end = time.monotonic() + 1.0
        while time.monotonic() < end and self._log.stat().st_size == start:
            time.sleep(0.02)
        time.sleep(0.1)  # the last line of the log
        with self._log.open("rb") as file:
            file.seek(start)
            for line in file:
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    total += int(said.get(key, 0)) if "http.response.status" in said else 0
        return total

    def push(self, root: Path, release: Release) -> int:
        """Bytes of the blobs that skopeo sends, which the registry does not have."""
        blobs = self._folder / "registry" / "docker" / "registry" / "v2" / "blobs"

        def size() -> int:
            return sum(path.stat().st_size for path in blobs.rglob("data"))

        before = size()
        source = f"oci:{root}:{reference_name(release.workload, release.digest)}"
        self._moved("skopeo", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false", source, self._name(release, "docker://"))
        return size() - before

    def _name(self, release: Release, scheme: str) -> str:
        return f"{scheme}{self.address}/{release.workload}:{release.digest[7:19]}"

    def skopeo(self, release: Release) -> int:
        """Bytes that `skopeo copy` gets from the registry, into a layout that has the releases before."""
        target = f"oci:{self._folder / 'skopeo'}:{release.digest[7:19]}"
        return self._moved("skopeo", "copy", "--quiet", "--src-tls-verify=false", self._name(release, "docker://"), target)

    def _podman(self, *argv: str) -> tuple[str, ...]:
        places = ("--root", str(self._folder / "podman"), "--runroot", str(self._folder / "podman-run"), "--storage-driver", "overlay")
        return ("podman", *places, *argv)

    def podman(self, release: Release) -> int:
        """Bytes that `podman pull` gets from the registry, into a storage that has the releases before."""
        return self._moved(*self._podman("pull", "--quiet", "--tls-verify=false", self._name(release, "")))

    def forget(self) -> None:
        """Remove what podman keeps."""
        subprocess.run(self._podman("rmi", "--all", "--force"), check=False, capture_output=True)


@contextlib.contextmanager
def _registry(folder: Path) -> Iterator[_Registry]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = folder / "registry.yaml"
    config.write_text(
        f"version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'registry'}}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    with (folder / "registry.log").open("wb") as log:
        server = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 1):
                break
            time.sleep(0.05)
        yield _Registry(address, folder)
    finally:
        server.terminate()
        server.wait()


def _at_rest(kind: str, folder: Path, roots: list[Path]) -> dict[str, int]:
    """Bytes that the whole series takes, by us and by others."""
    store = _store(folder / "rest")
    for root in roots:
        _seal(store, root, kind)

    def size(*, images: bool = False) -> int:
        return sum(path.lstat().st_size for path in store.root.rglob("*") if path.is_file() and (path.parent.name == "erofs") == images)

    found = {"unpacked": size()}
    times = {}
    for name, everything in (("packed", False), ("packed, all", True)):
        begun = time.perf_counter()
        packing.pack(store, (), everything=everything, record=lambda *_, **__: None, say=lambda _: None)
        times[name] = time.perf_counter() - begun
        found[name] = size()
    found["images of the newest"] = size(images=True)
    begun = time.perf_counter()
    oldest = store.releases()[0]
    store.verify(oldest)
    back = time.perf_counter() - begun
    found |= _peers(folder, roots)
    best = min(found["restic"], found["borg"])
    print(f"  at rest, twelve releases (bytes; ratio to the better of restic and borg, {best:,})")
    for name, value in found.items():
        print(f"    {name:24}{value:14,}{value / best:8.3f}")
    print(
        f"  packing took {times['packed']:.1f} s, all of it {times['packed, all']:.1f} s; the oldest was back and verified in {back:.1f} s"
    )
    return found


def _peers(folder: Path, roots: list[Path]) -> dict[str, int]:
    places = {name: folder / name for name in ("restic", "borg", "borg zstd,3")}
    environment = {
        **os.environ, "RESTIC_PASSWORD": "x", "BORG_BASE_DIR": str(folder / "borg-base"),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }  # fmt: skip

    def run(*argv: str, cwd: Path | None = None) -> None:
        subprocess.run(argv, check=True, env=environment, cwd=cwd, capture_output=True)

    run("restic", "-q", "init", "-r", str(places["restic"]))
    for name in ("borg", "borg zstd,3"):
        run("borg", "init", "-e", "none", str(places[name]))

    def fill(name: str) -> None:
        for root in roots:
            if name == "restic":
                run("restic", "-q", "backup", "-r", str(places[name]), "--no-cache", ".", cwd=root)
            else:
                run("borg", "create", "-C", "zstd,3" if "zstd" in name else "lz4", f"{places[name]}::{root.name}", ".", cwd=root)

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, places))
    return {name: sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) for name, place in places.items()}


def _one_file(there: Layout, folder: Path, newest: Path, kind: str) -> dict[str, float]:
    """An update of one file of the application, pulled and made ready for mounting in a process that runs the release before."""
    base = there.find(kind)
    source = _store(folder / "one")
    root = folder / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", str(newest), str(root)], check=True)
    assert _seal(source, root, kind).digest == base.digest
    path = next(path for path in (root / "srv" / "app").iterdir() if path.is_file())
    times = []
    for number in range(5):
        path.write_text(path.read_text() + f"\n# {number}\n")
        release = _seal(source, root, kind)
        deltas.attach_delta(source, source.find(base.digest), release)

        def update(release: Release = release) -> None:
            received = updates.receive(there, release.digest, source, limit=1 << 62, say=lambda _: None)
            assert received is not None
            there.publish(Publication(release=received.release))
            for stratum in release.strata:
                there.prepare_image(stratum)

        times.append(_timed(update))
        base = release
    size = sum(stratum.data_size for stratum in base.strata)
    print(
        f"  one file changed of {size / 1e6:.0f} MB: from the delta to images ready for mounting {statistics.median(times) * 1000:.0f} ms"
    )
    return {"median_s": statistics.median(times), "release_bytes": size}


def _timed(call: Callable[[], None]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
