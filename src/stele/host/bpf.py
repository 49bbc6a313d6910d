"""bpf(2) by hand: maps, one kind of program, a ring buffer; no compiler, no libbpf (linux/bpf.h, bpf-helpers(7)).

Instructions are assembled here from their encoding (kernel documentation, "BPF Instruction Set Architecture").
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), -1)
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD, _RAW_TRACEPOINT_OPEN = 0, 1, 2, 3, 5, 17
HASH, RINGBUF = 1, 27
_PROG_RAW_TRACEPOINT = 17
_LICENSE = b"Dual BSD/GPL\0"  # the helpers that read memory are offered to nothing else
_LOG_SIZE = 1 << 16

# helpers
MAP_LOOKUP, KTIME, PID_TGID, COMM, CGROUP_ID = 1, 5, 14, 16, 80
READ_KERNEL, READ_USER_STR, RING_RESERVE, RING_SUBMIT = 113, 114, 131, 132

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    result = int(_libc.syscall(ctypes.c_long(_BPF), ctypes.c_int(command), buffer, ctypes.c_uint(len(buffer))))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf {command}: {os.strerror(number)}")
    return result


# ---- assembling ------------------------------------------------------------------------------

Instruction = tuple[int, int, int, int, int, str]  # code, destination, source, offset, immediate, label jumped to


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0, to: str = "") -> Instruction:
    return (code, dst, src, off, imm, to)


def move(dst: int, src: int) -> Instruction:
    """`dst = src`."""
    return _insn(0xBF, dst, src)


def move_imm(dst: int, value: int) -> Instruction:
    """`dst = value` (32 bits, sign-extended)."""
    return _insn(0xB7, dst, imm=value)


def add_imm(dst: int, value: int) -> Instruction:
    """`dst += value`."""
    return _insn(0x07, dst, imm=value)


def load(dst: int, src: int, off: int) -> Instruction:
    """`dst = *(u64 *)(src + off)`."""
    return _insn(0x79, dst, src, off)


def load_word(dst: int, src: int, off: int) -> Instruction:
    """`dst = *(u32 *)(src + off)`."""
    return _insn(0x61, dst, src, off)


def store(dst: int, off: int, src: int) -> Instruction:
    """`*(u64 *)(dst + off) = src`."""
    return _insn(0x7B, dst, src, off)


def store_imm(dst: int, off: int, value: int) -> Instruction:
    """`*(u64 *)(dst + off) = value`."""
    return _insn(0x7A, dst, off=off, imm=value)


def count(dst: int) -> Sequence[Instruction]:
    """`*(u64 *)dst += 1`, atomically. Uses register 1."""
    return (move_imm(1, 1), _insn(0xDB, dst, 1, 0, 0))


def call(helper: int) -> Instruction:
    """Call a helper: arguments in 1 to 5, result in 0; 1 to 5 are lost."""
    return _insn(0x85, imm=helper)


def jump(to: str) -> Instruction:
    """Go to a label."""
    return _insn(0x05, to=to)


def jump_if(dst: int, value: int, to: str) -> Instruction:
    """Go to a label if `dst == value`."""
    return _insn(0x15, dst, imm=value, to=to)


def jump_unless(dst: int, value: int, to: str) -> Instruction:
    """Go to a label if `dst != value`."""
    return _insn(0x55, dst, imm=value, to=to)


def map_address(dst: int, fd: int) -> Sequence[Instruction]:
    """`dst = map`, as two instructions."""
    return (_insn(0x18, dst, 1, 0, fd), _insn(0))


def label(name: str) -> Instruction:
    """Where jumps to `name` arrive; no instruction of its own."""
    return _insn(-1, to=name)


def finish() -> Instruction:
    """Return register 0."""
    return _insn(0x95)


def assemble(program: Sequence[Instruction]) -> bytes:
    """Resolve labels and encode; raises KeyError for a label that is nowhere."""
    places: dict[str, int] = {}
    at = 0
    for code, *_, to in program:
        if code < 0:
            places[to] = at
        else:
            at += 1
    out: list[bytes] = []
    for code, dst, src, off, imm, to in program:
        if code >= 0:
            distance = places[to] - len(out) - 1 if to else off
            out.append(struct.pack("<BBhi", code, dst | src << 4, distance, imm))
    return b"".join(out)


# ---- the kernel's objects --------------------------------------------------------------------


def make_map(kind: int, key_size: int, value_size: int, entries: int) -> int:
    """A descriptor of a new map; raises OSError."""
    return _bpf(_MAP_CREATE, struct.pack("<5I", kind, key_size, value_size, entries, 0))


def put(map_fd: int, key: int, value: int) -> None:
    """Set a 64-bit value under a 64-bit key; raises OSError."""
    k, v = ctypes.c_uint64(key), ctypes.c_uint64(value)
    _bpf(_MAP_UPDATE, struct.pack("<I4xQQQ", map_fd, ctypes.addressof(k), ctypes.addressof(v), 0))


def get(map_fd: int, key: int) -> int:
    """The 64-bit value under a 64-bit key, 0 if there is none."""
    k, v = ctypes.c_uint64(key), ctypes.c_uint64(0)
    with contextlib.suppress(OSError):
        _bpf(_MAP_LOOKUP, struct.pack("<I4xQQQ", map_fd, ctypes.addressof(k), ctypes.addressof(v), 0))
    return v.value


def drop(map_fd: int, key: int) -> None:
    """Remove a 64-bit key; one that is not there is fine."""
    k = ctypes.c_uint64(key)
    with contextlib.suppress(OSError):
        _bpf(_MAP_DELETE, struct.pack("<I4xQ", map_fd, ctypes.addressof(k)))


def load_raw_tracepoint(program: bytes, name: str) -> tuple[int, int]:
    """Load a program and attach it; (program, link) descriptors: closing the link detaches it.

    Raises:
        OSError: with the end of the verifier's log.
    """
    code = ctypes.create_string_buffer(program, len(program))
    license_text = ctypes.create_string_buffer(_LICENSE)
    said = ctypes.create_string_buffer(_LOG_SIZE)
    attributes = struct.pack("<IIQQ", _PROG_RAW_TRACEPOINT, len(program) // 8, ctypes.addressof(code), ctypes.addressof(license_text))
    attributes += struct.pack("<IIQII", 1, _LOG_SIZE, ctypes.addressof(said), 0, 0)
    try:
        loaded = _bpf(_PROG_LOAD, attributes)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {said.value.decode('utf-8', 'replace')[-1000:]}") from error
    text = ctypes.create_string_buffer(name.encode())
    try:
        return loaded, _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QI4x", ctypes.addressof(text), loaded))
    except OSError:
        os.close(loaded)
        raise


class Record(NamedTuple):
    """One record of a ring buffer."""

    data: bytes


class Ring:
    """Reader of a ring buffer map (kernel documentation, "BPF ring buffer"). `size`: as created, a power of two."""

    _BUSY, _DISCARDED = 1 << 31, 1 << 30

    def __init__(self, map_fd: int, size: int) -> None:
        self.fd = map_fd
        self._size = size
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._producer = mmap.mmap(map_fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)

    def read(self) -> Iterator[Record]:
        """Every record that is complete now."""
        page, mask = mmap.PAGESIZE, self._size - 1
        (at,) = struct.unpack_from("<Q", self._consumer, 0)
        while at < struct.unpack_from("<Q", self._producer, 0)[0]:
            begin = page + (at & mask)
            (length,) = struct.unpack_from("<I", self._producer, begin)
            if length & self._BUSY:
                return
            size = length & ~(self._BUSY | self._DISCARDED)
            data = self._producer[begin + 8 : begin + 8 + size]
            at += (size + 8 + 7) & ~7
            struct.pack_into("<Q", self._consumer, 0, at)
            if not length & self._DISCARDED:
                yield Record(data)

    def close(self) -> None:
        """Unmap."""
        self._consumer.close()
        self._producer.close()
