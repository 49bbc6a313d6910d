"""The writable places of a frozen instance as tar files, read through descriptors that cannot leave its root."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from stele.host import evidence_proc
from stele.respond.archive import Archive, Budget

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stele.respond.bundle import Stream, Writer

MAX_ENTRIES = 200_000
MAX_PATH = 1024  # bytes; a folder below a longer path is continued under a short name
LEASE_SLACK_S = 2
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC


def collect(out: Writer, pid: int, paths: Sequence[str], budget: Budget) -> None:
    """One tar and one listing per path into the bundle; what is left out is told to the budget.

    Raises:
        OSError: the root of the process cannot be opened.
        SteleError: `evidence.no-space`.
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    index = {}
    try:
        for number, path in enumerate(paths):
            # two paths may differ in what cannot be in a name only
            name = f"{number}-{re.sub('[^A-Za-z0-9._-]', '_', path.strip('/'))[:100]}"
            try:
                top = evidence_proc.open_in_root(root, path, FOLDER)
            except OSError as error:
                index[path] = {"missing": error.strerror}
                continue
            if not evidence_proc.is_tmpfs(top):
                # a folder above it is writable, and was replaced: what is there is not what the spec declares
                os.close(top)
                index[path] = {"missing": "there is no tmpfs at this path"}
                continue
            index[path] = {"tar": f"files/{name}.tar", "listing": f"files/{name}.jsonl"}
            try:
                _archived(out, f"files/{name}", lambda archive, top=top: _folder(archive, top, budget), budget)  # type: ignore[misc]
            finally:
                os.close(top)
    finally:
        os.close(root)
        out.add("files/index.json", json.dumps(index, indent=1, sort_keys=True).encode("ascii"))


def _archived(out: Writer, name: str, fill: Callable[[Archive], None], budget: Budget) -> None:
    """Two files written side by side: the tar and its listing."""

    def both(listing: Stream) -> None:
        def tar(stream: Stream) -> None:
            archive = Archive(stream, listing, budget)
            fill(archive)
            archive.close()

        out.add_with(f"{name}.tar", tar)

    out.add_with(f"{name}.jsonl", both)


def _folder(archive: Archive, top: int, budget: Budget) -> None:
    walk = _Walk(archive, top, budget)
    walk.run()
    _leased(archive, walk.leased, lambda path: evidence_proc.open_beneath(top, path, evidence_proc.CONTENT | os.O_NOATIME), budget)


class _Level(NamedTuple):
    """A folder on the way down: its path, what identifies it, and its subfolders that are still to be visited (last first)."""

    where: str
    identity: tuple[int, int]
    folders: list[str]


class _Walk:
    """Every entry below a folder. Depth is the attacker's choice: one descriptor is held, the way back up is `..`, checked."""

    def __init__(self, archive: Archive, top: int, budget: Budget) -> None:
        self.leased: dict[str, str] = {}
        self._archive = archive
        self._budget = budget
        self._here = os.open(".", FOLDER, dir_fd=top)
        self._device = os.fstat(top).st_dev

    def run(self) -> None:
        try:
            levels = [self._enter(".")]
            while levels:
                level = levels[-1]
                if level.folders and self._budget.entries > 0:
                    child = level.folders.pop()
                    where = f"{level.where}/{child}"
                    try:
                        where = self._path(level.where, child)
                        self._change(child)
                        levels.append(self._enter(where))
                    except OSError as error:
                        self._budget.left_out.append(f"{where}: {error.strerror}")
                        if self._identity() != level.identity and not self._back(level):
                            return
                    continue
                levels.pop()
                if levels and not self._back(levels[-1]):
                    return
        finally:
            os.close(self._here)

    def _path(self, above: str, child: str) -> str:
        path = f"{above}/{child}"
        if len(os.fsencode(path)) <= MAX_PATH:
            return path
        short = f"./stele-deep-{os.stat(child, dir_fd=self._here, follow_symlinks=False).st_ino}"
        self._budget.left_out.append(f"{path}: too deep for one path, continued as {short}")
        return short

    def _identity(self) -> tuple[int, int]:
        found = os.fstat(self._here)
        return found.st_dev, found.st_ino

    def _change(self, name: str) -> None:
        there = os.open(name, FOLDER, dir_fd=self._here)
        os.close(self._here)
        self._here = there

    def _back(self, level: _Level) -> bool:
        self._change("..")
        if self._identity() == level.identity:
            return True
        self._budget.left_out.append(f"{level.where}: moved while it was read; the rest is left out")
        return False

    def _enter(self, where: str) -> _Level:
        """Append the folder we are in and everything in it that is not a folder."""
        self._archive.add(where, os.fstat(self._here), self._here)
        folders = []
        for child in sorted(os.listdir(self._here)):
            path = f"{where}/{child}"
            if self._budget.entries <= 0:
                self._budget.left_out.append(f"{path} and what follows: more than {MAX_ENTRIES} entries")
                break
            self._budget.entries -= 1
            try:
                if self._child(child, path):
                    folders.append(child)
            except OSError as error:
                self._budget.left_out.append(f"{path}: {error.strerror}")
        return _Level(where, self._identity(), folders[::-1])

    def _child(self, child: str, path: str) -> bool:
        """Append an entry; True if it is a folder to be visited."""
        found = os.stat(child, dir_fd=self._here, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            if found.st_dev != self._device:
                self._archive.list_only(path, found)
                self._budget.left_out.append(f"{path}: another file system")
                return False
            return True
        if not stat.S_ISREG(found.st_mode):
            target = os.readlink(child, dir_fd=self._here) if stat.S_ISLNK(found.st_mode) else ""
            self._archive.add(path, found, target=target)
            return False
        try:
            fd = evidence_proc.open_content(child, dir_fd=self._here)
        except BlockingIOError:
            self.leased[path] = path
            return False
        try:
            self._archive.add(path, os.fstat(fd), fd)
        finally:
            os.close(fd)
        return False


def _leased(archive: Archive, waiting: Mapping[str, str], reopen: Callable[[str], int], budget: Budget) -> None:
    """Files with a lease: the first look told the kernel to break it, and it does so in its time. One wait for all of them."""
    deadline = time.monotonic() + evidence_proc.lease_break_s() + LEASE_SLACK_S
    for where, path in waiting.items():
        try:
            fd = _patiently(reopen, path, deadline)
        except OSError as error:
            budget.left_out.append(f"{where}: {error.strerror} (leased); its content is left out")
            continue
        try:
            archive.add(where, os.fstat(fd), fd)
        except OSError as error:
            budget.left_out.append(f"{where}: {error.strerror}")
        finally:
            os.close(fd)


def _patiently(reopen: Callable[[str], int], path: str, deadline: float) -> int:
    while True:
        try:
            return reopen(path)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def deleted(out: Writer, name: str, found: Mapping[str, str], seen: dict[tuple[int, int], str], budget: Budget) -> None:
    """One tar of files that have no name any more, from the links of /proc by their name in the tar.

    Args:
        out: the bundle.
        name: the tar in it, without `.tar`.
        found: name in the tar to path in /proc.
        seen: what other tars already hold, by identity; added to.
        budget: shared by all.
    """
    if not found:
        return

    def reopen(path: str) -> int:
        return evidence_proc.open_content(path, follow=True)

    def fill(archive: Archive) -> None:
        waiting = {}
        for where, path in found.items():
            try:
                fd = reopen(path)
            except BlockingIOError:
                waiting[where] = path
                continue
            except OSError as error:
                budget.left_out.append(f"{name}: {where}: {error.strerror}")
                continue
            try:
                facts = os.fstat(fd)
                held = seen.setdefault((facts.st_dev, facts.st_ino), f"{name}: {where}")
                if held == f"{name}: {where}":
                    archive.add(where, facts, fd)
                else:
                    budget.left_out.append(f"{name}: {where}: the same file as {held}")
            except OSError as error:
                budget.left_out.append(f"{name}: {where}: {error.strerror}")
            finally:
                os.close(fd)
        _leased(archive, waiting, reopen, budget)

    _archived(out, name, fill, budget)
