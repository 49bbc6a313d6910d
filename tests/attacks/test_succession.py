"""The gate is raced, stormed, and killed: nothing unsealed runs, nothing sealed is lost, nothing frozen thaws."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from stele.host import pidfd
from tests.attacks.cage import DROP, LIMIT_S, MARKER, NEXT, Cage, await_true, frozen_by

pytestmark = pytest.mark.root
STORM = 40 if os.cpu_count() == 1 else 400  # a guest has one, and that is emulated


def flipper(evil: str, times: int) -> str:
    """A name that leads to a sealed program and to the dropped one in turns, while it is executed again and again."""
    turn = 'symlink("{0}", "/tmp/a"); rename("/tmp/a", "/tmp/x");'
    flip = f"while (1) {{ {turn.format('/bin/true')} {turn.format(evil)} }}"
    ask = f'for $i (1..{times}) {{ $p = fork; if (!$p) {{ exec "/tmp/x"; exit 1 }} waitpid $p, 0 }}'
    return f"perl -e '{flip}' & perl -e '{ask}'; kill $!"


@pytest.mark.guest
def test_a_name_that_flips_while_it_is_looked_at_never_runs_the_dropped_file(one_cage: Cage):
    """The first ear can be raced; noexec and the second ear stand behind it."""
    said = one_cage.run(DROP + flipper("/tmp/evil", STORM) + "; echo THE NEXT INSTRUCTION RAN", exec="report")
    assert MARKER not in said
    assert NEXT in said
    assert one_cage.report().kind == "exec-unsealed"


def test_without_noexec_the_flipping_name_is_decided_by_the_file(one_cage: Cage):
    instance = one_cage.shell(
        "while ! test -e /data/go; do sleep 0.01; done; " + DROP + flipper("/tmp/evil", STORM) + "; echo THE END", exec="report"
    )
    remount(one_cage, instance.pid)
    await_true(lambda: "THE END" in one_cage.output(instance), lambda: one_cage.output(instance))
    assert MARKER not in one_cage.output(instance)


def remount(cage: Cage, pid: int) -> None:
    """As a kernel bug or a mistaken administrator would: take noexec away, from outside; then let the attack begin."""
    subprocess.run(["nsenter", "-t", str(pid), "-m", "-p", "/bin/busybox", "mount", "-o", "remount,exec", "/tmp"], check=True)
    cage.let_go()


def storm(times: int) -> str:
    return (
        f'perl -e \'for $i (1..{times}) {{ $p = fork; if (!$p) {{ exec "/bin/true"; exit 77 }} waitpid $p, 0; $bad++ if $? }} '
        'print "storm over, $bad failed\\n"\''
    )


def test_a_storm_of_sealed_programs_causes_no_alarm(one_cage: Cage):
    said = one_cage.run(f"{storm(STORM)} & {storm(STORM)} & wait")
    assert said.count("storm over,  failed") == 2
    assert one_cage.reports.empty()


def kill_gate(cage: Cage) -> int:
    """SIGKILL the gate, as the kernel would for lack of memory; returns its pid."""
    pid = cage.client.ping()["pid"]
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.guest
def test_a_gate_killed_again_and_again_loses_no_exec_and_lets_nothing_through(one_cage: Cage):
    """Every exec of the storm gets its answer, from one gate or its successor; the dropped file is refused by all of them."""
    again = 'if (!($p = fork)) { exec "/tmp/evil"; exit 1 } waitpid $p, 0;'
    attack = f"perl -e 'while (!-e \"/tmp/over\") {{ {again} }}'"
    instance = one_cage.shell(DROP + f"{attack} & {storm(STORM)}; touch /tmp/over; wait; echo THE END; sleep 1000", exec="report")
    killed = set()
    deadline = time.monotonic() + LIMIT_S * 2
    while "THE END" not in one_cage.output(instance):
        killed.add(kill_gate(one_cage))
        await_true(lambda: one_cage.client.ping()["pid"] not in killed)
        assert time.monotonic() < deadline, one_cage.output(instance)
    said = one_cage.output(instance)
    assert "storm over,  failed" in said, said
    assert MARKER not in said
    assert len(killed) >= 3
    assert not one_cage.is_quarantined(instance)


@pytest.mark.guest
def test_a_successor_keeps_what_is_frozen_frozen(cage: Cage):
    frozen_by(cage, DROP + "/tmp/evil", "exec-unsealed")
    instance = cage.instances[0]
    killed = kill_gate(cage)
    await_true(lambda: cage.client.ping()["pid"] != killed)
    assert cage.is_quarantined(instance)
    again = cage.report("exec-unsealed")  # nobody had acknowledged it
    assert again.instance == instance.id
    assert again.is_frozen
    assert NEXT not in cage.output(instance)


@pytest.mark.guest
def test_a_thaw_from_outside_does_not_let_the_offender_go_on(cage: Cage):
    frozen_by(cage, DROP + "/tmp/evil", "exec-unsealed")
    instance = cage.instances[0]
    cage.freezer(instance).thaw()
    await_true(lambda: cage.freezer(instance).is_frozen())
    assert NEXT not in cage.output(instance)


def test_a_new_agent_gets_the_reports_that_the_last_one_did_not_acknowledge(one_cage: Cage):
    frozen_by(one_cage, DROP + "/tmp/evil", "exec-unsealed")
    one_cage.reconnect()
    number, report = one_cage.reports.get(timeout=LIMIT_S)
    assert report.kind == "exec-unsealed"
    one_cage.client.ack(number)
    one_cage.client.ping()
    one_cage.reconnect()
    killed = kill_gate(one_cage)
    await_true(lambda: one_cage.client.ping()["pid"] != killed)
    assert one_cage.report().instance == "", "acknowledged once, it does not come again: only the gate's death is told"


def test_a_parker_that_died_is_replaced_and_gets_everything_back(one_cage: Cage):
    instance = one_cage.shell("echo begun; while ! test -e /data/go; do sleep 0.05; done; " + DROP + f"/tmp/evil; echo {NEXT}")
    await_true(lambda: "begun" in one_cage.output(instance))
    os.kill(parker_of(one_cage), signal.SIGKILL)
    await_true(lambda: not one_cage.client.ping()["parker"])
    await_true(lambda: one_cage.client.ping()["parker"])
    killed = kill_gate(one_cage)
    await_true(lambda: one_cage.client.ping()["pid"] != killed)
    one_cage.let_go()
    report = one_cage.report("exec-unsealed")
    assert report.is_frozen
    assert NEXT not in one_cage.output(instance)


def test_gate_and_parker_both_dead_is_an_incident_and_nothing_executes(one_cage: Cage):
    instance = one_cage.shell("echo begun; while ! test -e /data/go; do sleep 0.05; done; /bin/cat /etc/passwd; sleep 1000")
    await_true(lambda: "begun" in one_cage.output(instance))
    pid = one_cage.client.ping()["pid"]
    for victim in (parker_of(one_cage), pid):
        os.kill(victim, signal.SIGKILL)
    report = one_cage.report("watcher-lost")
    while not report.instance:
        report = one_cage.report("watcher-lost")
    assert report.instance == instance.id
    assert report.is_frozen
    assert "root:" not in one_cage.output(instance)


def parker_of(cage: Cage) -> int:
    (pid,) = pidfd.mentioning(b"stele.watch.parker", str(cage.client._run_dir).encode())
    return pid
