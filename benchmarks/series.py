"""Two series of real root file systems: a Python and a Node web application on Debian, each in twelve successive versions.

A step changes what a real update changes: one or two dependencies to their next release, or the application's own code.
Debian's part stays the same throughout, because an archive has only one version of a package at a time. Built once, from
Debian, PyPI and npm, and kept in the cache folder; unchanged files of one series are hard links of each other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(os.environ.get("STELE_CACHE", Path.home() / ".cache" / "stele"))
SITE = "usr/local/lib/python3.11/dist-packages"

# what each version changes of the one before; "app" is the application's own code
PYTHON: tuple[dict[str, str], ...] = (
    {
        "Django": "5.1", "asgiref": "3.8.1", "sqlparse": "0.5.1", "gunicorn": "22.0.0", "packaging": "24.1",
        "psycopg2-binary": "2.9.9", "requests": "2.32.3", "certifi": "2024.7.4", "urllib3": "2.2.2", "idna": "3.7",
        "charset-normalizer": "3.3.2", "cryptography": "43.0.0", "cffi": "1.17.0", "pycparser": "2.22", "pillow": "10.4.0", "app": "1",
    },
    {"Django": "5.1.1", "app": "2"},
    {"certifi": "2024.8.30", "urllib3": "2.2.3", "idna": "3.10"},
    {"cryptography": "43.0.1"},
    {"Django": "5.1.2", "cffi": "1.17.1"},
    {"app": "3"},
    {"pillow": "11.0.0", "psycopg2-binary": "2.9.10"},
    {"Django": "5.1.3", "cryptography": "43.0.3"},
    {"charset-normalizer": "3.4.0", "packaging": "24.2", "app": "4"},
    {"Django": "5.1.4", "certifi": "2024.12.14"},
    {"gunicorn": "23.0.0", "sqlparse": "0.5.3", "urllib3": "2.3.0"},
    {"Django": "5.1.5", "pillow": "11.1.0"},
)  # fmt: skip
NODE: tuple[dict[str, str], ...] = (
    {
        "express": "4.19.2", "axios": "1.7.2", "lodash": "4.17.20", "pg": "8.11.5", "pino": "9.1.0", "zod": "3.23.6",
        "date-fns": "3.5.0", "ejs": "3.1.9", "helmet": "7.0.0", "uuid": "9.0.0", "typescript": "5.5.2", "app": "1",
    },
    {"express": "4.20.0", "app": "2"},
    {"axios": "1.7.4"},
    {"zod": "3.23.8", "pino": "9.2.0"},
    {"typescript": "5.5.3"},
    {"app": "3"},
    {"express": "4.21.0", "pg": "8.12.0"},
    {"lodash": "4.17.21", "helmet": "7.1.0"},
    {"date-fns": "3.6.0", "axios": "1.7.7", "app": "4"},
    {"typescript": "5.5.4"},
    {"express": "4.21.1", "uuid": "9.0.1"},
    {"pino": "9.3.2", "ejs": "3.1.10", "app": "5"},
)  # fmt: skip
KINDS = ("python", "node")


def versions(kind: str) -> list[Path]:
    """The root folders of a series, oldest first; built at the first call, which takes minutes and root."""
    folder = CACHE / f"series-{kind}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(prefix=f".series-{kind}-", dir=CACHE))
        try:
            _build(kind, temp)
            temp.chmod(0o755)
            temp.rename(folder)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise
    return sorted(folder.glob("v*"))


def _build(kind: str, folder: Path) -> None:
    base = folder / "base"
    package = {"python": "python3", "node": "nodejs"}[kind]
    _run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={package}", "bookworm", str(base))
    pinned: dict[str, str] = {}
    before: Path | None = None
    for number, change in enumerate(PYTHON if kind == "python" else NODE, 1):
        pinned |= change
        root = folder / f"v{number:02}"
        _run("cp", "-al", str(base), str(root))
        _application(kind, root, pinned)
        if before is not None:
            _link_equal(before, root)
        before = root
    shutil.rmtree(base)


def _application(kind: str, root: Path, pinned: dict[str, str]) -> None:
    own = root / "srv" / "app"
    own.mkdir(parents=True)
    wanted = {name: version for name, version in pinned.items() if name != "app"}
    if kind == "python":
        target = root / SITE
        target.mkdir(parents=True, exist_ok=True)
        packages = [f"{name}=={version}" for name, version in wanted.items()]
        options = (
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version=3.11",
            "--no-compile",
        )  # byte code holds times: it would change throughout
        _run(sys.executable, "-m", "pip", "install", *options, "--upgrade", f"--target={target}", *packages)
        lines = [f"def view_{at}(request):\n    return {{'version': {pinned['app']}, 'at': {at}}}\n" for at in range(400)]
        (own / "views.py").write_text("\n".join(lines))
    else:
        (own / "package.json").write_text(json.dumps({"name": "app", "version": f"{pinned['app']}.0.0", "dependencies": wanted}, indent=1))
        _run("npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(own))
        lines = [f"exports.view{at} = () => ({{ version: {pinned['app']}, at: {at} }});" for at in range(400)]
        (own / "server.js").write_text("\n".join(lines))


def _link_equal(before: Path, after: Path) -> None:
    """Make equal files of two roots one, with its time, as a build that keeps its layers would have it."""
    for top in (SITE, "srv"):
        for path in (after / top).rglob("*"):
            old = before / path.relative_to(after)
            if path.is_symlink() or not path.is_file() or old.is_symlink() or not old.is_file():
                continue
            if old.stat().st_mode == path.stat().st_mode and old.read_bytes() == path.read_bytes():
                path.unlink()
                os.link(old, path)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
