"""A real instance under a real gate, with a shell and a perl inside from which attacks are made."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.demo import elf
from stele.model import spec as specs
from stele.model.release import Release
from stele.watch.client import GateClient
from tests import tiny_release

if TYPE_CHECKING:
    from collections.abc import Callable

    from stele.host.freezer import Freezer
    from stele.model.instance import Instance
    from stele.model.report import Report
    from stele.run.container import Runtime

MARKER = "THE PAYLOAD RAN"  # what an attack's program writes, if it ever runs
LIMIT_S = 120.0  # a guest without hardware virtualisation is slow; nothing waits this long unless it failed
APPLETS = (*tiny_release.APPLETS, "ln", "mv", "rm", "seq", "awk")


def _with_libraries(program: str, root: Path) -> None:
    """Copy a program and everything its loader would map."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for name in (program, *re.findall(r"(/\S+) \(0x", said)):
        target = root / Path(os.path.realpath(name) if name == program else name).relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, target)


def build(folder: Path) -> tuple[Any, Path]:
    """The one stratum of the test release: busybox, perl, a sealed script."""
    root = folder / "attacked"
    for name in ("bin", "proc", "dev", "tmp", "data", "etc", "opt", "run"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    for applet in set(APPLETS):
        (root / "bin" / applet).symlink_to("busybox")
    for program in ("/usr/bin/perl", "/usr/bin/true"):
        _with_libraries(program, root)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
    script = root / "opt" / "script"
    script.write_text("#!/bin/sh\necho sealed script ran\n")
    script.chmod(0o755)
    evil = root / "opt" / "evil.bytes"  # data, not executable: what an attack drops
    evil.write_bytes(elf.tiny(MARKER + "\n"))
    for path, _, _ in os.walk(root):
        os.chmod(path, 0o755)
    path, stratum = tiny_release._image(root, folder / "attacked.tmp", verity=False)
    return stratum, path


@dataclass
class Cage:
    """Runtime, gate and reports of one test."""

    runtime: Runtime
    data: Path
    stratum: Any
    image: Path
    client: GateClient
    reports: queue.Queue[tuple[int, Report]] = field(default_factory=queue.Queue)
    instances: list[Instance] = field(default_factory=list)
    reader: threading.Thread | None = None

    def listen(self) -> None:
        """Collect reports in the background."""

        def read(client: GateClient) -> None:
            for item in client.reports():
                self.reports.put(item)

        self.reader = threading.Thread(target=read, args=(self.client,), daemon=True)
        self.reader.start()

    def reconnect(self) -> None:
        """As a new agent: everything unacknowledged comes again."""
        self.client.close()
        if self.reader is not None:
            self.reader.join()
        while not self.reports.empty():
            self.reports.get()
        self.client = GateClient(self.client._run_dir)
        self.listen()

    def create(self, *command: str, register: bool = True, **watch: str) -> Instance:
        """A created, guarded instance; `watch` overrides the policy."""
        instance, spec = self.prepare(*command, **watch)
        if register:
            self.client.register(instance, spec)
        return instance

    def prepare(self, *command: str, **watch: str) -> tuple[Instance, Any]:
        plain = {
            "stele": 0,
            "name": "caged",
            "command": list(command),
            "watch": watch,
            "writable": [{"path": "/tmp"}, {"path": "/data", "kind": "volume", "volume": "data"}],
        }
        spec = specs.from_builtins(plain)
        zero = "sha256:" + "0" * 64
        digest = "sha256:" + hashlib.sha256(repr(plain).encode()).hexdigest()
        release = Release(
            digest=digest, workload="caged", spec=spec, tree_digest=zero, strata=(self.stratum,), config_digest=zero, manifest_size=0
        )
        instance = self.runtime.create(release, (self.image,), self.data / "volumes")
        self.instances.append(instance)
        return instance, spec

    def shell(self, script: str, **watch: str) -> Instance:
        """Start an instance that runs a shell script."""
        instance = self.create("/bin/sh", "-c", script, **watch)
        self.runtime.start(instance)
        return instance

    def run(self, script: str, **watch: str) -> str:
        """Run a shell script as the instance's command, to its end; what it printed."""
        instance = self.shell(script, **watch)
        await_true(lambda: bool(self.runtime.ended(instance)), lambda: f"{self.output(instance)} {list(self.reports.queue)}")
        return self.output(instance)

    def output(self, instance: Instance) -> str:
        """What an instance has printed."""
        with contextlib.suppress(FileNotFoundError):
            return Path(instance.log).read_text("utf-8", "replace")
        return ""

    def let_go(self) -> None:
        """Make /data/go appear in the instances, for scripts that wait for it."""
        (self.data / "volumes" / "caged" / "data" / "go").touch()

    def report(self, kind: str = "") -> Report:
        """The next report (of a kind), waiting for it."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            _, report = self.reports.get(timeout=max(0.01, deadline - time.monotonic()))
            if not kind or report.kind == kind:
                return report

    def freezer(self, instance: Instance) -> Freezer:
        return self.runtime.freezer(instance)

    def is_quarantined(self, instance: Instance) -> bool:
        return self.freezer(instance).is_frozen() and instance.id in self.client.ping()["quarantined"]

    def remove(self, instance: Instance) -> None:
        """Kill and remove, frozen or not."""
        self.client.unregister(instance.id)
        self.runtime.release_quarantined(instance)
        self.instances.remove(instance)


def await_true(condition: Callable[[], bool], why: Callable[[], str] = lambda: "") -> None:
    """Wait for a condition of the outside world."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {why()}"
        time.sleep(0.002)


DROP = "cat /opt/evil.bytes > /tmp/evil; chmod 755 /tmp/evil; "
NEXT = "THE NEXT INSTRUCTION RAN"
# open the dropped file and execute its descriptor: there is no name to look at
EXECVEAT = (
    'open F, "</tmp/evil"; $e=""; $a="x"; $v=pack("P Q", $a, 0); $n=pack("Q", 0); '
    f"syscall({322 if os.uname().machine == 'x86_64' else 281}, fileno(F), $e, $v, $n, 4096)"
)


def frozen_by(cage: Cage, script: str, kind: str, **watch: str) -> Report:
    """Run an attack that must end frozen, and return its report; nothing it wanted may have happened."""
    instance = cage.shell(f"{script}; echo {NEXT}; sleep 1000", **watch)
    report = cage.report()
    assert report.instance == instance.id
    assert report.kind == kind, report
    assert report.is_frozen, report
    assert 0 < report.seen <= report.decided <= report.frozen
    assert cage.is_quarantined(instance)
    said = cage.output(instance)
    assert MARKER not in said
    assert NEXT not in said
    return report
