"""Sealing and verifying a Debian minbase root, and the same with other settings, beside umoci, podman and AIDE.

    sudo .venv/bin/python benchmarks/bench_seal.py [--rounds 5] [--json FILE]

Stele's seal is complete: tree, tar layers with zstd, EROFS images with dm-verity trees, signature, ledger entry. The peers
do less: a tar layer (umoci: gzip) and a manifest. `stele seal --from` signs a release whose settings are other ones, `umoci config`
writes another config. Before each, what others wrote is synced: Stele's seal waits until its own is on the disk, the peers do not, and whoever
waits would wait for theirs, too. AIDE compares the same files with a database of SHA-256.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from measure import CACHE, command, installed, keep, paired, report

SPEC = b"stele: 0\nname: minbase\ncommand: [/bin/true]\n"


def root(suite: str) -> Path:
    """A Debian minbase root folder, made once and kept in the cache folder."""
    folder = CACHE / f"minbase-{suite}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(dir=CACHE))
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", suite, str(temp / "root")], check=True)
        (temp / "root").rename(folder)
        temp.rmdir()
    return folder


def main() -> None:
    """Run both comparisons and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    installed()
    source = root(options.suite)
    stele = [str(Path(sys.executable).parent / "stele")]
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        (work / "stele.yaml").write_bytes(SPEC)
        data = work / "data"
        results = [made(stele, source, work, data, options.rounds) for made in (_seal, _settings, _verify)]
    keep(results, options.json)


def _seal(stele: list[str], source: Path, work: Path, data: Path, rounds: int) -> dict[str, object]:
    seal = [*stele, "--data", str(data), "seal", str(source), "-f", str(work / "stele.yaml")]

    def before(name: str) -> None:
        if name == "stele seal":
            if data.exists():
                subprocess.run(["chattr", "-R", "-i", str(data)], stderr=subprocess.DEVNULL, check=False)
                shutil.rmtree(data)
            subprocess.run([*stele, "--data", str(data), "init", "--keys-only"], check=True, stdout=subprocess.DEVNULL)
        elif name == "umoci insert":
            shutil.rmtree(work / "umoci", ignore_errors=True)
            subprocess.run(["umoci", "init", "--layout", str(work / "umoci")], check=True)
            subprocess.run(["umoci", "new", "--image", f"{work / 'umoci'}:base"], check=True)
        elif name == "podman import":
            shutil.rmtree(work / "podman", ignore_errors=True)
        os.sync()

    def podman() -> float:
        # podman imports a tar: making it is part of the job, as walking the folder is part of the others'
        tar = f"tar -C {source} -c . | podman --root {work / 'podman'} --runroot {work / 'podman-run'} --storage-driver vfs import -q - minbase"
        return command(["sh", "-c", tar])()

    candidates = {
        "stele seal": command(seal),
        "umoci insert": command(["umoci", "insert", "--image", f"{work / 'umoci'}:base", str(source), "/"]),
        "podman import": podman,
    }
    return report(f"seal of {source.name}", paired(candidates, rounds=rounds, before=before), "stele seal")


def _settings(stele: list[str], source: Path, work: Path, data: Path, rounds: int) -> dict[str, object]:
    other = work / "other.yaml"

    def before(name: str) -> None:
        if name == "stele seal --from":
            other.write_bytes(SPEC + b"env: {ROUND: '%d'}\n" % time.monotonic_ns())  # a release that is not there yet
        os.sync()

    candidates = {
        "stele seal --from": command([*stele, "--data", str(data), "seal", "--from", "minbase", "-f", str(other)]),
        "umoci config": command(["umoci", "config", "--image", f"{work / 'umoci'}:base", "--config.env", "ROUND=1"]),
    }
    return report(f"other settings for {source.name}", paired(candidates, rounds=rounds, before=before), "stele seal --from")


def _verify(stele: list[str], source: Path, work: Path, data: Path, rounds: int) -> dict[str, object]:
    config = work / "aide.conf"
    config.write_text(
        f"database_in=file:{work}/aide.db\ndatabase_out=file:{work}/aide.db\ngzip_dbout=no\n{source} p+u+g+s+m+sha256+xattrs\n"
    )
    command(["aide", "--config", str(config), "--init"])()
    candidates = {
        "stele verify": command([*stele, "--data", str(data), "verify", "minbase"]),
        "aide --check": command(["aide", "--config", str(config), "--check"], ok=range(8)),
        "openssl dgst, two processes": command(["sh", "-c", f"find {source} -type f -print0 | xargs -0 -P2 -n 500 openssl dgst -sha256"]),
    }
    return report(f"full verification of {source.name}", paired(candidates, rounds=rounds), "stele verify")


if __name__ == "__main__":
    main()
