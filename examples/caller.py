"""Who called: under sudo, what the demo makes belongs to the person who typed the command, not to root."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import NamedTuple


class Caller(NamedTuple):
    """The person at the keyboard."""

    uid: int
    gid: int
    home: Path
    name: str

    def give(self, path: Path) -> None:
        """Make `path`, and all below it, belong to the caller; symbolic links themselves, not what they lead to."""
        if os.geteuid() != 0 or self.uid == 0:
            return
        os.lchown(path, self.uid, self.gid)
        if path.is_dir() and not path.is_symlink():
            for folder, folders, files in os.walk(path):
                for name in (*folders, *files):
                    os.lchown(os.path.join(folder, name), self.uid, self.gid)

    def make_folder(self, path: Path) -> None:
        """Create `path` and its missing parents for the caller."""
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for parent in reversed(missing):
            if os.geteuid() == 0:
                os.lchown(parent, self.uid, self.gid)


def caller() -> Caller:
    """The user behind sudo, else the present one."""
    uid = os.getuid()
    given = os.environ.get("SUDO_UID", "")
    if uid == 0 and given.isdecimal():
        uid = int(given)
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # a number without a name, as in some containers
        return Caller(uid, os.getgid(), Path(os.environ.get("HOME", "/")), str(uid))
    home = os.environ.get("HOME") if uid == os.getuid() else None
    return Caller(uid, entry.pw_gid, Path(home or entry.pw_dir), entry.pw_name)
