"""ELF core files of frozen processes, from /proc alone: no ptrace, no thaw (docs/spec/evidence.md).

Registers of a task that may not be stopped are known only as far as /proc/PID/task/TID/syscall tells (instruction and stack
pointer, system call and its arguments); the others are zero.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from stele.host import evidence_proc, pagemap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Mapping as Mapping_

    from stele.respond.bundle import Stream

PAGE = pagemap.PAGE
CHUNK = 1 << 20
GAP = 64 << 10  # absent memory between two existing pieces that does not make two segments of them
DENSE_LIMIT = 64 << 20  # files mapped beyond this size are kept only as far as they are in memory
MAX_NAME = 1024
MAX_SEGMENTS = 200_000
MAX_REFUSED = 64  # unreadable pages of one segment after which the rest of it is left out
EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
SHDR = struct.Struct("<IIQQQQIIQQ")
PN_XNUM = 0xFFFF
NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, NT_FILE = 1, 3, 6, 0x46494C45
EM = {"x86_64": 62, "aarch64": 183}
_ZEROS = bytes(CHUNK)
NO_MEMORY = (b"[vvar]", b"[vvar_vclock]", b"[vsyscall]")
_MAPS = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) ([0-9]+) *(.*)")
_RESIDENT = {b"Rss", b"Swap", b"Shared_Hugetlb", b"Private_Hugetlb"}


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


def read_maps(proc: str) -> list[Mapping]:
    """The mappings of a process, line by line: there may be 65,530 of them with names of 4 KiB; long names lose their middle.

    Returns nothing if the process is gone.
    """
    found = []
    try:
        with open(f"{proc}/maps", "rb") as file:
            for line in file:
                for item in parse_maps(line.rstrip(b"\n")):
                    long = len(item.name) > MAX_NAME
                    found.append(item._replace(name=item.name[: MAX_NAME // 2] + item.name[-MAX_NAME // 2 :]) if long else item)
    except OSError:
        return found
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
            call, *values = [int(part, 0) for part in parts]
            if all(0 <= value < 1 << 64 for value in values):
                return Thread(tid, call, tuple(values[:6]), values[6], values[7])
        if len(parts) == 3:
            stack, instruction = int(parts[1], 0), int(parts[2], 0)
            if min(stack, instruction) >= 0 and max(stack, instruction) < 1 << 64:
                return Thread(tid, -1, (0,) * 6, stack, instruction)
    except ValueError:
        pass
    return Thread(tid, -1, (0,) * 6, 0, 0)


def parse_smaps(data: bytes) -> dict[int, int]:
    """Where each mapping of /proc/PID/smaps begins, and how many bytes of it are in memory or swap."""
    found: dict[int, int] = {}
    begin = -1
    for line in data.split(b"\n"):
        key, _, value = line.partition(b":")
        if key in _RESIDENT:
            if begin >= 0 and (number := value.split()[:1]) and number[0].isdigit():
                found[begin] += int(number[0]) * 1024
        elif match := _MAPS.fullmatch(line):
            begin = int(match[1], 16)
            found[begin] = 0
    return found


def _note(kind: int, data: bytes) -> bytes:
    return struct.pack("<III", 5, len(data), kind) + b"CORE\0\0\0\0" + data + bytes(-len(data) % 4)


def _x86_64(thread: Thread) -> list[int]:
    """Struct user_regs_struct: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss …"""
    registers = [0] * 27
    registers[16], registers[17], registers[19], registers[20] = thread.instruction, 0x33, thread.stack, 0x2B
    registers[15] = thread.call & (1 << 64) - 1
    # rdi, rsi, rdx, r10, r8, r9
    for position, value in zip((14, 13, 12, 7, 9, 8), thread.args, strict=True):
        registers[position] = value
    return registers


def _aarch64(thread: Thread) -> list[int]:
    """Struct user_pt_regs: x0 … x30, sp, pc, pstate; the number of the system call is in x8."""
    registers = [*thread.args, *([0] * 25), thread.stack, thread.instruction, 0]
    registers[8] = thread.call & (1 << 64) - 1
    return registers


REGISTERS = {"x86_64": _x86_64, "aarch64": _aarch64}


def _prstatus(thread: Thread, pid: int, machine: str) -> bytes:
    """Struct elf_prstatus: 112 bytes of facts, the registers, pr_fpvalid and padding (336 bytes on x86-64, 392 on aarch64)."""
    registers = REGISTERS[machine](thread)
    head = struct.pack("<iiihHQQiiii", 0, 0, 0, 0, 0, 0, 0, thread.tid, 0, pid, pid) + bytes(64)
    return head + struct.pack(f"<{len(registers)}Q", *registers) + struct.pack("<ii", 0, 0)


def _file_note(mappings: Sequence[Mapping]) -> bytes:
    files = [item for item in mappings if item.inode]
    spans = b"".join(struct.pack("<QQQ", item.begin, item.end, item.offset // PAGE) for item in files)
    return struct.pack("<QQ", len(files), PAGE) + spans + b"".join(item.name + b"\0" for item in files)


class Segment(NamedTuple):
    """One PT_LOAD: `pieces` are the address ranges whose memory is read, `end - begin` bytes are in the file if there are any."""

    begin: int
    end: int
    flags: int
    pieces: tuple[tuple[int, int], ...]


class Plan(NamedTuple):
    """What a core will hold: segments by address, bytes of memory they read, and in words what is left out and why."""

    segments: list[Segment]
    size: int
    left_out: list[str]


def plan(proc: str, mappings: Sequence[Mapping], resident: Mapping_[int, int], budget: int, *, can_scan: bool = True) -> Plan:
    """Find out which memory of a frozen process exists, and choose what fits the budget: the small mappings first.

    Args:
        proc: its /proc folder.
        mappings: from `parse_maps`.
        resident: from `parse_smaps`; empty if unknown.
        budget: at most so many bytes of memory.
        can_scan: False does without PAGEMAP_SCAN.

    Raises:
        OSError: the process is gone.
    """
    left_out: list[str] = []
    chosen: dict[int, list[tuple[int, int]]] = {}
    left = budget
    with pagemap.Pagemap(proc, can_scan=can_scan) as pages:
        # anonymous memory first: a file may be mapped a thousand times at no cost to the process
        for item in sorted(mappings, key=lambda item: (item.inode != 0, resident.get(item.begin, item.end - item.begin), item.begin)):
            ranges = _existing(item, pages, resident, left_out)
            chosen[item.begin] = _within(ranges, left)
            left -= _size(chosen[item.begin])
            if chosen[item.begin] != ranges:
                last = chosen[item.begin][-1][1] if chosen[item.begin] else item.begin
                left_out.append(f"{last:x}-{item.end:x}: over the budget of {budget} bytes")
    _whole_files(proc, mappings, chosen, left)
    segments: list[Segment] = []
    for item in mappings:
        segments += _segments(item, chosen[item.begin])
    if len(segments) > MAX_SEGMENTS:
        left_out.append(f"{segments[MAX_SEGMENTS].begin:x} and above: more than {MAX_SEGMENTS} segments")
        del segments[MAX_SEGMENTS:]
    return Plan(segments, sum(_size(segment.pieces) for segment in segments), left_out)


def _size(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(end - begin for begin, end in ranges)


def _within(ranges: Sequence[tuple[int, int]], left: int) -> list[tuple[int, int]]:
    chosen = []
    for begin, end in ranges:
        kept = min(end - begin, left // PAGE * PAGE)
        left -= kept
        if kept:
            chosen.append((begin, begin + kept))
        if begin + kept < end:
            break
    return chosen


def _existing(item: Mapping, pages: pagemap.Pagemap, resident: Mapping_[int, int], left_out: list[str]) -> list[tuple[int, int]]:
    if item.name in NO_MEMORY or resident.get(item.begin) == 0:
        return []
    ranges, is_all = pages.existing(item.begin, item.end)
    if not is_all:
        last = ranges[-1][1] if ranges else item.begin
        left_out.append(f"{last:x}-{item.end:x}: which pages exist was not found out within its limit")
    return ranges


def _whole_files(proc: str, mappings: Sequence[Mapping], chosen: dict[int, list[tuple[int, int]]], left: int) -> None:
    """Small files without holes are read whole, once, as far as there is room, so that a debugger finds their text.

    In a file with holes reading would fill them; a large one is kept only as far as it is in memory.
    """
    seen = set()
    for item in mappings:
        if not item.inode or item.flags[0] != "r":
            continue
        try:
            found = os.stat(f"{proc}/map_files/{item.begin:x}-{item.end:x}")
        except OSError:
            continue
        end = min(item.end, item.begin + max(0, -(-(found.st_size - item.offset) // PAGE) * PAGE))
        more = end - item.begin - _size(chosen[item.begin])
        piece = (found.st_dev, found.st_ino, item.offset, end - item.begin)
        is_dense = stat.S_ISREG(found.st_mode) and found.st_blocks * 512 >= found.st_size
        if is_dense and 0 < more <= left and end - item.begin <= DENSE_LIMIT and piece not in seen:
            seen.add(piece)
            chosen[item.begin] = [(item.begin, end)]
            left -= more


def _segments(item: Mapping, ranges: Sequence[tuple[int, int]]) -> list[Segment]:
    flags = sum(bit for letter, bit in zip(item.flags, (4, 2, 1), strict=False) if letter != "-")
    out: list[Segment] = []
    position = item.begin
    group: list[tuple[int, int]] = []
    for begin, end in [*ranges, (item.end + GAP + 1, 0)]:
        if group and begin - group[-1][1] > GAP:
            if group[0][0] > position:
                out.append(Segment(position, group[0][0], flags, ()))
            out.append(Segment(group[0][0], group[-1][1], flags, tuple(group)))
            position = group[-1][1]
            group = []
        if end:
            group.append((begin, end))
    if position < item.end:
        out.append(Segment(position, item.end, flags, ()))
    return out


def write(
    proc: str, pid: int, threads: Sequence[Thread], mappings: Sequence[Mapping], planned: Plan, out: Stream, *, machine: str
) -> list[str]:
    """Write the core of a frozen process; returns what of it could not be read.

    Args:
        proc: its /proc folder.
        pid: its pid on the host.
        threads: from `parse_syscall`, the first thread first.
        mappings: from `parse_maps`.
        planned: from `plan`.
        out: takes the file, in order.
        machine: `uname -m`, one of `EM`.
    """
    auxv = evidence_proc.read(f"{proc}/auxv", 8192) or b""
    notes = b"".join(_note(NT_PRSTATUS, _prstatus(thread, pid, machine)) for thread in threads[:1])
    notes += _note(NT_PRPSINFO, struct.pack("<bbbbQIIiiii16s80s", 0, 0, 0, 0, 0, 0, 0, pid, 0, pid, pid, b"", b""))
    notes += _note(NT_AUXV, auxv) + _note(NT_FILE, _file_note(mappings))
    notes += b"".join(_note(NT_PRSTATUS, _prstatus(thread, pid, machine)) for thread in threads[1:])
    count = len(planned.segments) + 1
    # more than 65534 segments are counted in the first section header (elf(5), PN_XNUM)
    many = count >= PN_XNUM
    section = SHDR.pack(0, 0, 0, 0, 0, 0, 0, count, 0, 0) if many else b""
    head = EHDR.size + PHDR.size * count + len(section)
    offset = -(-(head + len(notes)) // PAGE) * PAGE
    table = [PHDR.pack(4, 0, head, 0, 0, len(notes), 0, 0)]
    for begin, end, flags, pieces in planned.segments:
        size = end - begin
        table.append(PHDR.pack(1, flags, offset if pieces else 0, begin, 0, size if pieces else 0, size, PAGE))
        offset += size if pieces else 0
    ident = b"\x7fELF\2\1\1" + bytes(9)
    sections = (EHDR.size + PHDR.size * count, SHDR.size, 1) if many else (0, 0, 0)
    header = EHDR.pack(
        ident, 4, EM[machine], 1, 0, EHDR.size, sections[0], 0, EHDR.size, PHDR.size, min(count, PN_XNUM), sections[1], sections[2], 0
    )
    out.write(header + b"".join(table) + section + notes)
    out.skip(-out.size % PAGE)
    return _copy(proc, planned.segments, out)


def _copy(proc: str, segments: Sequence[Segment], out: Stream) -> list[str]:
    memory = os.open(f"{proc}/mem", os.O_RDONLY | os.O_CLOEXEC)
    unreadable: list[str] = []
    # two in turn: one is hashed while the other is filled
    buffers = itertools.cycle([memoryview(bytearray(CHUNK)), memoryview(bytearray(CHUNK))])
    try:
        for segment in segments:
            position, refused = segment.begin, 0
            for begin, end in segment.pieces:
                out.skip(begin - position)
                position = begin
                while position < end and refused < MAX_REFUSED:
                    buffer = next(buffers)
                    got = _read(memory, buffer[: min(CHUNK, end - position)], position) or _read(memory, buffer[:PAGE], position)
                    if not got:
                        refused += 1
                        unreadable.append(f"{position:x}-{position + PAGE:x}: not readable")
                    size = got or PAGE
                    if not got or _ZEROS.startswith(buffer[:got]):
                        out.skip(size)
                    else:
                        out.write(buffer[:got])
                    position += size
                if position < end:
                    unreadable.append(f"{position:x}-{end:x}: left out after {MAX_REFUSED} unreadable pages")
                    out.skip(end - position)
                    position = end
    finally:
        os.close(memory)
    return unreadable


def _read(memory: int, into: memoryview, position: int) -> int:
    try:
        return os.preadv(memory, [into], position)
    except OSError:
        # device memory, secret memory, or a page beyond the end of its file
        return 0
