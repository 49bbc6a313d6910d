"""rpm's databases beside SQLite, as bytes: ndb (SUSE) and Berkeley DB's hash files (until Fedora 32, RHEL 8).

Sources: rpm's lib/backend/ndb/rpmpkg.c; Berkeley DB's dbinc/db_page.h. Pure. Hostile files give no packages, or fewer; never more
bytes than they have themselves.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NDB_PAGE, _NDB_BLOCK, _NDB_SLOTS = 4096, 16, 32  # bytes of each; where the slots begin
_BDB_MAGIC, _BDB_HEADER = 0x061561, 26  # of a hash file; bytes before a page's table
_HASH_UNSORTED, _HASH, _OVERFLOW = 2, 13, 7  # types of pages
_ON_PAGE, _OFF_PAGE = 1, 3  # types of items


def headers(data: bytes) -> list[bytes] | None:
    """The header blobs of an ndb or Berkeley DB file, in its order; None where it is neither."""
    if data[:4] == b"RpmP" and len(data) >= _NDB_SLOTS:
        return list(_within(_ndb(data), len(data)))
    for order in "<>":
        if len(data) >= 512 and struct.unpack_from(f"{order}I", data, 12)[0] == _BDB_MAGIC:
            return list(_within(_bdb(data, order), len(data)))
    return None


def _within(blobs: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Blobs, as long as they are not more than the file: each byte of an honest one belongs to one."""
    for blob in blobs:
        size -= len(blob)
        if size < 0:
            return
        yield blob


def _ndb(data: bytes) -> Iterator[bytes]:
    version, _, pages = struct.unpack_from("<III", data, 4)
    if version != 0:
        return
    end = min(pages * _NDB_PAGE, len(data)) // 16 * 16
    for magic, package, offset, _ in struct.iter_unpack("<4sIII", data[_NDB_SLOTS:end]):
        at = offset * _NDB_BLOCK
        if magic != b"Slot" or not package or at + 16 > len(data):
            continue
        head, owner, _, length = struct.unpack_from("<4sIII", data, at)
        if head == b"BlbS" and owner == package and at + 16 + length <= len(data):
            yield data[at + 16 : at + 16 + length]


def _bdb(data: bytes, order: str) -> Iterator[bytes]:
    (size,) = struct.unpack_from(f"{order}I", data, 20)
    if size < 512 or size > 65_536 or size & (size - 1):
        return
    for start in range(size, len(data) - size + 1, size):
        page = data[start : start + size]
        (count,) = struct.unpack_from(f"{order}H", page, 20)
        if page[25] not in {_HASH, _HASH_UNSORTED} or _BDB_HEADER + 2 * count > size:
            continue
        places = struct.unpack_from(f"{order}{count}H", page, _BDB_HEADER)
        for number in range(1, count, 2):  # keys and values by turns
            at, end = places[number], places[number - 1]  # they are laid from a page's end
            if page[at : at + 1] == bytes([_ON_PAGE]):
                yield page[at + 1 : end]
            elif page[at : at + 1] == bytes([_OFF_PAGE]) and at + 12 <= size:
                first, length = struct.unpack_from(f"{order}II", page, at + 4)
                yield _chain(data, order, size, first, length)


def _chain(data: bytes, order: str, size: int, number: int, length: int) -> bytes:
    """A value of `length` bytes on pages of its own, all full but the last; shorter where the chain of them breaks."""
    out = bytearray()
    while number and len(out) < length and (number + 1) * size <= len(data):
        at = number * size
        number, _, used = struct.unpack_from(f"{order}IHH", data, at + 16)
        if data[at + 25] != _OVERFLOW or used != min(size - _BDB_HEADER, length - len(out)):
            break
        out += data[at + _BDB_HEADER : at + _BDB_HEADER + used]
    return bytes(out)
