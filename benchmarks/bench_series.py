"""A series of releases: bytes that an update moves, storage at rest, and how long making, applying and preparing take.

    sudo .venv/bin/python benchmarks/bench_series.py [--json FILE] [--kind python|node]

Each version of a series (benchmarks/series.py) is sealed in one data folder (`stele seal`, with SBOM and provenance), its delta from the
version before made, and pushed to a real registry (docker-registry) as `stele push` does; a second data folder that has the version before pulls
it as `stele pull` does, and prepares its images for mounting. `pull` and `push` are all bytes of bodies, received and sent (headers apart, for
everybody). Beside it skopeo pushes the same releases to another registry, and skopeo and podman pull them from there; its log says how many bytes
it sent, and its folder how many it got. `beside` is what a push sends besides what skopeo does and the delta: SBOM, provenance, signatures, lists of
them, and manifests, which are written whether they are there or not. At rest the twelve releases, packed, with their SBOMs, provenance and
signatures, are compared with repositories of restic and borg that hold the same folders: `packed` is what `stele store pack` leaves, besides the
newest release's images, which are ready to be mounted and are counted apart; `packed, layers kept` is with `--keep-layers`.

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
from typing import TYPE_CHECKING, Any

import zstandard

sys.path.insert(0, str(Path(__file__).parent))
from measure import keep
from series import KINDS, versions

from stele.flow import deltas, initialise, opening, packing, pulling, pushing, sealing, short_updates
from stele.flow.places import Places
from stele.host import immutable
from stele.model.release import Release, reference_name
from stele.seal import sources
from stele.seal.delta.plan import groups, pairs
from stele.store.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
                for path in [*Path(folder).glob("*/erofs/*"), *Path(folder).glob("*/store/erofs/*")]:
                    immutable.make_mutable(path)
    keep(results, options.json)


def _changed(before: Path, after: Path) -> int:
    with (
        sources.load(before, kind="folder", reference="", time=TIME) as old,
        sources.load(after, kind="folder", reference="", time=TIME) as new,
    ):
        ranges = [piece for group in groups(pairs(old.tree, new.tree)) for piece in group.pieces]
        return len(
            zstandard.ZstdCompressor(level=3).compress(b"".join(new.contents.read(item.digest) for item in ranges if not item.start))
        )


def _quiet(*_: object, **__: object) -> None:
    """Neither tells nor records."""


class _Side:
    """A data folder."""

    def __init__(self, root: Path, kind: str, policy: Path | None = None) -> None:
        self.places, self._kind = Places(root), kind
        initialise.make_keys(self.places)
        if policy is not None:
            self.places.policy.write_bytes(policy.read_bytes())
        self._spec = root / "stele.yaml"
        self._spec.write_text(json.dumps({"stele": 0, "name": kind, "command": ["/srv/app/run"]}))
        self.store = opening.open_store(self.places)

    def seal(self, root: Path) -> Release:
        """`stele seal`."""
        done = sealing.seal(self.places, root, self._spec, options=sealing.Options(), say=_quiet, record=_quiet)
        return self.store.find(done["release"])

    def push(self, release: Release, target: str) -> int:
        """`stele push`: bytes sent."""
        found = pushing.push(self.places, release.digest, target, plain_http=True, delta=True, say=_quiet, record=_quiet)
        return int(found["sent"])

    def pull(self, target: str) -> dict[str, Any]:
        """`stele pull`."""
        return pulling.pull(self.places, target, plain_http=True, whole=False, say=_quiet, record=_quiet)


def _series(kind: str, folder: Path) -> dict[str, object]:
    roots = versions(kind)
    here = _Side(folder / "here", kind)
    there = _Side(folder / "there", kind, here.places.policy)
    before = here.seal(roots[0])
    print(f"\n{kind}: bytes of bodies moved by each update, and the time it takes")
    heads = ("", "changed", "pull", "ratio", "skopeo", "podman", "push", "skopeo", "delta", "beside", "make", "apply", "prepare", "way")
    print("  " + "".join(f"{head:>11}" for head in heads))
    rows: list[dict[str, Any]] = []
    (folder / "theirs").mkdir()
    with _registry(folder) as ours, _registry(folder / "theirs") as registry:
        here.push(before, f"{ours.address}/{kind}:{before.digest[7:19]}")
        there.pull(f"{ours.address}/{kind}:{before.digest[7:19]}")
        for stratum in before.strata:
            there.store.prepare_image(stratum)
        registry.push(here.store.root, before)
        registry.skopeo(before)
        registry.podman(before)
        for old, new in itertools.pairwise(roots):
            row = _update(here, there, old, new, (ours, registry))
            rows.append(row)
            seconds = "".join(f"{row[key]:9.3f} s" for key in ("make_s", "apply_s", "prepare_s"))
            sizes = "".join(f"{int(row[key]):11,}" for key in ("skopeo", "podman", "push", "skopeo_push", "delta", "beside"))
            head = f"  {new.name:>11}{int(row['changed']):11,}{int(row['pull']):11,}{row['pull'] / row['changed']:11.3f}"
            print(f"{head}{sizes}{seconds}{row['way']:>11}", flush=True)
        registry.forget()
    for key in ("pull", "skopeo", "podman", "push", "skopeo_push"):
        ratios = [row[key] / row["changed"] for row in rows]
        print(f"  {key:>11} / changed: median {statistics.median(ratios):7.3f}, highest {max(ratios):7.3f}")
    ratios = [row["push"] / row["skopeo_push"] for row in rows]
    print(f"  push / what skopeo pushes: median {statistics.median(ratios):7.3f}, highest {max(ratios):7.3f}")
    one_file = _one_file(there.store, folder, roots[-1], here)
    return {"title": f"series of {kind}", "rows": rows, "one_file": one_file, "at_rest": _at_rest(kind, folder, roots)}


def _update(here: _Side, there: _Side, old: Path, new: Path, registries: tuple[_Registry, _Registry]) -> dict[str, Any]:
    ours, theirs = registries
    base = here.store.releases()[-1]
    release = here.seal(new)
    begun = time.perf_counter()
    delta = deltas.attach_delta(here.store, base, release).size
    made = time.perf_counter()
    target = f"{ours.address}/{release.workload}:{release.digest[7:19]}"
    push, skopeo = here.push(release, target), theirs.push(here.store.root, release)
    sent = {"push": push, "skopeo_push": skopeo, "delta": delta, "beside": push - skopeo - delta}
    row = {"changed": _changed(old, new), "make_s": made - begun, **sent}
    begun = time.perf_counter()
    found = there.pull(target)
    pulled = time.perf_counter()
    assert found["release"] == release.digest
    for stratum in release.strata:
        there.store.prepare_image(stratum)
    ready = time.perf_counter()
    times = {"apply_s": pulled - begun, "prepare_s": ready - pulled}
    peers = {"skopeo": theirs.skopeo(release), "podman": theirs.podman(release)}
    return {**row, "pull": found["received"], "way": found["way"], **peers, **times}


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
        ends = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 1):
                break
            if server.poll() is not None or time.monotonic() > ends:
                sys.exit(f"no registry answers at {address}; {folder / 'registry.log'} says why, or a packet filter (nft list ruleset)")
            time.sleep(0.05)
        yield _Registry(address, folder)
    finally:
        server.terminate()
        server.wait()


def _at_rest(kind: str, folder: Path, roots: list[Path]) -> dict[str, int]:
    """Bytes that the whole series takes, by us and by others."""
    side = _Side(folder / "rest", kind)
    store = side.store
    newest = [side.seal(root) for root in roots][-1]

    def size(*, images: bool = False) -> int:
        return sum(path.lstat().st_size for path in store.root.rglob("*") if path.is_file() and (path.parent.name == "erofs") == images)

    found = {"unpacked": size(), "layers of the newest": sum(stratum.layer.size for stratum in newest.strata)}
    times = {}
    for name, keep_layers in (("packed, layers kept", True), ("packed", False)):
        begun = time.perf_counter()
        packing.pack(store, (), keep_layers=keep_layers, record=lambda *_, **__: None, say=lambda _: None)
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
        f"  packing took {times['packed, layers kept']:.1f} s, the newest besides {times['packed']:.1f} s; the oldest was back and verified in {back:.1f} s"
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


def _one_file(there: Layout, folder: Path, newest: Path, here: _Side) -> dict[str, float]:
    """An update of one file of the application, from its bytes to ready for mounting in a process that runs the release before.

    The limit beside it: writing and syncing what it keeps, its images and blobs, is what a disk asks for.
    """
    base = here.store.releases()[-1]
    root = folder / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", str(newest), str(root)], check=True)
    assert here.seal(root).digest == base.digest
    path = next(path for path in (root / "srv" / "app").iterdir() if path.is_file())
    times, cpu = [], []
    for number in range(9):
        path.write_text(path.read_text() + f"\n# {number}\n")
        release = here.seal(root)
        offer = deltas.attach_delta(here.store, here.store.find(base.digest), release)
        data = short_updates.made(here.store, release, offer)

        def update(base: Release = base, release: Release = release, data: bytes = data) -> None:
            short_updates.receive(there, base, release.digest, data, there.publish)
            for stratum in release.strata:
                there.prepare_image(stratum)

        begun = time.process_time()
        times.append(_timed(update))
        cpu.append(time.process_time() - begun)
        base = release
    size = sum(stratum.data_size for stratum in base.strata)
    print(
        f"  one file changed of {size / 1e6:.0f} MB, {len(data)} bytes of update: to images ready for mounting {statistics.median(times) * 1000:.0f} ms"
        f" (best {min(times) * 1000:.0f}, of it processor {statistics.median(cpu) * 1000:.0f}; one fsync here {_fsync(folder) * 1000:.1f} ms)"
    )
    return {"median_s": statistics.median(times), "best_s": min(times), "cpu_s": statistics.median(cpu), "release_bytes": size}


def _fsync(folder: Path) -> float:
    """Seconds that writing and syncing a small file takes here."""
    times = []
    for number in range(20):
        with (folder / f"sync-{number}").open("wb") as file:
            file.write(b"x" * 1000)
            file.flush()
            begun = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _timed(call: Callable[[], None]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
