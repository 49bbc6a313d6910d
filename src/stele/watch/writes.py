"""Writes that the kernel refused to the sealed root (-EROFS), with path and process (docs/adr/0011-refused-writes.md).

No permission event, no notification tells of them; a BPF program at the exit of system calls does. It looks at the result
first, then whether the caller is in a guarded cgroup, and only then copies anything.
"""

from __future__ import annotations

import errno
import os
import platform
import posixpath
import struct
from typing import TYPE_CHECKING, NamedTuple

from stele.host import bpf, procfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.model.instance import Instance

_RING = 1 << 18
_MOST_GROUPS = 4096
_PATH = 512


class _Machine(NamedTuple):
    """Where struct pt_regs has what, in bytes: its size, the call's number, the six arguments; and the calls that write."""

    size: int
    number: int
    arguments: tuple[int, ...]
    calls: dict[int, _Call]


class _Call(NamedTuple):
    """A call that writes. `path`, `folder`: which argument is the path, which the descriptor it starts at; -1 if none."""

    name: str
    path: int
    folder: int


def _calls(by_form: dict[tuple[int, int], str]) -> dict[int, _Call]:
    words = ((form, word.split("=")) for form, text in by_form.items() for word in text.split())
    return {int(number): _Call(name, *form) for form, (name, number) in words}


_MACHINES = {
    "x86_64": _Machine(
        128,
        120,
        (112, 104, 96, 56, 72, 64),
        _calls(
            {
                (0, -1): "open=2 creat=85 truncate=76 mkdir=83 rmdir=84 unlink=87 rename=82 mknod=133 chmod=90 chown=92 lchown=94 "
                "utime=132 utimes=235 setxattr=188 lsetxattr=189 removexattr=197 lremovexattr=198",
                (1, -1): "link=86 symlink=88",
                (1, 0): "openat=257 openat2=437 mkdirat=258 mknodat=259 fchownat=260 futimesat=261 unlinkat=263 renameat=264 "
                "fchmodat=268 fchmodat2=452 utimensat=280 renameat2=316",
                (2, 1): "symlinkat=266",
                (3, 2): "linkat=265",
                (-1, 0): "fchmod=91 fchown=93 fsetxattr=190 fremovexattr=199",
            }
        ),
    ),
    # the call's number has 32 bits there, and x0 is kept apart since the result takes its place; not run on such a machine yet
    "aarch64": _Machine(
        288,
        280,
        (272, 8, 16, 24, 32, 40),
        _calls(
            {
                (0, -1): "truncate=45 setxattr=5 lsetxattr=6 removexattr=14 lremovexattr=15",
                (1, 0): "openat=56 openat2=437 mkdirat=34 mknodat=33 fchownat=54 unlinkat=35 renameat=38 fchmodat=53 fchmodat2=452 "
                "utimensat=88 renameat2=276",
                (2, 1): "symlinkat=36",
                (3, 2): "linkat=37",
                (-1, 0): "fchmod=52 fchown=55 fsetxattr=7 fremovexattr=16",
            }
        ),
    ),
}
# the record: time, pid and tid, cgroup, number, six arguments, name of the task, path
_HEAD = struct.Struct("<QQQQ6Q16s")
_SIZE = _HEAD.size + _PATH


class Refused(NamedTuple):
    """One refused write. `path` is absolute where the process still told its folder; `at`: monotonic nanoseconds."""

    cgroup_id: int
    at: int
    pid: int
    tid: int
    comm: str
    call: str
    path: str


def program(machine: _Machine, groups: int, ring: int) -> bytes:
    """The program: `sys_exit(struct pt_regs *regs, long result)`."""
    registers = -8 - machine.size
    by_argument: dict[int, list[int]] = {}
    for number, form in machine.calls.items():
        by_argument.setdefault(form.path, []).append(number)
    # 6: context, then the group's counter; 7: number; 8: registers, then a pointer; 9: the record
    code = [
        bpf.move(6, 1),
        bpf.load(7, 6, 8),
        bpf.jump_unless(7, -errno.EROFS, "out"),
        bpf.call(bpf.CGROUP_ID),
        bpf.store(10, -8, 0),
        *bpf.map_address(1, groups),
        bpf.move(2, 10),
        bpf.add_imm(2, -8),
        bpf.call(bpf.MAP_LOOKUP),
        bpf.jump_if(0, 0, "out"),
        bpf.load(8, 6, 0),
        bpf.move(6, 0),
        bpf.move(1, 10),
        bpf.add_imm(1, registers),
        bpf.move_imm(2, machine.size),
        bpf.move(3, 8),
        bpf.call(bpf.READ_KERNEL),
        *bpf.map_address(1, ring),
        bpf.move_imm(2, _SIZE),
        bpf.move_imm(3, 0),
        bpf.call(bpf.RING_RESERVE),
        bpf.jump_if(0, 0, "lost"),
        bpf.move(9, 0),
        bpf.call(bpf.KTIME),
        bpf.store(9, 0, 0),
        bpf.call(bpf.PID_TGID),
        bpf.store(9, 8, 0),
        bpf.load(1, 10, -8),
        bpf.store(9, 16, 1),
        bpf.load_word(7, 10, registers + machine.number),
        bpf.store(9, 24, 7),
    ]
    for index, offset in enumerate(machine.arguments):
        code += [bpf.load(1, 10, registers + offset), bpf.store(9, 32 + 8 * index, 1)]
    code += [bpf.move(1, 9), bpf.add_imm(1, 80), bpf.move_imm(2, 16), bpf.call(bpf.COMM), bpf.store_imm(9, _HEAD.size, 0)]
    code += [bpf.jump_if(7, number, f"path{argument}") for argument, numbers in by_argument.items() if argument >= 0 for number in numbers]
    code.append(bpf.jump("send"))
    for argument in sorted(argument for argument in by_argument if argument >= 0):
        code += [bpf.label(f"path{argument}"), bpf.load(8, 10, registers + machine.arguments[argument]), bpf.jump("copy")]
    code += [
        bpf.label("copy"),
        bpf.move(1, 9),
        bpf.add_imm(1, _HEAD.size),
        bpf.move_imm(2, _PATH),
        bpf.move(3, 8),
        bpf.call(bpf.READ_USER_STR),
        bpf.label("send"),
        bpf.move(1, 9),
        bpf.move_imm(2, 0),
        bpf.call(bpf.RING_SUBMIT),
        bpf.jump("out"),
        bpf.label("lost"),
        *bpf.count(6),
        bpf.label("out"),
        bpf.move_imm(0, 0),
        bpf.finish(),
    ]
    return bpf.assemble(code)


class RefusedWrites:
    """The program, its maps, and the reader's side. `fd` can be polled.

    Raises:
        OSError: this kernel or host refuses BPF; then these writes are refused unseen.
        KeyError: this machine's registers are not known here.
    """

    def __init__(self) -> None:
        self._machine = _MACHINES[platform.machine()]
        self._groups = bpf.make_map(bpf.HASH, 8, 8, _MOST_GROUPS)
        try:
            self.fd = bpf.make_map(bpf.RINGBUF, 0, 0, _RING)
            code = program(self._machine, self._groups, self.fd)
            self._program, self._link = bpf.load_raw_tracepoint(code, "sys_exit")
        except OSError:
            os.close(self._groups)
            raise
        self._ring = bpf.Ring(self.fd, _RING)
        self._missed: dict[int, int] = {}

    def watch(self, instance: Instance) -> None:
        """See this instance's refused writes, too."""
        bpf.put(self._groups, instance.cgroup_id, 0)

    def forget(self, instance: Instance) -> None:
        """No longer."""
        bpf.drop(self._groups, instance.cgroup_id)
        self._missed.pop(instance.cgroup_id, None)

    def read(self) -> Iterator[Refused]:
        """What was refused since."""
        for record in self._ring.read():
            at, pids, group, number, *rest, comm = _HEAD.unpack_from(record.data)
            name, _, folder = self._machine.calls.get(number) or _Call(f"call {number}", -1, -1)
            tid, pid = pids & 0xFFFF_FFFF, pids >> 32
            text = record.data[_HEAD.size :].split(b"\0", 1)[0]
            path = _absolute(tid, os.fsdecode(text), rest[folder] if folder >= 0 else None)
            yield Refused(group, at, pid, tid, comm.split(b"\0", 1)[0].decode("utf-8", "replace"), name, path)

    def missed(self, instance: Instance) -> int:
        """How many refused writes of an instance found no room since this was last asked."""
        total = bpf.get(self._groups, instance.cgroup_id)
        before = self._missed.get(instance.cgroup_id, 0)
        self._missed[instance.cgroup_id] = total
        return total - before

    def close(self) -> None:
        """Detach the program: other system calls of the host are as fast as before."""
        self._ring.close()
        for fd in (self._link, self._program, self.fd, self._groups):
            os.close(fd)


def _absolute(tid: int, path: str, folder: int | None) -> str:
    """Put the caller's folder before a relative path, if the caller still lives; names are as it sees them."""
    if path.startswith("/"):
        return posixpath.normpath(path)
    at = -1 if folder is None else folder & 0xFFFF_FFFF
    at = at - (1 << 32) if at & 0x8000_0000 else at
    source = f"/proc/{tid}/cwd" if at == procfs.AT_FDCWD or folder is None else f"/proc/{tid}/fd/{at}"
    try:
        base = os.readlink(source)
    except OSError:
        return path
    return posixpath.normpath(posixpath.join(base, path)) if path else base
