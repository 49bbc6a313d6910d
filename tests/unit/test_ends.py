"""How a command line ends where the system says no: never as an internal error, whichever file it was about."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from stele.cli.ends import exit_of


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [
        (errno.EACCES, "host.not-permitted", 77), (errno.EPERM, "host.not-permitted", 77), (errno.EROFS, "host.read-only", 4),
        (errno.ENOSPC, "host.no-room", 4), (errno.EDQUOT, "host.no-room", 4),
        (errno.EMFILE, "host.too-many-open", 4), (errno.ENFILE, "host.too-many-open", 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/data/keys/trust.keys", b"/data/caf\xe9", None])
def test_what_the_system_refuses_is_said_with_the_file_and_what_to_do(number, code, status, path, capsys):
    def refused() -> None:
        raise OSError(number, os.strerror(number), path)

    assert exit_of(refused, ["seal"]) == status
    said = capsys.readouterr().err
    assert code in said
    assert "internal" not in said
    assert "remedy" in said
    assert {None: "a file", b"/data/caf\xe9": "/data/caf"}.get(path, path) in said
    assert exit_of(refused, ["seal", "--json"]) == status
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))])
def test_a_lack_of_memory_is_said_as_such(error, capsys):
    def lacking() -> None:
        raise error

    assert exit_of(lacking, ["seal"]) == 4
    said = capsys.readouterr().err
    assert "host.no-memory" in said
    assert "internal" not in said


def test_what_was_not_foreseen_is_an_internal_error(tmp_path: Path, capsys):
    (tmp_path / "a").symlink_to("a")
    assert exit_of((tmp_path / "a").read_bytes, []) == 70
    assert "internal error" in capsys.readouterr().err
    assert exit_of((tmp_path / "a").read_bytes, ["seal", "--json"]) == 70
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "cli.internal"
    assert error["reason"].startswith("internal error: OSError: ")
    assert "--debug" in error["remedy"]
