"""The dm-verity hash area, judged by veritysetup: byte for byte what it writes, and verified by it."""

from __future__ import annotations

import re
import subprocess

import pytest

from stele.seal import verity

UUID = bytes(range(16))
TEXT = "00010203-0405-0607-0809-0a0b0c0d0e0f"


@pytest.mark.parametrize("blocks", [1, 2, 127, 128, 129, 256, 128 * 128, 128 * 128 + 1])
def test_the_hash_area_is_what_veritysetup_writes(blocks, tmp_path):
    data = b"".join(number.to_bytes(8, "little") * 512 for number in range(blocks))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for path in (ours, theirs):
        path.write_bytes(data)
    with ours.open("r+b") as file:
        root = verity.append(file.fileno(), len(data), UUID)
    whole = bytearray(data.ljust(verity.file_size(len(data)), b"\0"))
    assert verity.fill(memoryview(whole), len(data), UUID) == root
    assert ours.read_bytes() == whole
    said = subprocess.run(
        ["veritysetup", "format", theirs, theirs, f"--hash-offset={len(data)}", "--salt=-", f"--uuid={TEXT}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(r"Root hash:\s+([0-9a-f]{64})", said)[1] == root
    theirs_data = theirs.read_bytes()
    assert ours.read_bytes() == theirs_data.ljust(verity.file_size(len(data)), b"\0")
    subprocess.run(["veritysetup", "verify", ours, ours, root, f"--hash-offset={len(data)}"], check=True, capture_output=True)


def test_a_flipped_bit_is_found_by_veritysetup(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bytes(4096 * 300))
    with path.open("r+b") as file:
        root = verity.append(file.fileno(), 4096 * 300, UUID)
        file.seek(4096 * 200 + 17)
        file.write(b"\1")
    done = subprocess.run(["veritysetup", "verify", path, path, root, f"--hash-offset={4096 * 300}"], capture_output=True, check=False)
    assert done.returncode != 0
