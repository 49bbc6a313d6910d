"""One run of a guest: QEMU by TCG, the current source tree in, the command's output and results out."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.qemu import dependencies, image

if TYPE_CHECKING:
    from collections.abc import Callable

CLONE = Path(__file__).resolve().parents[2]
SHARED = ("src", "tests", "examples", "pyproject.toml")
SKIPPED = frozenset({"__pycache__", ".hypothesis", ".pytest_cache"})
# `default` is what Debian boots: pure cgroup v2. `freezer` has the v1 freezer at /run/freezer besides; `hybrid` is
# systemd's layout of that name, as on hosts that kept their v1 controllers.
CGROUPS = ("default", "freezer", "hybrid")
MEMORY_MIB = 512
POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came back from a guest."""

    status: int | None  # exit status of the command; None: the guest never said, see `console`
    output: str
    console: str
    results: dict[str, bytes]  # the files that the command left in /results
    seconds: float
    kernel: str
    timed_out: bool = False


def run(
    suite: image.Suite,
    command: str,
    *,
    cgroups: str = "default",
    timeout: float = 1800,
    echo: Callable[[str], None] | None = None,
) -> Outcome:
    """Boot `suite`, run the shell command in the clone's copy as root, power off.

    Args:
        suite: which Debian release.
        command: for `sh`; the working folder is the clone, PYTHONPATH has src and the locked dependencies.
        cgroups: one of CGROUPS.
        timeout: seconds until the machine is switched off.
        echo: called with the output as it comes.

    Raises:
        image.BuildError: the guest could not be made.
    """
    booted = image.image(suite)
    site = dependencies.site(suite)
    # not /tmp, which may be in memory: all that the guest writes to its disk ends up here
    with tempfile.TemporaryDirectory(prefix="stele-guest-", dir="/var/tmp") as name:
        work = Path(name)
        _write_share(work / "share.tar", command)
        for port in ("out", "results", "console"):
            (work / port).touch()
        started = time.monotonic()
        with subprocess.Popen(
            _qemu(booted, site, work, cgroups),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # snapshot=on keeps what the guest writes in an unlinked file in TMPDIR
            env={**os.environ, "TMPDIR": name},
        ) as process:
            try:
                _follow(process, work / "out", started + timeout, echo)
            finally:
                process.kill()
                said, _ = process.communicate()
        seconds = time.monotonic() - started
        output = _text(work / "out")
        console = _text(work / "console") + said.decode("utf-8", "replace")
        ended = re.search(r"^EXIT=(\d+)$", output, re.MULTILINE)
        return Outcome(
            status=int(ended[1]) if ended else None,
            output=output[: ended.start()].rstrip() + "\n" if ended else output,
            console=console,
            results=_results(work / "results"),
            seconds=seconds,
            kernel=booted.release,
            timed_out=seconds >= timeout,
        )


def console_tail(outcome: Outcome, lines: int = 40) -> str:
    """What to show when the guest did not say how it ended: that is a failure of the machine, not of the command."""
    tail = "\n".join(outcome.console.rstrip().splitlines()[-lines:])
    how = "was switched off, its time being up" if outcome.timed_out else "crashed or never booted"
    return f"the guest ({outcome.kernel}) {how} after {outcome.seconds:.0f} s, without an EXIT line. The end of its console:\n{tail}"


def _qemu(booted: image.Image, site: Path, work: Path, cgroups: str) -> list[str]:
    append = f"console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on stele.cgroups={cgroups}"
    return [
        *("setpriv", "--pdeathsig", "KILL"),  # a killed test run leaves no machine behind
        "qemu-system-x86_64",
        *("-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "Nehalem"),
        *("-smp", "1"),  # with 2, one boot of 6.12 in about 45 crashed
        *("-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(booted.kernel), "-initrd", str(booted.initrd), "-append", append),
        *("-drive", f"file={booted.root},format=raw,if=none,id=r,snapshot=on", "-device", "virtio-blk-pci,drive=r"),
        *("-drive", f"file={work}/share.tar,format=raw,if=none,id=s,readonly=on", "-device", "virtio-blk-pci,drive=s"),
        *("-drive", f"file={site},format=raw,if=none,id=p,readonly=on", "-device", "virtio-blk-pci,drive=p"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"file,id=o,path={work}/out", "-device", "virtserialport,chardev=o,name=out"),
        *("-chardev", f"file,id=q,path={work}/results", "-device", "virtserialport,chardev=q,name=results"),
        *("-serial", f"file:{work}/console"),
    ]


def _follow(process: subprocess.Popen[bytes], out: Path, deadline: float, echo: Callable[[str], None] | None) -> None:
    with out.open("r", encoding="utf-8", errors="replace") as stream:
        while True:
            running = process.poll() is None
            if echo is not None and (new := stream.read()):
                echo(re.sub(r"\n*^EXIT=\d+$\n?", "", new, flags=re.MULTILINE))
            if not running or time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS)


def _write_share(path: Path, command: str) -> None:
    """A tar for the guest's second disk: boot script, command, and the working tree as it is, committed or not."""

    def add(share: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), mode
        share.addfile(member, io.BytesIO(data))

    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as share:
        add(share, "boot", (CLONE / "tests/qemu/guest/boot").read_bytes())
        add(share, "command", command.encode() + b"\n")
        for name in SHARED:
            for found in (CLONE / name, *sorted((CLONE / name).rglob("*"))):
                if SKIPPED.isdisjoint(found.parts) and found.is_file():
                    # somebody may be editing: what goes away between listing and reading was not part of the tree
                    with contextlib.suppress(FileNotFoundError):
                        add(share, f"clone/{found.relative_to(CLONE)}", found.read_bytes(), found.stat().st_mode & 0o777)


def _results(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and (stream := archive.extractfile(member)) is not None:
                    files[member.name.removeprefix("./")] = stream.read()
    except tarfile.ReadError:
        pass  # the guest ended early; the missing EXIT line tells
    return files


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
