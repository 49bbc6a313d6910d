"""A data folder with the keys of a host, and what a person does with it on the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from stele.cli import app

WORD = "correct horse \u00e9 battery"
SPEC = '{"stele": 0, "name": "shop", "command": ["/app"]}'


class Data:
    """A data folder and what a person does with it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        (folder / "root").mkdir()
        (folder / "root" / "app").write_text("one")
        (folder / "stele.yaml").write_text(SPEC)
        self("init", "--keys-only")

    def run(self, *argv: object, **env: str) -> subprocess.CompletedProcess[str]:
        """A command line in this process: what it prints, and its exit code."""
        command = ["--data", str(self.data), "--json", *(str(part) for part in argv)]
        said, told, before = io.StringIO(), io.StringIO(), dict(os.environ)
        try:
            os.environ.update(env)
            with (
                contextlib.chdir(self.folder),
                contextlib.redirect_stdout(said),
                contextlib.redirect_stderr(told),
                open(os.devnull) as nobody,
            ):
                sys.stdin = nobody
                code = app.run(command)
        except SystemExit as error:
            code = int(str(error.code))
        finally:
            sys.stdin = sys.__stdin__
            os.environ.clear()
            os.environ.update(before)
        return subprocess.CompletedProcess(command, code, said.getvalue(), told.getvalue())

    def process(self, *argv: object, **env: str) -> subprocess.CompletedProcess[str]:
        """The same in a process of its own."""
        base = {name: value for name, value in os.environ.items() if not name.startswith("STELE_")}
        command = [sys.executable, "-m", "stele", "--data", str(self.data), "--json", *(str(part) for part in argv)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={**base, **env}, cwd=self.folder, stdin=subprocess.DEVNULL
        )

    def __call__(self, *argv: object, **env: str):
        done = self.run(*argv, **env)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def refused(self, *argv: object, **env: str) -> str:
        done = self.run(*argv, **env)
        assert done.returncode != 0, argv
        return str(json.loads(done.stdout)["error"]["code"])

    def seal(self, content: str = "one", *argv: object, **env: str) -> str:
        (self.folder / "root" / "app").write_text(content)
        return str(self("seal", "root", *argv, **env)["release"])

    def key(self, signer: str) -> str:
        return str([item["key"] for item in self("key", "list")["keys"] if item["signer"] == signer][-1])

    def kinds(self) -> list[str]:
        shown = self.run("log").stdout.splitlines()
        return [json.loads(line)["kind"] for line in shown]


def cosign(data: Data, program: Path, *argv: object, word: str = WORD) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(data.folder), "COSIGN_PASSWORD": word, "DO_NOT_TRACK": "1"}
    return subprocess.run(
        [str(part) for part in (program, *argv)], capture_output=True, text=True, check=False, env=env, cwd=data.folder, timeout=120
    )


def holds(data: Data, program: Path, public: str) -> bool:
    """Whether cosign finds a signature by this key on what was sealed last."""
    layout = data.folder / "one-image"
    shutil.rmtree(layout, ignore_errors=True)
    shutil.copytree(data.data / "store", layout)
    flags = ("--insecure-ignore-tlog=true", "--local-image", layout, "--key", public)
    return cosign(data, program, "verify", *flags).returncode == 0
