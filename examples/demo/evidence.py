"""The frozen instance and what was collected from it: shown, checked, and opened with a debugger where there is one."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

from examples.demo.show import WORKLOAD

if TYPE_CHECKING:
    from pathlib import Path

    from examples.demo.show import Show


def evidence(show: Show) -> None:
    """Look at the first incident, whose instance is still there."""
    show.screen.section("The frozen instance and its evidence")
    if not show.screen.expect("there is an incident to look at", holds=bool(show.incidents)):
        return
    incident = show.incidents[0]
    frozen = {entry["incident"]: entry["instance"] for entry in show.stele.status(WORKLOAD).get("frozen", [])}
    show.screen.expect(f"all {len(show.incidents)} attacked instances are still kept, frozen", holds=frozen.keys() >= set(show.incidents))
    states = _states(frozen.get(incident, incident))
    if states:
        said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        show.screen.say(f"processes of {frozen[incident]}: {said}")
    files = show.stele.call("evidence", "list", incident)
    total = sum(file["size"] for file in files)
    show.screen.say(f"{len(files)} files, {total / (1 << 20):.1f} MiB:")
    show.screen.table([(file["name"], _size(file["size"])) for file in _telling(files)], head=("FILE", "SIZE"))
    checked = show.stele.call("evidence", "verify", incident)
    show.screen.expect("every file is as it was signed", holds=checked["problems"] == [])
    folder = show.where.data / "evidence" / incident
    _open_core(show, folder)
    _spoil_copy(show, incident, folder)


def _size(count: int) -> str:
    return f"{count} B" if count < 1024 else f"{count / 1024:.0f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"


def _telling(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most four of each folder, and one of each kind (the same name with other numbers)."""
    kinds: set[str] = set()
    folders: Counter[str] = Counter()
    chosen = []
    for file in sorted(files, key=lambda file: (file["name"].partition("/")[0], -file["size"])):
        kind = re.sub(r"\d+", "N", file["name"])
        folder = kind.partition("/")[0] if "/" in kind else ""
        if kind not in kinds and folders[folder] < 4:
            chosen.append(file)
            folders[folder] += 1
        kinds.add(kind)
    return chosen


def _states(instance: str) -> Counter[str]:
    """What the kernel says of the processes in the instance's control group."""
    from examples.demo.host_state import cgroups_named

    found: Counter[str] = Counter()
    for folder in cgroups_named(instance):
        for name, words in (("cgroup.events", {"frozen 1": "frozen"}), ("freezer.state", {"FROZEN": "frozen"})):
            try:
                text = (folder / name).read_text()
                pids = (folder / "cgroup.procs").read_text().split()
            except OSError:
                continue
            if any(word in text for word in words) and pids:
                found["frozen"] = max(found["frozen"], len(pids))
    return found


def _open_core(show: Show, folder: Path) -> None:
    cores = sorted(folder.rglob("*.core"), key=lambda path: path.stat().st_size)
    if not show.screen.expect("the memory of its processes is there, as core files", holds=bool(cores)):
        return
    if shutil.which("gdb") is None:
        show.screen.note("gdb is not installed; with it, the cores could be looked into here")
        return
    register = "pc" if platform.machine() == "aarch64" else "rip"
    argv = ["gdb", "-nx", "-batch", "-core", str(cores[0]), "-ex", f"info registers {register}"]
    show.screen.command([*argv[:4], str(cores[0].relative_to(folder)), *argv[5:]])
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("Core was generated", register))]
    for line in lines:
        show.screen.quote(line)
    show.screen.expect("gdb reads it", holds=any(line.startswith(register) for line in lines))


def _spoil_copy(show: Show, incident: str, folder: Path) -> None:
    """Change one byte of a file of a bundle, see it caught, and put the byte back."""
    files = sorted(
        (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size), key=lambda path: (path.suffix == ".json", path)
    )
    victim = files[0]
    whole = victim.read_bytes()
    try:
        victim.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        status, found = show.stele.try_("evidence", "verify", incident, show=False)
    finally:
        victim.write_bytes(whole)
    caught = status == 1 and isinstance(found, dict) and bool(found.get("problems"))
    show.screen.expect(f"one bit changed in {victim.relative_to(folder)} is caught", holds=caught)
