"""Executing what is not sealed, in every way there is: seen, frozen before one more instruction, and never run."""

from __future__ import annotations

import subprocess

import pytest

from tests.attacks.cage import DROP, EXECVEAT, MARKER, NEXT, Cage, await_true, frozen_by

pytestmark = pytest.mark.root


@pytest.mark.guest
def test_executing_a_dropped_file_on_noexec_tmpfs_is_seen_frozen_and_refused(cage: Cage):
    report = frozen_by(cage, DROP + "/tmp/evil", "exec-unsealed")
    assert report.path == "/tmp/evil"
    assert report.syscall == "execve"
    assert report.argv == ("/tmp/evil",)
    assert report.pid == report.tid > 0
    assert report.comm == "sh"
    assert report.refused


PATHS = {
    "relative path": ("cd /tmp; ./evil", "/tmp/evil"),
    "up and down": ("cd /tmp; ../opt/../tmp/evil", "/tmp/evil"),
    "symbolic link": ("ln -s /tmp/evil /tmp/true; /tmp/true", "/tmp/evil"),
    "link to link beyond /proc": ("ln -s /proc/self/cwd/evil /tmp/l; cd /tmp; /tmp/l", "/tmp/evil"),
    "working folder by /proc": ("cd /tmp; /proc/self/cwd/evil", "/tmp/evil"),
    "root by /proc": ("/proc/self/root/tmp/evil", "/tmp/evil"),
    "descriptor by /proc": ("exec 7</tmp/evil; /proc/self/fd/7", "/tmp/evil"),
    "descriptor by number": ("exec 7</tmp/evil; /proc/$$/fd/7", "/tmp/evil"),
    "descriptor by /dev": ("exec 7</tmp/evil; /dev/fd/7", "/tmp/evil"),
    "deleted folder": (
        "mkdir /tmp/d; cp /tmp/evil /tmp/d; cd /tmp/d; exec 7<evil; rm evil; rmdir /tmp/d 2>/dev/null; exec /proc/self/fd/7",
        "",
    ),
    "volume": ("cp /tmp/evil /data/evil; /data/evil", "/data/evil"),
    "shared memory": ("cp /tmp/evil /dev/shm/evil; /dev/shm/evil", "/dev/shm/evil"),
    "execveat of a descriptor": (f"perl -e '{EXECVEAT}'", "/tmp/evil"),
    "script with an interpreter line": ("printf '#!/bin/sh\\necho THE PAYLOAD RAN\\n' > /tmp/s; chmod 755 /tmp/s; /tmp/s", "/tmp/s"),
    "dynamic loader": ("/lib64/ld-linux-x86-64.so.2 /tmp/evil", "/tmp/evil"),
    "dynamic loader with options": ("/lib64/ld-linux-x86-64.so.2 --library-path /lib --argv0 x /tmp/evil", "/tmp/evil"),
}


@pytest.mark.parametrize("way", PATHS)
def test_a_dropped_file_is_recognised_by_any_name(one_cage: Cage, way: str):
    script, path = PATHS[way]
    report = frozen_by(one_cage, DROP + script, "exec-unsealed")
    assert not path or report.path == path


SCRIPTS = {
    "sh": "echo echo THE PAYLOAD RAN > /tmp/s; sh /tmp/s",
    "sh with options": "echo echo THE PAYLOAD RAN > /tmp/s; sh -e -o errexit -- /tmp/s",
    "busybox": "echo echo THE PAYLOAD RAN > /tmp/s; busybox sh /tmp/s",
    "standard input": "echo echo THE PAYLOAD RAN > /tmp/s; sh < /tmp/s",
    "perl": "echo 'print \"THE PAYLOAD RAN\\n\"' > /tmp/s; perl -w /tmp/s",
    "perl through env": "echo 'print \"THE PAYLOAD RAN\\n\"' > /tmp/s; env perl /tmp/s",
    "awk": "echo 'BEGIN { print \"THE PAYLOAD RAN\" }' > /tmp/s; /bin/awk -f /tmp/s",
    "volume": "echo echo THE PAYLOAD RAN > /data/s; sh /data/s",
    "behind long options": "echo 'print \"THE PAYLOAD RAN\\n\"' > /tmp/s; perl -I$(printf %020000d 0) -w /tmp/s",
    "behind many options": "echo 'print \"THE PAYLOAD RAN\\n\"' > /tmp/s; perl $(printf -- '-w %.0s' $(seq 500)) /tmp/s",
}


@pytest.mark.parametrize("way", SCRIPTS)
def test_a_sealed_interpreter_is_not_started_on_a_dropped_script(one_cage: Cage, way: str):
    report = frozen_by(one_cage, SCRIPTS[way], "script-unsealed")
    assert report.path in ("/tmp/s", "/data/s")


def test_policy_report_lets_a_script_run_and_reports_it(one_cage: Cage):
    assert MARKER in one_cage.run(SCRIPTS["perl"], scripts="report")
    report = one_cage.report()
    assert (report.kind, report.path, report.refused, report.is_frozen) == ("script-unsealed", "/tmp/s", False, False)


@pytest.mark.guest
def test_policy_report_still_refuses_to_execute_what_is_not_sealed(one_cage: Cage):
    said = one_cage.run(DROP + "/tmp/evil; echo THE NEXT INSTRUCTION RAN", exec="report")
    assert MARKER not in said
    assert NEXT in said
    report = one_cage.report()
    assert (report.kind, report.path, report.refused, report.is_frozen) == ("exec-unsealed", "/tmp/evil", True, False)


def test_what_the_kernel_refuses_anyway_is_reported_and_nobody_is_frozen(one_cage: Cage):
    assert NEXT in one_cage.run("echo x > /tmp/data; /tmp/data; echo THE NEXT INSTRUCTION RAN")
    report = one_cage.report()
    assert (report.kind, report.path, report.refused, report.is_frozen) == ("exec-unsealed", "/tmp/data", True, False)


@pytest.mark.guest
def test_ordinary_life_causes_no_report(one_cage: Cage):
    said = one_cage.run(
        "PATH=/tmp:/data:/nowhere:/bin; cd /tmp; true; ls / > /tmp/list; cat < /tmp/list | sort; /opt/script; sh /opt/script; "
        "(cd /opt && ./script); sh -c 'echo inline'; echo 'echo piped' | sh; perl -e 'print \"perl\n\"'; perl -ne 'print' /tmp/list; "
        "/bin/awk '{ print }' /tmp/list; /proc/self/exe true; /tmp; ls /no/such; /no/such; "
        "/lib64/ld-linux-x86-64.so.2 /usr/bin/perl -e 1; echo THE END"
    )
    assert "THE END" in said
    assert said.count("sealed script ran") == 3
    assert "inline" in said
    assert "piped" in said
    assert one_cage.reports.empty()


def test_an_instance_that_nobody_registered_executes_nothing_until_it_is(one_cage: Cage):
    instance, spec = one_cage.prepare("/bin/sh", "-c", "echo it began; sleep 1000")
    one_cage.runtime.start(instance)
    await_true(lambda: one_cage.client.ping()["holding"] == 1)
    assert "it began" not in one_cage.output(instance)
    one_cage.client.register(instance, spec)
    await_true(lambda: "it began" in one_cage.output(instance))


# ---- the second ear alone: a process without the filter, a mount that lost its noexec ----------


def _enter(cage: Cage, *command: str) -> subprocess.CompletedProcess[str]:
    pid = cage.instances[0].pid
    return subprocess.run(["nsenter", "-t", str(pid), "-m", *command], capture_output=True, text=True, check=False)


@pytest.mark.guest
def test_without_noexec_and_without_the_filter_the_file_itself_decides(cage: Cage):
    cage.shell(DROP + "echo dropped; sleep 1000")
    await_true(lambda: "dropped" in cage.output(cage.instances[0]))
    assert _enter(cage, "-p", "/bin/busybox", "mount", "-o", "remount,exec", "/tmp").returncode == 0
    assert _enter(cage, "/bin/busybox", "true").returncode == 0
    done = _enter(cage, "/tmp/evil")
    assert MARKER not in done.stdout
    assert done.returncode != 0
    report = cage.report("exec-unsealed")
    assert report.path == "/tmp/evil"
    assert report.is_frozen
    assert report.detail["by"] == "file identity"
    assert cage.is_quarantined(cage.instances[0])


@pytest.mark.guest
def test_a_stranger_in_a_frozen_instance_executes_nothing_and_is_reported(cage: Cage):
    frozen_by(cage, DROP + "/bin/true; /tmp/evil", "exec-unsealed")
    done = _enter(cage, "/bin/busybox", "echo", MARKER)
    assert MARKER not in done.stdout
    report = cage.report("foreign-process")
    assert report.refused
    assert report.path == "/bin/busybox"
    assert cage.is_quarantined(cage.instances[0])
