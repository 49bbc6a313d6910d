"""A real process frozen in a cgroup of its own, and collecting evidence from it."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stele.host import cgroup
from stele.model import spec as specs
from stele.model.instance import Instance
from stele.model.report import Report
from stele.respond import collect
from stele.trust.release_key import PrivateKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stele.host.freezer import Freezer, Kind
    from stele.respond.bundle import Sealed

GROUPS = cgroup.find()
KINDS = GROUPS.kinds()
LIMIT_S = 60.0  # of a slow guest; nothing waits this long unless it failed
MIB = 1 << 20


@dataclass
class Victim:
    """A process that said "ready" and was frozen; `said` is what it wrote besides."""

    pid: int
    freezer: Freezer
    said: list[str]

    def pids(self) -> list[int]:
        return sorted(self.freezer.pids(), key=lambda pid: (pid != self.pid, pid))

    def read(self, name: str) -> bytes:
        return Path(f"/proc/{self.pid}/{name}").read_bytes()


@contextlib.contextmanager
def victim(script: str, *args: str, kind: Kind | None = None, before: Sequence[str] = (), **popen: Any) -> Iterator[Victim]:
    """Run a Python script (behind the command `before`) until it prints "ready", and freeze it."""
    path = f"stele-test-{secrets.token_hex(4)}"
    freezer = GROUPS.freezer(path, kind or KINDS[0])
    freezer.folder.mkdir()
    process = subprocess.Popen([*before, sys.executable, "-c", script, *args], stdout=subprocess.PIPE, text=True, **popen)
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            if line == "ready\n":
                break
            said.append(line.rstrip("\n"))
        else:
            raise AssertionError(f"the victim did not become ready: {said}")
        for pid in _family(process.pid):
            (freezer.folder / "cgroup.procs").write_text(str(pid))
        freezer.request()
        freezer.await_frozen(LIMIT_S)
        yield Victim(process.pid, freezer, said)
    finally:
        freezer.thaw()
        cgroup.kill_members(GROUPS, path, LIMIT_S)
        process.kill()
        process.wait()
        process.stdout.close()
        assert not cgroup.remove(GROUPS, path)


def _family(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for tid in os.listdir(f"/proc/{parent}/task"):
            found += [int(child) for child in Path(f"/proc/{parent}/task/{tid}/children").read_text().split()]
    return found


def instance(pid: int) -> Instance:
    texts = dict.fromkeys(("address", "gateway", "netns", "veth", "run_dir", "rootfs", "freezer_dir", "log"), "")
    return Instance(
        id="victim-000001",
        workload="victim",
        release="sha256:" + "0" * 64,
        slot=0,
        uid_base=0,
        root_dev=0,
        pid=pid,
        start_ticks=0,
        freezer=KINDS[0],
        cgroup_id=0,
        enforcement="kernel-verified",
        **texts,
    )


def spec(*paths: str) -> specs.Spec:
    return specs.Spec(stele=0, name="victim", command=("/bin/true",), writable=tuple(specs.Writable(path=path) for path in paths))


def gather(
    folder: Path,
    frozen: Victim,
    *paths: str,
    memory: int = 512 * MIB,
    files: int = 256 * MIB,
    key: PrivateKey | None = None,
    report: Report | None = None,
    pids: Sequence[int] = (),
) -> Sealed:
    """Collect from a victim with the tmpfs `paths`; volatile things as `flow` passes them."""
    return collect.collect(
        folder,
        instance(frozen.pid),
        spec(*paths),
        report or Report(instance="victim-000001", kind="exec-unsealed", pid=frozen.pid, is_frozen=True),
        pids=pids or frozen.pids(),
        extras={"instance.log": b"a line\n"},
        bounds=collect.Bounds(memory=memory, files=files),
        signer=key or PrivateKey.generate(),
        machine=os.uname().machine,
        facts={"incident": folder.name, "kind": "exec-unsealed", "time_ns": 1},
    )
