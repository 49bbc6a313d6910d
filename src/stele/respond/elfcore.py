"""ELF core files of frozen processes, from /proc alone: no ptrace, no thaw (docs/spec/evidence.md).

Registers of a task that may not be stopped are known only as far as /proc/PID/task/TID/syscall tells (instruction and stack
pointer, system call and its arguments); the others are zero.
"""

from __future__ import annotations

import os
import re
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = 4096
CHUNK = 1 << 20
EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, NT_FILE = 1, 3, 6, 0x46494C45
EM = {"x86_64": 62, "aarch64": 183}
UNREADABLE = ("[vvar]", "[vvar_vclock]", "[vsyscall]")
_MAPS = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) ([0-9]+) *(.*)")


class Mapping(NamedTuple):
    """One line of /proc/PID/maps; addresses and offset in bytes."""

    begin: int
    end: int
    flags: str
    offset: int
    inode: int
    name: bytes


def parse_maps(data: bytes) -> list[Mapping]:
    """Parse /proc/PID/maps; lines that do not fit are passed over."""
    found = []
    for line in data.split(b"\n"):
        match = _MAPS.fullmatch(line)
        if match:
            found.append(Mapping(int(match[1], 16), int(match[2], 16), match[3].decode(), int(match[4], 16), int(match[7]), match[8]))
    return found


class Thread(NamedTuple):
    """What is known of a thread's registers."""

    tid: int
    call: int
    args: tuple[int, ...]
    stack: int
    instruction: int


def parse_syscall(tid: int, text: str) -> Thread:
    """Parse /proc/PID/task/TID/syscall: `nr a0…a5 sp pc`, or `-1 sp pc`, or `running`."""
    parts = text.split()
    try:
        if len(parts) == 9:
            values = [int(part, 0) for part in parts]
            return Thread(tid, values[0], tuple(values[1:7]), values[7], values[8])
        if len(parts) == 3:
            return Thread(tid, -1, (0,) * 6, int(parts[1], 0), int(parts[2], 0))
    except ValueError:
        pass
    return Thread(tid, -1, (0,) * 6, 0, 0)


def _note(kind: int, data: bytes) -> bytes:
    return struct.pack("<III", 5, len(data), kind) + b"CORE\0\0\0\0" + data + bytes(-len(data) % 4)


def _prstatus(thread: Thread, pid: int) -> bytes:
    """Struct elf_prstatus of x86-64 (336 bytes): 27 registers from offset 112."""
    registers = [0] * 27
    registers[16], registers[19] = thread.instruction, thread.stack
    registers[15] = registers[10] = thread.call & (1 << 64) - 1
    # rdi, rsi, rdx, r10, r8, r9 in the order of struct user_regs_struct
    for position, value in zip((14, 13, 12, 7, 9, 8), thread.args, strict=True):
        registers[position] = value
    head = struct.pack("<iiihHQQiiii", 0, 0, 0, 0, 0, 0, 0, thread.tid, 0, pid, pid) + bytes(64)
    return head + struct.pack("<27Q", *registers) + struct.pack("<ii", 0, 0)


def _file_note(mappings: Sequence[Mapping]) -> bytes:
    files = [item for item in mappings if item.inode]
    out = struct.pack("<QQ", len(files), PAGE)
    for item in files:
        out += struct.pack("<QQQ", item.begin, item.end, item.offset // PAGE)
    return out + b"".join(item.name + b"\0" for item in files)


class Core(NamedTuple):
    """What was written: bytes of the file, bytes of memory read, and mappings that could not be read."""

    size: int
    read: int
    unreadable: tuple[str, ...]


def write(proc: str, pid: int, threads: Sequence[Thread], mappings: Sequence[Mapping], out: int, *, budget: int, machine: str) -> Core:
    """Write the core of a frozen process to the file `out` (sparse where memory is zero).

    Args:
        proc: its /proc folder.
        pid: its pid on the host.
        threads: from `parse_syscall`, the first thread first.
        mappings: from `parse_maps`.
        out: an empty file open for writing.
        budget: at most so many bytes of memory are read.
        machine: `uname -m`.
    """
    wanted = [item for item in mappings if item.flags[0] == "r" and item.name.decode("utf-8", "replace") not in UNREADABLE]
    try:
        with open(f"{proc}/auxv", "rb") as file:
            auxv = file.read(8192)
    except OSError:
        auxv = b""
    notes = b"".join(_note(NT_PRSTATUS, _prstatus(thread, pid)) for thread in threads[:1])
    notes += _note(NT_PRPSINFO, struct.pack("<bbbbQIIiiii16s80s", 0, 0, 0, 0, 0, 0, 0, pid, 0, pid, pid, b"", b""))
    notes += _note(NT_AUXV, auxv) + _note(NT_FILE, _file_note(mappings))
    notes += b"".join(_note(NT_PRSTATUS, _prstatus(thread, pid)) for thread in threads[1:])
    head = EHDR.size + PHDR.size * (len(wanted) + 1)
    offset = -(-(head + len(notes)) // PAGE) * PAGE
    table = PHDR.pack(4, 0, head, 0, 0, len(notes), 0, 0)
    places = []
    for item in wanted:
        size = item.end - item.begin
        flags = 4 | (2 if item.flags[1] == "w" else 0) | (1 if item.flags[2] == "x" else 0)
        table += PHDR.pack(1, flags, offset, item.begin, 0, size, size, PAGE)
        places.append((item, offset))
        offset += size
    ident = b"\x7fELF\2\1\1" + bytes(9)
    os.pwrite(
        out, EHDR.pack(ident, 4, EM[machine], 1, 0, EHDR.size, 0, 0, EHDR.size, PHDR.size, len(wanted) + 1, 0, 0, 0) + table + notes, 0
    )
    os.ftruncate(out, offset)
    read, unreadable = _copy(proc, places, out, budget)
    return Core(offset, read, tuple(unreadable))


def _copy(proc: str, places: Sequence[tuple[Mapping, int]], out: int, budget: int) -> tuple[int, list[str]]:
    memory = os.open(f"{proc}/mem", os.O_RDONLY | os.O_CLOEXEC)
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    zeros = bytes(CHUNK)
    read, unreadable = 0, []
    try:
        for item, offset in places:
            position = item.begin
            while position < item.end and read < budget:
                want = min(CHUNK, item.end - position)
                try:
                    got = os.preadv(memory, [view[:want]], position)
                except OSError:
                    # a page beyond the end of its file, or device memory: skip one page
                    got = 0
                if not got:
                    unreadable.append(f"{position:x}")
                    position += PAGE
                    continue
                if view[:got] != zeros[:got]:
                    os.pwrite(out, view[:got], offset + position - item.begin)
                read += got
                position += got
    finally:
        os.close(memory)
    return read, unreadable[:100]
