"""What counts as drift: calls, programs, scripts, loaders, and the policy's part in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.model.spec import Watch
from stele.watch import detect
from stele.watch.detect import Observation, judge, judge_file, loaded_by_loader, scripts_of

FREEZE, REPORT = Watch(), Watch(exec="report", forbidden="report", scripts="report")


@pytest.mark.parametrize(
    ("program", "line", "files"),
    [
        ("/bin/dash", "sh x.sh", ["x.sh"]),
        ("/bin/bash", "bash -eu -o pipefail x.sh -c", ["x.sh"]),
        ("/bin/bash", "bash --rcfile /tmp/rc x.sh", ["/tmp/rc", "x.sh"]),
        ("/bin/bash", "bash -c code /tmp/zero", []),
        ("/bin/bash", "bash -xc code", []),
        ("/bin/dash", "sh -- x.sh", ["x.sh"]),
        ("/bin/dash", "sh - x.sh", ["x.sh"]),
        ("/bin/dash", "sh +e x.sh", ["x.sh"]),
        ("/bin/dash", "sh", ["/proc/self/fd/0"]),
        ("/bin/dash", "sh -s a b", ["a"]),
        ("/bin/busybox", "ash x.sh", ["x.sh"]),
        ("/bin/busybox", "busybox sh x.sh", ["x.sh"]),
        ("/bin/busybox", "cat x.sh", []),
        ("/usr/bin/python3.11", "python3 x.py y.py", ["x.py"]),
        ("/usr/bin/python3.11", "python3 -W ignore -u x.py", ["x.py"]),
        ("/usr/bin/python3.11", "python3 -m http.server", []),
        ("/usr/bin/python3.11", "python3 -", ["/proc/self/fd/0"]),
        ("/usr/bin/perl", "perl -w -I /lib x.pl", ["x.pl"]),
        ("/usr/bin/perl", "perl -i x.pl", ["x.pl"]),
        ("/usr/bin/perl", "perl -I/tmp/e x.pl", ["x.pl"]),
        ("/usr/bin/perl", "perl -ne print /tmp/data", []),
        ("/usr/bin/node", "node -r /tmp/a.js b.js", ["/tmp/a.js", "b.js"]),
        ("/usr/bin/node", "node --require=/tmp/a.js -e code", ["/tmp/a.js"]),
        ("/usr/bin/php8.2", "php -f x.php /tmp/data", ["x.php"]),
        ("/usr/bin/php8.2", "php -fx.php", ["x.php"]),
        ("/usr/bin/php8.2", "php -S 0:80 router.php", ["router.php"]),
        ("/usr/bin/mawk", "awk -f x.awk /tmp/data", ["x.awk"]),
        ("/usr/bin/mawk", "awk {print} /tmp/data", []),
        ("/usr/bin/mawk", "awk -F : -f x.awk -v a=b /tmp/data", ["x.awk"]),
        ("/usr/bin/lua5.4", "lua -e code x.lua", ["x.lua"]),
        ("/usr/bin/ls", "ls x.sh", []),
    ],
)
def test_the_files_that_an_interpreter_runs_are_found(program: str, line: str, files: list[str]):
    assert scripts_of(program, tuple(line.split())) == tuple(files)


@given(
    st.sampled_from(["/bin/sh", "/usr/bin/python3", "/usr/bin/perl", "/usr/bin/node", "/usr/bin/php", "/usr/bin/awk", "/bin/busybox"]),
    st.lists(st.text()),
)
def test_no_argument_list_breaks_the_reader(program: str, argv: list[str]):
    for found in scripts_of(program, tuple(argv)):
        assert found == "/proc/self/fd/0" or any(found in word for word in argv)


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("ld.so /tmp/x", "/tmp/x"),
        ("ld.so --library-path /l --argv0 a /tmp/x y", "/tmp/x"),
        ("ld.so --list /tmp/x", "/tmp/x"),
        ("ld.so", ""),
    ],
)
def test_the_file_that_the_loader_executes_is_found(line: str, file: str):
    assert loaded_by_loader(tuple(line.split())) == file


@pytest.mark.parametrize(
    "name", ["ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "ld-2.31.so", "ld.so", "ld-musl-x86_64.so.1", "ld64.so.2"]
)
def test_loaders_are_known_by_name(name: str):
    assert detect.is_loader(f"/lib64/{name}")


@pytest.mark.parametrize("name", ["ld", "ld.bfd", "libld.so", "ldconfig"])
def test_linkers_are_no_loaders(name: str):
    assert not detect.is_loader(f"/usr/bin/{name}")


@pytest.mark.parametrize(
    ("seen", "freeze", "report", "kind"),
    [
        (Observation("execve", program="sealed"), "continue", "continue", ""),
        (Observation("execve", program="absent"), "continue", "continue", ""),
        (Observation("execve", program="unknown"), "continue", "continue", ""),
        (Observation("execve", program="unsealed"), "freeze", "refuse", "exec-unsealed"),
        (Observation("execveat", program="unsealed"), "freeze", "refuse", "exec-unsealed"),
        (Observation("execve", program="inert"), "refuse", "refuse", "exec-unsealed"),
        (Observation("execve", program="sealed", loaded="sealed"), "continue", "continue", ""),
        (Observation("execve", program="sealed", loaded="unsealed"), "freeze", "continue", "script-unsealed"),
        (Observation("execve", program="sealed", loaded="unsealed", by_loader=True), "freeze", "refuse", "exec-unsealed"),
        (Observation("mount", (0, 0, 0, 0, 0, 0)), "freeze", "refuse", "forbidden-call"),
        (Observation("0xc000003e:999", (0,) * 6), "freeze", "refuse", "forbidden-call"),
        (Observation("unshare", (0x400,)), "continue", "continue", ""),
        (Observation("unshare", (0x10000000,)), "freeze", "refuse", "forbidden-call"),
        (Observation("clone", (17,)), "continue", "continue", ""),
        (Observation("clone", (0x20000011,)), "freeze", "refuse", "forbidden-call"),
        (Observation("personality", (0xFFFFFFFF,)), "continue", "continue", ""),
        (Observation("personality", (0x40000,)), "freeze", "refuse", "forbidden-call"),
        (Observation("memfd_create", (0, 8)), "continue", "continue", ""),
        (Observation("memfd_create", (0, 3)), "freeze", "refuse", "forbidden-call"),
    ],
)
def test_verdicts(seen: Observation, freeze: str, report: str, kind: str):
    assert judge(seen, FREEZE)[:2] == (freeze, kind)
    assert judge(seen, REPORT)[:2] == (report, kind)


@given(st.sampled_from(["unsealed", "inert"]), st.sampled_from(["freeze", "report"]))
def test_no_policy_lets_an_unsealed_file_execute(place: str, policy: str):
    seen = Observation("execve", program=place)  # type: ignore[arg-type]
    assert judge(seen, Watch(exec=policy)).action != "continue"  # type: ignore[arg-type]


def test_a_file_is_judged_by_where_it_lies_and_a_frozen_instance_runs_nothing():
    assert judge_file(is_sealed=True, is_quarantined=False, policy=FREEZE, path="/x").action == "continue"
    assert judge_file(is_sealed=False, is_quarantined=False, policy=FREEZE, path="/x")[:2] == ("freeze", "exec-unsealed")
    assert judge_file(is_sealed=False, is_quarantined=False, policy=REPORT, path="/x")[:2] == ("refuse", "exec-unsealed")
    assert judge_file(is_sealed=True, is_quarantined=True, policy=FREEZE, path="/x")[:2] == ("refuse", "foreign-process")


def test_calls_have_names_on_both_machines():
    assert detect.call_name(0xC000003E, 59) == "execve"
    assert detect.call_name(0xC00000B7, 221) == "execve"
    assert detect.call_name(0xC000003E, 221) == "0xc000003e:221"
    assert detect.call_name(0x40000003, 11) == "0x40000003:11", "32-bit calls are never taken for ours"


def test_everything_that_the_profile_sends_has_a_name():
    from stele.run.syscall_policy import FORBIDDEN, WATCHED

    assert not {*FORBIDDEN, *WATCHED, "clone", "memfd_create"} - set(detect.CALLS)
