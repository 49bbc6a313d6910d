"""The command line: quick where it must be, and safe with what applications print."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time

import pytest

from stele.cli import render
from stele.cli.deploy import printed
from stele.cli.exits import ANSWER_IS_NO, HOST_CANNOT, NOT_READY, REFUSED, exit_code
from stele.trust.errors import SteleError


def test_the_version_is_told_without_importing_anything_heavy() -> None:
    code = (
        "import sys; sys.argv = ['stele', '--version']\n"
        "from stele.cli.main import main; main()\n"
        "print(sorted({'click', 'rich', 'msgspec', 'cryptography', 'yaml', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "[]"


def test_help_lists_every_command_without_importing_them() -> None:
    code = (
        "import sys; sys.argv = ['stele', '--help']\n"
        "from stele.cli.app import run; run(['--help'])\n"
        "assert not {'cryptography', 'rich', 'stele.flow.fleet'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rollback" in done.stdout


def test_sealing_and_verifying_import_nothing_of_networks_or_proofs(tmp_path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "hello").write_bytes(b"hello")
    (tmp_path / "stele.yaml").write_bytes(b"stele: 0\nname: shop\ncommand: [/hello]\n")
    code = (
        "import sys; from stele.cli.app import run\n"
        "for argv in (['init', '--keys-only'], ['seal', 'app', '-f', 'stele.yaml'], ['verify', 'shop']):\n"
        "    assert not run(['--data', 'data', *argv])\n"
        "print(sorted({'urllib3', 'http.client', 'cryptography.x509', 'stele.prove', 'stele.witness'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


def test_sealing_again_loads_only_what_it_uses(tmp_path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "hello").write_bytes(b"hello")
    (tmp_path / "stele.yaml").write_bytes(b"stele: 0\nname: shop\ncommand: [/hello]\n")
    while time.time_ns() < (tmp_path / "app" / "hello").stat().st_ctime_ns + 100_000_000:
        pass  # a file as young as the clock is coarse is read again

    def call(*argv: str) -> str:
        code = f"import sys\nfrom stele.cli import main\nassert not main.run({['--data', 'data', *argv]!r})\nprint(sorted(sys.modules))"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()[
            -1
        ]

    call("init", "--keys-only")
    call("seal", "app", "-f", "stele.yaml")
    loaded = set(ast.literal_eval(call("seal", "app", "-f", "stele.yaml")))
    assert "stele.flow.reseal" in loaded
    heavy = {
        "click", "rich", "yaml", "logging", "concurrent.futures", "email", "http.client", "urllib3", "dataclasses", "cyclonedx",
        "cryptography.x509", "cryptography.hazmat.primitives.serialization", "cryptography.hazmat.primitives.kdf.scrypt",
        "stele.flow.whole_seal", "stele.seal.packages", "stele.seal.sources", "stele.seal.sbom", "stele.prove", "stele.witness",
    }  # fmt: skip
    assert not heavy & loaded


def test_pieces_of_a_line_are_joined_per_stream() -> None:
    raw = "t1 stdout P one \nt2 stderr F err\nt3 stdout F two\nnot a line\nt4 stdout F \nt5 stdout P end"
    assert printed(raw) == [("t2", "stderr", "err"), ("t3", "stdout", "one two"), ("t4", "stdout", ""), ("", "stdout", "end")]


def test_control_characters_cannot_drive_the_terminal() -> None:
    assert render.printable("a\x1b[2Jb\x07") == "a\\x1b[2Jb\\x07"
    assert render.printable("\u202eevil") != "\u202eevil"


def test_what_others_said_in_an_error_cannot_drive_the_terminal(capsys):
    render.show_error(SteleError("the registry said \x1b]0;x\x07", remedy="ask \x1b[2Jit", code="registry.refused"), as_json=False)
    assert capsys.readouterr().err == "error: the registry said \\x1b]0;x\\x07\n  remedy: ask \\x1b[2Jit\n  code:   registry.refused\n"


def test_exit_codes_follow_the_error_codes() -> None:
    for code, status in (
        ("prove.invalid", ANSWER_IS_NO),
        ("deploy.unhealthy", ANSWER_IS_NO),
        ("agent.not-running", NOT_READY),
        ("run.port-busy", NOT_READY),
        ("run.unprivileged", HOST_CANNOT),
        ("spec.invalid", REFUSED),
        ("deploy.quarantined-release", REFUSED),
    ):
        assert exit_code(SteleError("x", remedy="y", code=code)) == status


def test_what_may_pass_leads_to_4() -> None:
    for code, status in (("registry.unavailable", NOT_READY), ("store.full", NOT_READY), ("ledger.damaged", ANSWER_IS_NO)):
        assert exit_code(SteleError("x", remedy="y", code=code, retryable=True)) == status
    assert exit_code(SteleError("x", remedy="y", code="registry.unknown")) == REFUSED


def test_a_seal_without_standard_output_ends_with_its_own_exit_code(tmp_path) -> None:
    argv = f"exec {sys.executable} -m stele --data {tmp_path / 'data'} seal {tmp_path} >&-"
    done = subprocess.run(["sh", "-c", argv], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("argv", [["--help"], ["seal", "--help"], ["explain-nothing"], ["doctor", "--json"]])
def test_output_that_nobody_reads_is_not_the_answer_no(argv, buffered, tmp_path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "stele", "--data", str(tmp_path), *argv]
    env = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    done = subprocess.run(command, env=env, stdout=write, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(write)
    assert (done.returncode, "BrokenPipe" in done.stderr) == (2 if argv == ["explain-nothing"] else 141, False), done.stderr


def test_verifying_what_is_neither_a_file_nor_a_release_says_both(tmp_path) -> None:
    argv = [sys.executable, "-m", "stele", "--data", str(tmp_path / "data")]
    subprocess.run([*argv, "init", "--keys-only"], capture_output=True, check=True, cwd=tmp_path)
    (tmp_path / "folder").mkdir()
    for name, there in (("shop.prof", "there is no such file"), ("folder", "is no file")):
        done = subprocess.run([*argv, "verify", name], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == REFUSED
        said = " ".join(done.stderr.split())
        assert f"'{name}': " in said
        assert there in said
        assert "the store has no such release" in said
        assert "a proof is named by its path" in said
        assert "store.unknown-release" in said
