"""Executing what is not sealed, in every way there is: seen, frozen before one more instruction, and never run."""

from __future__ import annotations

import pytest

from tests.attacks.cage import DROP, MARKER, Cage, await_true

pytestmark = [pytest.mark.root, pytest.mark.guest]


def frozen_by(cage: Cage, script: str, kind: str, **watch: str):
    """Run an attack that must end frozen, and return its report; nothing it wanted may have happened."""
    instance = cage.shell(f"{script}; echo THE NEXT INSTRUCTION RAN; sleep 1000", **watch)
    report = cage.report()
    assert report.instance == instance.id
    assert report.kind == kind, report
    assert report.is_frozen, report
    assert 0 < report.seen <= report.decided <= report.frozen
    assert cage.is_quarantined(instance)
    said = cage.output(instance)
    assert MARKER not in said
    assert "THE NEXT INSTRUCTION RAN" not in said
    return report


def test_executing_a_dropped_file_on_noexec_tmpfs_is_seen_frozen_and_refused(cage: Cage):
    report = frozen_by(cage, DROP + "/tmp/evil", "exec-unsealed")
    assert report.path == "/tmp/evil"
    assert report.syscall == "execve"
    assert report.argv == ("/tmp/evil",)
    assert report.pid == report.tid > 0
    assert report.comm == "sh"
    assert report.refused
