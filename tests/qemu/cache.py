"""What is expensive to make and outlives a run: one folder outside the clone, filled atomically, one builder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNUSED_SECONDS = 14 * 24 * 3600


def invoking_user() -> pwd.struct_passwd:
    """Whoever typed the command: with sudo its caller, so that the cache is theirs and is found again without sudo."""
    if os.geteuid() == 0 and (caller := os.environ.get("SUDO_UID", "")).isdigit():
        with contextlib.suppress(KeyError):  # a uid without a passwd entry: then it is ours after all
            return pwd.getpwuid(int(caller))
    return pwd.getpwuid(os.geteuid())


def folder() -> Path:
    """`$STELE_CACHE`, else `stele` below the invoking user's cache folder; made when it is missing."""
    user = invoking_user()
    if named := os.environ.get("STELE_CACHE"):
        where = Path(named)
    elif (xdg := os.environ.get("XDG_CACHE_HOME")) and user.pw_uid == os.geteuid():
        where = Path(xdg) / "stele"
    else:
        where = Path(user.pw_dir) / ".cache" / "stele"
    missing = [part for part in (where, *where.parents) if not part.exists()]
    where.mkdir(parents=True, exist_ok=True)
    for part in missing:
        _hand_over(part)
    return where


def made_once(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; `build` fills it when it is not there.

    It appears under its name only when complete: a build that is killed leaves a `.partial-` folder, which the next
    one removes. Other versions of the same thing (the name up to its last dash) go once they were unused for long;
    not at once, because two clones or branches may want different ones in turn.
    """
    cache = folder()
    done = cache / name
    stem = name.rpartition("-")[0]
    with _locked(cache / f"{stem}.lock"):
        if done.is_dir():
            with contextlib.suppress(OSError):  # a note of use; somebody else's cache may be read-only
                os.utime(done)
            return done
        for left in cache.glob(f".partial-{stem}-*"):
            shutil.rmtree(left, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f".partial-{stem}-", dir=cache))
        try:
            build(partial)
            partial.chmod(0o755)
            for part in (partial, *partial.rglob("*")):
                _hand_over(part)
            partial.rename(done)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        for old in cache.glob(f"{stem}-*"):
            if old.name.rpartition("-")[0] == stem and time.time() - old.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    return done


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        _hand_over(path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _hand_over(path: Path) -> None:
    user = invoking_user()
    if os.geteuid() == 0 and user.pw_uid != 0:
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
