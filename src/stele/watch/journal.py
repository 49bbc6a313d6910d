"""What a gate's successor must know at once: shared memory that the parker keeps open (docs/spec/gate.md).

The kernel writes a notification straight into it, so there is no moment at which one was taken from the kernel and is
known to nobody. An instance's quarantine is marked here before its freeze is ordered.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

from stele.host.seccomp_notify import NOTIFICATION_SIZE, Notification, address_of, unpack

MAGIC = b"STELEJ1\n"
HELD = 128
SLOTS = 1024
SLOT_SIZE = 4096
_ENTRY = 8 + NOTIFICATION_SIZE  # listener's key, notification
_CURRENT = 64
_HIGHEST_AT = 48
_HELD_AT = 4096
_SLOTS_AT = 4096 * 4
SIZE = _SLOTS_AT + SLOTS * SLOT_SIZE
_SLOT_HEAD = struct.Struct("<BBH64s")  # state, reported, length of report, instance
FREE, GUARDED, QUARANTINED = 0, 1, 2
_ZEROS = bytes(NOTIFICATION_SIZE)
MAX_REPORT = SLOT_SIZE - _SLOT_HEAD.size


class Slot(NamedTuple):
    """One instance's entry. `report`: the report that its quarantine owes, empty when none was written yet."""

    number: int
    instance: str
    is_quarantined: bool
    is_acknowledged: bool
    report: bytes


class Journal:
    """The shared memory behind one descriptor.

    Raises:
        ValueError: the descriptor is not of a journal of this version.
    """

    def __init__(self, fd: int) -> None:
        if os.fstat(fd).st_size != SIZE:
            raise ValueError("not a journal")
        self.fd = fd
        self._map = mmap.mmap(fd, SIZE)
        if self._map[: len(MAGIC)] != MAGIC:
            raise ValueError("a journal of another version")
        self.receive_address = address_of(self._map) + _CURRENT + 8

    @classmethod
    def create(cls) -> Journal:
        """An empty one, in memory."""
        fd = os.memfd_create("stele-gate-journal", os.MFD_CLOEXEC)
        os.ftruncate(fd, SIZE)
        os.pwrite(fd, MAGIC, 0)
        return cls(fd)

    # ---- notifications -----------------------------------------------------------------------

    def open_for(self, listener: int) -> None:
        """Before RECV: say whose notification comes, and zero the place that the kernel wants zeroed."""
        self._map[_CURRENT + 8 : _CURRENT + _ENTRY] = _ZEROS
        struct.pack_into("<Q", self._map, _CURRENT, listener)

    def current(self) -> Notification:
        """What the kernel wrote last."""
        return unpack(self._map[_CURRENT + 8 : _CURRENT + _ENTRY])

    def hold(self) -> bool:
        """Put the current notification aside, until its instance is registered. False when there is no room."""
        entry = self._map[_CURRENT : _CURRENT + _ENTRY]
        for index in range(HELD):
            at = _HELD_AT + index * _ENTRY
            if self._map[at + 8 : at + 16] == _ZEROS[:8]:
                self._map[at : at + _ENTRY] = entry
                return True
        return False

    def let_go(self, listener: int, identity: int) -> None:
        """Forget a notification that was held."""
        wanted = struct.pack("<QQ", listener, identity)
        for index in range(HELD):
            at = _HELD_AT + index * _ENTRY
            if self._map[at : at + 16] == wanted:
                self._map[at : at + _ENTRY] = bytes(_ENTRY)

    def unanswered(self) -> list[tuple[int, Notification]]:
        """What a predecessor received and may not have answered: (listener's key, notification)."""
        found = []
        for at in (_CURRENT, *(_HELD_AT + index * _ENTRY for index in range(HELD))):
            (listener,) = struct.unpack_from("<Q", self._map, at)
            notification = unpack(self._map[at + 8 : at + _ENTRY])
            if notification.id:
                found.append((listener, notification))
        return found

    def load(self, listener: int, notification: Notification) -> None:
        """Make one of `unanswered` the current one again."""
        for at in (_CURRENT, *(_HELD_AT + index * _ENTRY for index in range(HELD))):
            if self._map[at : at + 16] == struct.pack("<QQ", listener, notification.id):
                self._map[_CURRENT : _CURRENT + _ENTRY] = self._map[at : at + _ENTRY]
                return

    def note_descriptor(self, number: int) -> None:
        """Remember the highest descriptor number under which an event was received."""
        if number > self.highest_descriptor():
            struct.pack_into("<I", self._map, _HIGHEST_AT, number)

    def highest_descriptor(self) -> int:
        """The highest number given to `note_descriptor`, by this gate or a predecessor."""
        (number,) = struct.unpack_from("<I", self._map, _HIGHEST_AT)
        return int(number)

    # ---- instances ---------------------------------------------------------------------------

    def slots(self) -> list[Slot]:
        """Every instance's entry."""
        return [slot for slot in map(self._slot, range(SLOTS)) if slot is not None]

    def _slot(self, index: int) -> Slot | None:
        at = _SLOTS_AT + index * SLOT_SIZE
        state, told, length, name = _SLOT_HEAD.unpack_from(self._map, at)
        if state == FREE:
            return None
        begin = at + _SLOT_HEAD.size
        report = self._map[begin : begin + min(length, MAX_REPORT)]
        return Slot(index, name.rstrip(b"\0").decode("utf-8", "replace"), state == QUARANTINED, bool(told), report)

    def enter(self, instance: str) -> int | None:
        """The instance's slot, a new one if it has none; None when all are taken."""
        free = None
        for index in range(SLOTS):
            slot = self._slot(index)
            if slot is not None and slot.instance == instance:
                return index
            if slot is None and free is None:
                free = index
        if free is not None:
            _SLOT_HEAD.pack_into(self._map, _SLOTS_AT + free * SLOT_SIZE, GUARDED, 0, 0, instance.encode()[:64])
        return free

    def leave(self, index: int) -> None:
        """Free a slot."""
        at = _SLOTS_AT + index * SLOT_SIZE
        self._map[at : at + _SLOT_HEAD.size] = bytes(_SLOT_HEAD.size)

    def quarantine(self, index: int) -> None:
        """Mark: from now on nobody thaws this instance."""
        self._map[_SLOTS_AT + index * SLOT_SIZE] = QUARANTINED

    def is_quarantined(self, index: int) -> bool:
        """Whether `quarantine` was called for the slot."""
        return self._map[_SLOTS_AT + index * SLOT_SIZE] == QUARANTINED

    def owe(self, index: int, report: bytes) -> None:
        """Keep the report of a quarantine until it is acknowledged; one that does not fit is kept as empty."""
        at = _SLOTS_AT + index * SLOT_SIZE
        report = report if len(report) <= MAX_REPORT else b""
        begin = at + _SLOT_HEAD.size
        struct.pack_into("<BH", self._map, at + 1, 0, 0)
        self._map[begin : begin + len(report)] = report
        struct.pack_into("<H", self._map, at + 2, len(report))

    def acknowledge(self, index: int) -> None:
        """The quarantine's report is committed."""
        self._map[_SLOTS_AT + index * SLOT_SIZE + 1] = 1
