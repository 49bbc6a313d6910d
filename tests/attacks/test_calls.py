"""Forbidden system calls: each is seen with its arguments, frozen, and does nothing."""

from __future__ import annotations

import platform

import pytest

from stele.watch.detect import CALLS
from tests.attacks.cage import MARKER, NEXT, Cage, frozen_by

pytestmark = pytest.mark.root
COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]


def perl(call: str, *args: str) -> str:
    """A perl line that makes a system call and says the marker if it succeeded."""
    texts = "".join(f"$t{index}={arg};" for index, arg in enumerate(args) if arg.startswith('"'))
    given = "".join(f",$t{index}" if arg.startswith('"') else f",{arg}" for index, arg in enumerate(args))
    asked = f"{texts} $r = syscall({CALLS[call][COLUMN]}{given});"
    return f'perl -e \'{asked} print $r >= 0 ? "{MARKER}\\n" : "refused $!\\n"\''


FORBIDDEN = {
    "mount": perl("mount", '"x"', '"/tmp"', '"tmpfs"', "0", '""'),
    "remount": perl("mount", '""', '"/"', '""', "4128", '""'),
    "umount2": perl("umount2", '"/tmp"', "2"),
    "unshare": perl("unshare", "0x10000000"),
    "setns": "exec 7</proc/1/ns/mnt; " + perl("setns", "7", "0"),
    "ptrace": perl("ptrace", "0", "0", "0", "0"),
    "process_vm_readv": perl("process_vm_readv", "1", "0", "0", "0", "0", "0"),
    "bpf": perl("bpf", "0", '"' + "x" * 64 + '"', "64"),
    "memfd_create": perl("memfd_create", '"x"', "0"),
    "clone": perl("clone", "0x10000011", "0", "0", "0", "0"),
    "keyctl": perl("keyctl", "0", "-3", "0"),
    "userfaultfd": perl("userfaultfd", "1"),
    "io_uring_setup": perl("io_uring_setup", "1", '"' + "\\0" * 120 + '"'),
    "chroot": perl("chroot", '"/tmp"'),
    "pivot_root": perl("pivot_root", '"/tmp"', '"/tmp"'),
    "open_tree": perl("open_tree", "-100", '"/"', "1"),
    "perf_event_open": perl("perf_event_open", '"' + "\\0" * 120 + '"', "0", "-1", "-1", "0"),
    "finit_module": perl("finit_module", "0", '""', "0"),
    "personality": perl("personality", "0x0040000"),
}


@pytest.mark.guest
@pytest.mark.parametrize("call", ["remount", "unshare", "memfd_create"])
def test_a_forbidden_call_is_seen_and_the_instance_frozen(cage: Cage, call: str):
    report = frozen_by(cage, FORBIDDEN[call], "forbidden-call")
    assert report.syscall == {"remount": "mount"}.get(call, call)
    assert report.exe == "/usr/bin/perl"


@pytest.mark.guest
def test_every_forbidden_call_is_seen_and_refused(one_cage: Cage):
    script = "; ".join(FORBIDDEN.values())
    said = one_cage.run(script + "; echo THE NEXT INSTRUCTION RAN", forbidden="report")
    assert said.count("refused Operation not permitted") == len(FORBIDDEN)
    assert MARKER not in said
    assert NEXT in said
    missing = set(FORBIDDEN) - {"remount"}  # which is a mount, too
    while missing:
        report = one_cage.report()
        assert (report.kind, report.refused, report.is_frozen) == ("forbidden-call", True, False)
        assert report.detail["args"]
        missing.discard(report.syscall)


def test_harmless_uses_of_the_same_calls_are_let_through(one_cage: Cage):
    script = [
        perl("unshare", "0x400"),  # CLONE_FILES
        perl("personality", "0xffffffff"),
        perl("clone", "17", "0", "0", "0", "0"),
    ]
    said = one_cage.run("; ".join(script) + "; echo THE NEXT INSTRUCTION RAN")
    assert said.count(MARKER) >= len(script)
    assert "refused" not in said
    assert NEXT in said
    assert one_cage.reports.empty()
