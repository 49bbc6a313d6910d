"""rpm's database: SQLite, a table `Packages` of header blobs (rpm ≥ 4.16; docs of rpm: Package format, Header).

A header blob is two big-endian counts (index entries, data bytes), then entries of four (tag, type, offset, count), then the
data. The same blobs are in the databases of SUSE and of older systems (`rpm_older`).
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

from stele.seal.packages import rpm_older
from stele.seal.packages.package import Package
from stele.seal.packages.records import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.seal.packages.records import Records

FOLDERS = (b"usr/lib/sysimage/rpm", b"var/lib/rpm")
NAMES = (b"rpmdb.sqlite", b"Packages.db", b"Packages")  # SQLite, ndb, Berkeley DB
_NAME, _VERSION, _RELEASE, _EPOCH, _LICENCE, _ARCH, _SOURCE = 1000, 1001, 1002, 1003, 1014, 1022, 1044
_DIR_INDEXES, _BASE_NAMES, _DIR_NAMES = 1116, 1117, 1118
_WANTED = {_NAME, _VERSION, _RELEASE, _EPOCH, _LICENCE, _ARCH, _SOURCE, _DIR_INDEXES, _BASE_NAMES, _DIR_NAMES}
_INT32, _STRING, _STRINGS, _I18N = 4, 6, 8, 9
_MAX_STEPS = 2_000  # progress calls of 10,000 SQLite instructions each: a hostile schema cannot run on


def find(records: Records) -> Iterator[Package]:
    """The packages that rpm has installed."""
    for name in NAMES:
        for folder in FOLDERS:
            data = records.read(folder + b"/" + name)
            blobs = _blobs(data) if data.startswith(b"SQLite format 3\0") else rpm_older.headers(data)
            if blobs is None:
                continue
            for blob in blobs:
                header = _header(blob)
                package = None if header is None else _package(records, header)
                if package is not None:
                    yield package
            return


def _blobs(data: bytes) -> list[bytes]:
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return steps > _MAX_STEPS

    # a database left in WAL mode says so in its header, and cannot be opened in memory as such
    plain = data[:18] + b"\x01\x01" + data[20:]
    import sqlite3

    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.set_progress_handler(count, 10_000)
        try:
            connection.deserialize(plain)
            connection.execute("PRAGMA trusted_schema=OFF")
            rows = connection.execute("SELECT blob FROM Packages ORDER BY hnum").fetchmany(100_000)
        except (sqlite3.Error, OverflowError, MemoryError):
            return []
    return [row[0] for row in rows if isinstance(row[0], bytes)]


def _header(blob: bytes) -> dict[int, list[bytes] | list[int]] | None:
    """The wanted tags of a header, strings as bytes and numbers as int; None where it is not one."""
    if len(blob) < 8:
        return None
    count, size = struct.unpack_from(">II", blob)
    start = 8 + 16 * count
    if count > 65_536 or start + size > len(blob):
        return None
    data = blob[start : start + size]
    found: dict[int, list[bytes] | list[int]] = {}
    for tag, kind, offset, number in struct.iter_unpack(">IIII", blob[8:start]):
        if tag not in _WANTED:
            continue
        if kind == _INT32 and offset + 4 * number <= size:
            found[tag] = list(struct.unpack_from(f">{number}I", data, offset))
        elif kind in {_STRING, _STRINGS, _I18N} and offset <= size and number <= size:
            found[tag] = data[offset:].split(b"\0", number)[:number]
    return found


def _package(records: Records, header: dict[int, list[bytes] | list[int]]) -> Package | None:
    def one(tag: int) -> str:
        values = header.get(tag)
        return text(values[0]) if values and isinstance(values[0], bytes) else ""

    name, version, release = one(_NAME), one(_VERSION), one(_RELEASE)
    if not name or not version or name == "gpg-pubkey":  # a key that the database keeps among the packages
        return None
    epoch = header.get(_EPOCH)
    folders = [name for name in header.get(_DIR_NAMES, []) if isinstance(name, bytes)]
    bases = [name for name in header.get(_BASE_NAMES, []) if isinstance(name, bytes)]
    indexes = [at for at in header.get(_DIR_INDEXES, []) if isinstance(at, int)]
    names = [folders[at] + base for base, at in zip(bases, indexes, strict=False) if at < len(folders)]
    return Package(
        ecosystem="rpm",
        name=name,
        version=(f"{epoch[0]}:" if epoch and isinstance(epoch[0], int) else "") + version + (f"-{release}" if release else ""),
        architecture=one(_ARCH),
        licence=one(_LICENCE),
        source=one(_SOURCE),
        paths=records.owned(names),
    )
