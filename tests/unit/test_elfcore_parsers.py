"""Parsers of /proc texts that a hostile process shapes, and the layout of cores, judged by readelf and struct sizes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.respond import elfcore
from stele.respond.bundle import Stream
from stele.respond.elfcore import Mapping, Plan, Segment, Thread

ADDRESS = st.integers(0, (1 << 64) - 1)
NAME = st.binary(max_size=60).map(lambda name: name.replace(b"\n", b"\\012").strip(b" "))


@given(st.binary(max_size=400))
def test_maps_of_any_bytes(data: bytes) -> None:
    for item in elfcore.parse_maps(data):
        assert item.name in data


@given(st.lists(st.tuples(ADDRESS, ADDRESS, st.sampled_from(["r-xp", "rw-s", "---p"]), ADDRESS, st.integers(0, 1 << 64), NAME), max_size=8))
def test_maps_come_back(lines: list[tuple[int, int, str, int, int, bytes]]) -> None:
    text = b"".join(b"%x-%x %s %08x fd:01 %d                  %s\n" % (b, e, f.encode(), o, i, n) for b, e, f, o, i, n in lines)
    assert elfcore.parse_maps(text) == [Mapping(*line) for line in lines]


def test_names_of_mappings_stay_bytes() -> None:
    text = b"7f0000-7f1000 rw-p 00000000 00:05 42                         /tmp/a b\xff (deleted)\n"
    assert elfcore.parse_maps(text) == [Mapping(0x7F0000, 0x7F1000, "rw-p", 0, 42, b"/tmp/a b\xff (deleted)")]


@given(st.text(max_size=200))
def test_any_text_of_a_system_call_fits_its_registers(text: str) -> None:
    thread = elfcore.parse_syscall(7, text)
    assert thread.tid == 7
    for machine in elfcore.EM:
        assert elfcore._prstatus(thread, 7, machine)


@given(st.integers(0, 1 << 70), st.lists(ADDRESS, min_size=8, max_size=8))
def test_a_system_call_comes_back(call: int, values: list[int]) -> None:
    thread = elfcore.parse_syscall(1, " ".join([str(call), *(f"0x{value:x}" for value in values)]))
    assert thread == Thread(1, call, tuple(values[:6]), values[6], values[7])


def test_a_task_outside_a_system_call() -> None:
    assert elfcore.parse_syscall(3, "-1 0x7ffe1234 0x55d4aa\n") == Thread(3, -1, (0,) * 6, 0x7FFE1234, 0x55D4AA)
    assert elfcore.parse_syscall(3, "running\n") == Thread(3, -1, (0,) * 6, 0, 0)
    assert elfcore.parse_syscall(3, "-1 0x1ffffffffffffffff 0x0").stack == 0


@given(st.binary(max_size=400))
def test_smaps_of_any_bytes(data: bytes) -> None:
    assert all(size >= 0 for size in elfcore.parse_smaps(data).values())


def test_smaps_counts_memory_and_swap() -> None:
    text = b"1000-3000 rw-p 00000000 00:00 0 \nSize: 8 kB\nRss:  4 kB\nSwap: 8 kB\nSwapPss: 8 kB\n"
    text += b"3000-4000 ---p 00000000 00:00 0 \nRss: 0 kB\n"
    assert elfcore.parse_smaps(text) == {0x1000: 12288, 0x3000: 0}


@pytest.mark.parametrize(("machine", "size", "stack", "instruction"), [("x86_64", 336, 152, 128), ("aarch64", 392, 248, 256)])
def test_registers_are_where_the_kernels_structs_have_them(machine: str, size: int, stack: int, instruction: int) -> None:
    data = elfcore._prstatus(Thread(0x1234, 59, (1, 2, 3, 4, 5, 6), 0xAAAA, 0xBBBB), 0x1200, machine)
    assert len(data) == size
    assert int.from_bytes(data[32:36], "little") == 0x1234
    assert int.from_bytes(data[112 + stack : 120 + stack], "little") == 0xAAAA
    assert int.from_bytes(data[112 + instruction : 120 + instruction], "little") == 0xBBBB


def test_this_process_as_a_core(tmp_path: Path) -> None:
    maps = elfcore.parse_maps(Path("/proc/self/maps").read_bytes())
    secret = b"readable in the core %d" % os.getpid()
    planned = elfcore.plan("/proc/self", maps, {}, 1 << 30)
    core = _write(tmp_path / "core", maps, planned)
    assert secret in core.read_bytes()
    assert "Program Headers" in _readelf(core)


def test_more_segments_than_an_elf_header_can_count(tmp_path: Path) -> None:
    page = elfcore.PAGE
    segments = [Segment(number * page, (number + 1) * page, 4, ()) for number in range(70_000)]
    core = _write(tmp_path / "core", [], Plan(segments, 0, []))
    assert _readelf(core).count("LOAD") == 70_000


def test_what_does_not_fit_the_budget_is_told() -> None:
    maps = elfcore.parse_maps(Path("/proc/self/maps").read_bytes())
    planned = elfcore.plan("/proc/self", maps, {}, 64 * elfcore.PAGE)
    assert planned.size <= 64 * elfcore.PAGE
    assert any("over the budget" in line for line in planned.left_out)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 40)), max_size=20))
def test_segments_cover_a_mapping_once(pieces: list[tuple[int, int]]) -> None:
    page, position, ranges = elfcore.PAGE, 0, []
    for gap, length in pieces:
        begin = position + (gap + 1) * page
        ranges.append((begin, begin + length * page))
        position = ranges[-1][1]
    item = Mapping(0, position + 10 * page, "rw-p", 0, 0, b"")
    segments = elfcore._segments(item, ranges)
    assert [segment.begin for segment in segments] == [0, *(segment.end for segment in segments[:-1])]
    assert segments[-1].end == item.end
    assert [piece for segment in segments for piece in segment.pieces] == ranges


def _write(path: Path, maps: list[Mapping], planned: Plan) -> Path:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        stream = Stream(fd, path.parent)
        elfcore.write("/proc/self", os.getpid(), [Thread(os.getpid(), -1, (0,) * 6, 0, 0)], maps, planned, stream, machine="x86_64")
        stream.finish()
    finally:
        os.close(fd)
    return path


def _readelf(core: Path) -> str:
    return subprocess.run(["readelf", "-lW", str(core)], capture_output=True, text=True, check=True).stdout
