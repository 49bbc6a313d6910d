"""User namespaces as the carriers of id maps: made in about a millisecond, without running Python in a child."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from stele.host import syscalls
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator

IDS = 65536
_CHILD_LIFE_S = 10


@contextlib.contextmanager
def mapped(base: int) -> Iterator[int]:
    """A descriptor of a user namespace that maps 0..65535 to `base`..`base`+65535, users and groups alike.

    Raises:
        SteleError: `run.no-user-namespaces`.
    """
    try:
        pid = syscalls.clone_sleeper(syscalls.CLONE_NEWUSER | signal.SIGCHLD, _CHILD_LIFE_S)
    except OSError as error:
        raise SteleError(
            f"no user namespace could be made: {error.strerror}",
            remedy="allow user namespaces: sysctl user.max_user_namespaces and kernel.unprivileged_userns_clone",
            code="run.no-user-namespaces",
        ) from error
    try:
        for name in ("uid_map", "gid_map"):
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, f"0 {base} {IDS}\n".encode())
            finally:
                os.close(fd)
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    try:
        yield fd
    finally:
        os.close(fd)
