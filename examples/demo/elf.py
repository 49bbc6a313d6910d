"""A foreign program, made here byte by byte: a static ELF file of about 200 bytes that prints one line and exits with 42."""

from __future__ import annotations

import platform
import struct

_BASE = 0x400000
_HEADERS = 64 + 56
_MACHINE = {"x86_64": 62, "aarch64": 183}


def tiny(text: str, machine: str = "") -> bytes:
    """The program that writes `text` to its standard output.

    Args:
        text: what it prints.
        machine: as `uname -m`; this host's by default.

    Raises:
        KeyError: neither x86_64 nor aarch64.
    """
    machine = machine or platform.machine()
    said = text.encode()
    code = {"x86_64": _x86_64, "aarch64": _aarch64}[machine](len(said))
    size = _HEADERS + len(code) + len(said)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, _MACHINE[machine], 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # PT_LOAD, readable and executable
    return header + load + code + said


def _x86_64(length: int) -> bytes:
    tail = b"\xba" + struct.pack("<I", length) + b"\x0f\x05\xb8\x3c\x00\x00\x00\xbf\x2a\x00\x00\x00\x0f\x05"
    # mov eax,1; mov edi,1; lea rsi,[rip+len(tail)]; mov edx,length; syscall; mov eax,60; mov edi,42; syscall
    return b"\xb8\x01\x00\x00\x00\xbf\x01\x00\x00\x00\x48\x8d\x35" + struct.pack("<I", len(tail)) + tail


def _aarch64(length: int) -> bytes:
    def movz(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register

    svc = 0xD4000001
    adr = 0x10000001 | (28 >> 2) << 5  # x1 = the text, 28 bytes after this instruction
    words = [movz(0, 1), adr, movz(2, length), movz(8, 64), svc, movz(0, 42), movz(8, 93), svc]
    return struct.pack("<8I", *words)
