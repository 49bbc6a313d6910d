"""Sealing a Debian root again after one file changed, beside what backup and image tools take for the same change.

    sudo .venv/bin/python benchmarks/bench_reseal.py [--rounds 5] [--json FILE]

The file is one of the application's own (srv/app/settings.py). Stele's is the whole command: tree, changed strata in both forms,
SBOM, provenance, signatures, ledger entry. restic and borg keep a cache of their own; ostree, umoci and podman read everything. The
second table shows the same change under ever more files that did not change.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from bench_seal import CACHE, root
from measure import command, keep, paired, report

SPEC = b"stele: 0\nname: minbase\ncommand: [/bin/true]\n"
STELE = str(Path(sys.executable).parent / "stele")


def main() -> None:
    """Run both and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    os.environ.update(RESTIC_PASSWORD="x", BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes")
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        source = work / "root"
        subprocess.run(["cp", "-a", str(root("bookworm")), str(source)], check=True)
        shutil.rmtree(source / "dev")  # ostree takes no devices; nobody else seals them either
        results = [_peers(work, source, options.rounds), _growth(work, options.rounds)]
        subprocess.run(["chattr", "-R", "-i", str(work)], stderr=subprocess.DEVNULL, check=False)
    keep(results, options.json)


def _seal(work: Path, source: Path) -> list[str]:
    data = work / f"data-{source.name}"
    subprocess.run([STELE, "--data", str(data), "init", "--keys-only"], check=True, stdout=subprocess.DEVNULL)
    (work / "stele.yaml").write_bytes(SPEC)
    return [STELE, "--data", str(data), "seal", str(source), "-f", str(work / "stele.yaml")]


def _peers(work: Path, source: Path, rounds: int) -> dict[str, object]:
    subprocess.run(["restic", "-r", str(work / "restic"), "init", "-q"], check=True)
    subprocess.run(["borg", "init", "-e", "none", str(work / "borg")], check=True)
    subprocess.run(["ostree", "init", f"--repo={work / 'ostree'}", "--mode=bare"], check=True)
    changes = 0

    def before(name: str) -> None:
        nonlocal changes
        changes += 1
        file = source / "srv" / "app" / "settings.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"VERSION = {changes}\n")
        if name == "umoci insert":
            shutil.rmtree(work / "umoci", ignore_errors=True)
            subprocess.run(["umoci", "init", "--layout", str(work / "umoci")], check=True)
            subprocess.run(["umoci", "new", "--image", f"{work / 'umoci'}:base"], check=True)
        elif name == "podman import":
            shutil.rmtree(work / "podman", ignore_errors=True)

    storage = f"--root {work / 'podman'} --runroot {work / 'podman-run'} --storage-driver vfs"
    candidates = {
        "stele seal": command(_seal(work, source)),
        "restic backup": command(["restic", "-r", str(work / "restic"), "backup", "-q", str(source)]),
        "borg create": command(["borg", "create", f"{work / 'borg'}::{{now:%s.%f}}", str(source)]),
        "ostree commit": command(["ostree", "commit", f"--repo={work / 'ostree'}", "-b", "x", str(source)]),
        "umoci insert": command(["umoci", "insert", "--image", f"{work / 'umoci'}:base", str(source), "/"]),
        "podman import": command(["sh", "-c", f"tar -C {source} -c . | podman {storage} import -q - minbase"]),
    }
    return report(
        f"one file of {sum(len(files) for _, _, files in os.walk(source))} changed",
        paired(candidates, rounds=rounds, before=before),
        "stele seal",
    )


def _growth(work: Path, rounds: int) -> dict[str, object]:
    """The same change under ever more files: what grows is a stat for each."""
    candidates, files = {}, {}
    for count in (1_000, 10_000, 50_000):
        source = work / f"many-{count}"
        for number in range(count):
            folder = source / "srv" / f"{number // 500}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}").write_bytes(b"%d" % number * 100)
        name = f"{count} files"
        candidates[name] = command(_seal(work, source))
        files[name] = source / "etc" / "changed"
        files[name].parent.mkdir()
    changes = 0

    def before(name: str) -> None:
        nonlocal changes
        changes += 1
        files[name].write_text(f"{changes}\n")

    return report(
        "one small file changed, by the number of files that did not", paired(candidates, rounds=rounds, before=before), "1000 files"
    )


if __name__ == "__main__":
    main()
