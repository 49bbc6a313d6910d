"""The sensor: changes on writable places, the mount table, writes that the sealed root refused."""

from __future__ import annotations

import queue
import subprocess
from typing import TYPE_CHECKING

import pytest

from stele.watch import pace
from stele.watch.sensor import Sensor
from tests.attacks.cage import LIMIT_S, Cage, await_true

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.model.instance import Instance
    from stele.model.report import Report

pytestmark = pytest.mark.root


class Ear:
    """A sensor and what it told."""

    def __init__(self, cage: Cage) -> None:
        self.cage = cage
        self.told: queue.Queue[Report] = queue.Queue()
        self.sensor = Sensor(self.told.put)

    def run(self, script: str, **watch: str) -> Instance:
        """Start a script under the sensor; it waits at its end."""
        instance, spec = self.cage.prepare("/bin/sh", "-c", f"{script}; echo THE END; sleep 1000", **watch)
        self.cage.client.register(instance, spec)
        self.sensor.watch(instance, spec)
        self.cage.runtime.start(instance)
        await_true(lambda: "THE END" in self.cage.output(instance), lambda: self.cage.output(instance))
        return instance

    def until(self, kind: str, path: str, **detail: str) -> Report:
        """The first report of a kind and path whose details hold these texts; what comes before it is not looked at."""
        seen = []
        while True:
            try:
                report = self.told.get(timeout=LIMIT_S / 4)
            except queue.Empty:
                raise AssertionError(f"no {kind} of {path} among {seen}") from None
            seen.append((report.kind, report.path, report.detail))
            if (report.kind, report.path) == (kind, path) and all(text in report.detail.get(key, "") for key, text in detail.items()):
                return report


@pytest.fixture
def ear(one_cage: Cage) -> Iterator[Ear]:
    made = Ear(one_cage)
    yield made
    made.sensor.close()


@pytest.mark.guest
def test_a_refused_write_to_the_sealed_root_is_reported_with_path_and_process(ear: Ear):
    instance = ear.run('echo x > /etc/passwd; cd /etc; perl -e \'mkdir "new" or print "$!\\n"; sleep 1\'')
    assert "Read-only file system" in ear.cage.output(instance)
    report = ear.until("write-refused", "/etc/passwd")
    assert (report.instance, report.syscall, report.comm, report.refused) == (instance.id, "openat", "sh", True)
    assert report.pid > 0
    report = ear.until("write-refused", "/etc/new")
    assert (report.syscall, report.comm, report.exe) == ("mkdir", "perl", "/usr/bin/perl")


def test_repeated_refused_writes_become_one_report_with_a_count(ear: Ear):
    ear.run("perl -e 'for (1..5000) { open F, \">/opt/script\" }'")
    assert ear.until("write-refused", "/opt/script").count == 1
    total = 0
    while total < 4999:
        report = ear.told.get(timeout=LIMIT_S / 4)
        assert report.kind == "write-refused"
        total += report.count
    assert total == 4999, "every one is counted"


@pytest.mark.guest
def test_a_program_dropped_on_tmpfs_is_reported_for_what_it_is(ear: Ear):
    instance = ear.run(
        "cat /opt/evil.bytes > /tmp/evil; chmod 755 /tmp/evil; sleep 1; mkdir /tmp/d; mv /tmp/evil /tmp/d/moved; rm /tmp/d/moved"
    )
    assert ear.until("change", "/tmp/evil", what="created").instance == instance.id
    ear.until("change", "/tmp/evil", looks="a program (ELF)", mode="0755")
    ear.until("change", "/tmp/d/moved", what="renamed")


@pytest.mark.guest
def test_a_script_dropped_into_a_new_folder_of_a_volume_is_reported(ear: Ear):
    ear.run("mkdir -p /data/a; sleep 0.5; printf '#!/bin/sh\\n' > /data/a/s; chmod 700 /data/a/s; sleep 1")
    ear.until("change", "/data/a", what="created")
    report = ear.until("change", "/data/a/s", looks="a script (#!)")
    assert report.comm in ("sh", "chmod", "")


def test_a_flood_of_changes_becomes_a_sum(ear: Ear):
    ear.run("perl -e 'for (1..2000) { open F, \">/tmp/f$_\"; close F }'")
    total, reports = 0, []
    while total < 4000:  # each is created and written; the kernel may join the two
        try:
            report = ear.told.get(timeout=3)
        except queue.Empty:
            break
        if report.kind == "change":
            reports.append(report)
            total += report.count
    assert total >= 2000
    assert len(reports) < total / 10
    assert any("more than" in report.detail.get("more", "") for report in reports)
    assert pace.PATHS < 2000


def test_ignored_changes_are_not_watched(ear: Ear):
    ear.run("echo x > /tmp/x; echo y > /etc/y", changes="ignore")
    assert ear.until("write-refused", "/etc/y").refused
    assert ear.told.empty()


@pytest.mark.guest
def test_a_mount_made_from_outside_is_reported(ear: Ear):
    instance = ear.run("true")
    command = ["nsenter", "-t", str(instance.pid), "-m", "-p", "/bin/busybox", "mount"]
    subprocess.run([*command, "-o", "remount,exec", "/tmp"], check=True)
    report = ear.until("mount-change", "/tmp", what="added")
    assert "noexec" not in report.detail["options"]
    subprocess.run([*command, "-t", "tmpfs", "x", "/opt"], check=True)
    assert ear.until("mount-change", "/opt", what="added").detail["type"] == "tmpfs"


def test_forgetting_lets_the_instance_be_taken_apart(ear: Ear):
    instance = ear.run("echo x > /tmp/x; echo y > /data/y")
    ear.sensor.forget(instance.id)
    ear.cage.remove(instance)
    ear.sensor.forget(instance.id)
