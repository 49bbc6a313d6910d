"""The write-ahead log, wherever it was cut off or damaged."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest

from stele.ledger import wal
from tests.refusals import code


def state(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def entries_of(folder: Path) -> list[bytes]:
    again = wal.Wal(folder)
    again.close()
    return again.recovered


def test_the_wal_ends_at_the_first_byte_that_does_not_fit(folder):
    log = wal.Wal(state(folder))
    log.append([b"one", b"two"])
    end = log._end
    log.append([b"three"])
    log.close()
    path = folder / "wal.0"
    data = path.read_bytes()
    for at in range(end, end + 8 + 5):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert entries_of(folder) == [b"one", b"two"]
    for cut in range(end, end + 12):
        path.write_bytes(data[:cut])
        assert entries_of(folder) == [b"one", b"two"]
    path.write_bytes(data)
    assert entries_of(folder) == [b"one", b"two", b"three"]


def test_the_far_end_of_a_torn_batch_never_comes_back(folder):
    """A power cut may keep the end of a batch and lose its middle. What is written in its place must not revive the end."""
    log = wal.Wal(state(folder))
    log.append([b"one", b"two", b"six"])
    log.close()
    path = folder / "wal.0"
    data = bytearray(path.read_bytes())
    middle = wal.HEADER.size + 11
    data[middle : middle + 11] = bytes(11)  # "two" never reached the disk
    path.write_bytes(data)
    log = wal.Wal(folder)
    assert log.recovered == [b"one"]
    log.append([b"new"])  # as long as the one that was lost: "six" follows it directly
    log.close()
    assert entries_of(folder) == [b"one", b"new"]


def test_checkpoints_lie_between_entries_until_it_begins_anew(folder):
    log = wal.Wal(state(folder))
    log.append([b"one"])
    used = log.used
    assert log.note(b"signed 1")
    assert log.used == used  # it is entries that are replayed
    log.append([b"two", b"three"], {0: b"salt"})
    assert log.note(b"signed 3")
    log.sync()
    assert not log.note(bytes(wal.MAX_ENTRY + 1))
    log.close()
    again = wal.Wal(folder)
    assert again.recovered == [b"one", b"two", b"three"]
    assert (again.notes, again.openings, again.used) == ([b"signed 1", b"signed 3"], {1: b"salt"}, log.used)
    again.append([b"four"])
    again.recycle(3, [b"four"])
    again.close()
    last = wal.Wal(folder)
    last.close()
    assert (last.recovered, last.notes) == ([b"four"], [])


def test_the_example_of_the_specification(folder):
    log = wal.Wal(state(folder))
    log.append([b"one"])
    log.note(b"signed")
    log.close()
    text = (Path(__file__).parents[3] / "docs/spec/ledger.md").read_text("utf-8")
    example = text[text.index("73 74 65 6c 65 2d 77") :].partition("```")[0]
    expected = bytes.fromhex(example.replace("|", " "))
    assert (folder / "wal.0").read_bytes()[: len(expected)] == expected


def test_the_wal_ends_at_a_checkpoint_that_does_not_fit(folder):
    log = wal.Wal(state(folder))
    log.append([b"one"])
    end = log._end
    log.note(b"signed")
    log.append([b"two"])
    log.close()
    path = folder / "wal.0"
    data = path.read_bytes()
    for at in range(end, end + 8 + 6):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        again = wal.Wal(folder)
        again.close()
        assert (again.recovered, again.notes) == ([b"one"], [])


def test_recycling_takes_turns_between_two_files(folder):
    log = wal.Wal(state(folder))
    for generation in range(2, 7):
        log.append([b"old"] * 5)
        log.recycle(generation * 10, [b"kept", b"too"])
        assert (log.generation, log.base) == (generation, generation * 10)
        log.append([b"new"])
        assert entries_of(folder) == [b"kept", b"too", b"new"]
    log.close()
    assert sorted(os.listdir(folder)) == ["wal.0", "wal.1"]


def test_a_recycling_that_was_cut_off_leaves_the_old_file_in_force(folder):
    log = wal.Wal(state(folder))
    log.append([b"one"])
    log.recycle(1, [])
    log.append([b"two"])
    log.close()
    # records of the next generation were written into wal.0, its header was not
    path = folder / "wal.0"
    frames, _ = wal._frames([b"lost"], wal._seed(3, 2))
    data = bytearray(path.read_bytes())
    data[wal.HEADER.size : wal.HEADER.size + len(frames)] = frames
    path.write_bytes(data)
    assert entries_of(folder) == [b"two"]


@pytest.mark.parametrize("at", range(32))
def test_a_damaged_wal_header_is_not_taken_for_an_empty_wal(folder, at):
    log = wal.Wal(state(folder))
    log.append([b"one"])
    log.close()
    path = folder / "wal.0"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert code(wal.Wal, folder) == "ledger.damaged"


def test_a_wal_that_was_killed_while_it_was_made_is_made_again(folder):
    state(folder)
    (folder / "wal.0").write_bytes(bytes(3 << 20))
    log = wal.Wal(folder)
    assert log.is_new
    log.append([b"x"])
    log.close()
    assert entries_of(folder) == [b"x"]


def test_a_wal_of_another_version_is_told_from_a_damaged_one(folder):
    wal.Wal(state(folder)).close()
    path = folder / "wal.0"
    whole = path.read_bytes()
    older = struct.pack("<8sQQI", b"stele-w1", 1, 0, 0)
    path.write_bytes(older + struct.pack("<I", zlib.crc32(older)) + whole[len(older) + 4 :])
    assert code(wal.Wal, folder) == "ledger.other-version"
    path.write_bytes(b"stele-w1" + whole[8:])  # a flipped bit is damage
    assert code(wal.Wal, folder) == "ledger.damaged"


def test_a_file_is_as_long_as_the_one_before_it_was_used(folder, monkeypatch):
    """Whoever writes little reads little, also after somebody wrote much."""
    monkeypatch.setattr(wal, "FIRST", 1 << 14)
    monkeypatch.setattr(wal, "STEP", 1 << 16)
    monkeypatch.setattr(wal, "_ZEROS", bytes(1 << 12))
    log = wal.Wal(state(folder))
    sizes = []
    for number, count in enumerate((1, 200, 200, 1, 1), 1):
        log.append([b"x" * 60] * count)
        log.recycle(number, [b"kept"])
        sizes.append(((folder / f"wal.{number % 2}").stat().st_size, log._size))
    log.close()
    assert sizes == [(1 << 14, 1 << 14), (1 << 16, 1 << 16), (1 << 16, 1 << 16), (1 << 14, 1 << 14), (1 << 14, 1 << 14)]
    again = wal.Wal(folder)
    assert (again.recovered, again.base, set(again.rest)) == ([b"kept"], 5, {0})
    again.close()
