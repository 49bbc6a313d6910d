"""The writable places of a frozen instance as tar files, read through descriptors that cannot leave its root."""

from __future__ import annotations

import functools
import os
import stat
import tarfile
from typing import TYPE_CHECKING

from stele.host import evidence_proc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.respond.bundle import Writer

MAX_ENTRIES = 200_000
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class _Budget:
    def __init__(self, size: int) -> None:
        self.size = size
        self.entries = MAX_ENTRIES
        self.left_out: list[str] = []


def collect(out: Writer, pid: int, paths: Sequence[str], limit: int) -> None:
    """One tar per path into the bundle, at most `limit` bytes of file content in all; what is left out is listed."""
    budget = _Budget(limit)
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        out.add("files/unreachable", b"the root of the first process could not be opened\n")
        return
    try:
        for number, path in enumerate(paths):
            try:
                top = evidence_proc.open_in_root(root, path, FOLDER)
            except OSError as error:
                out.add(f"files/{number}.missing", f"{path}: {error.strerror}\n".encode())
                continue
            try:
                out.add_with(f"files/{path.strip('/').replace('/', '_')}.tar", functools.partial(_tar, top=top, budget=budget))
            finally:
                os.close(top)
    finally:
        os.close(root)
    if budget.left_out:
        out.add("files/left-out", "\n".join(budget.left_out[:10_000]).encode("utf-8", "surrogateescape"))


def _tar(fd: int, top: int, budget: _Budget) -> None:
    with os.fdopen(os.dup(fd), "wb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _folder(tar, top, ".", budget)


def _folder(tar: tarfile.TarFile, fd: int, name: str, budget: _Budget) -> None:
    # an explicit stack, a path of descriptors at most a few deep at a time: depth is the attacker's choice
    pending = [(name, os.dup(fd))]
    while pending:
        where, folder = pending.pop()
        try:
            _entry(tar, where, os.fstat(folder), folder, budget)
            for child in sorted(os.listdir(folder)):
                budget.entries -= 1
                if budget.entries < 0:
                    budget.left_out.append(f"{where}/… (more than {MAX_ENTRIES} entries)")
                    break
                _child(tar, folder, child, f"{where}/{child}", pending, budget)
        except OSError as error:
            budget.left_out.append(f"{where}: {error.strerror}")
        finally:
            os.close(folder)


def _child(tar: tarfile.TarFile, folder: int, child: str, where: str, pending: list[tuple[str, int]], budget: _Budget) -> None:
    try:
        found = os.stat(child, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            if len(pending) > 512 or where.count("/") > 200:
                budget.left_out.append(f"{where}: too deep or too wide")
                return
            pending.append((where, os.open(child, FOLDER, dir_fd=folder)))
        elif stat.S_ISREG(found.st_mode):
            # never opened before it is known to be a regular file: a fifo would block, a device would act
            fd = os.open(child, PLAIN, dir_fd=folder)
            try:
                _entry(tar, where, os.fstat(fd), fd, budget)
            finally:
                os.close(fd)
        else:
            target = os.readlink(child, dir_fd=folder) if stat.S_ISLNK(found.st_mode) else ""
            _entry(tar, where, found, -1, budget, target)
    except OSError as error:
        budget.left_out.append(f"{where}: {error.strerror}")


def _entry(tar: tarfile.TarFile, where: str, found: os.stat_result, fd: int, budget: _Budget, target: str = "") -> None:
    info = tarfile.TarInfo(where)
    info.mode, info.uid, info.gid, info.mtime = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, int(found.st_mtime)
    if fd >= 0:
        info.pax_headers = {
            f"SCHILY.xattr.{key}": evidence_proc.xattr(fd, key).decode("utf-8", "surrogateescape") for key in evidence_proc.xattr_names(fd)
        }
    if stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(found.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, target
    elif stat.S_ISFIFO(found.st_mode):
        info.type = tarfile.FIFOTYPE
    elif stat.S_ISREG(found.st_mode):
        if found.st_size > budget.size:
            budget.left_out.append(f"{where}: {found.st_size} bytes, over the budget")
            return
        budget.size -= found.st_size
        info.size = found.st_size
        with os.fdopen(os.dup(fd), "rb") as content:
            tar.addfile(info, content)
        return
    else:
        budget.left_out.append(f"{where}: socket or device")
        return
    tar.addfile(info)
