"""Buffers from the kernel and from peers: parsed exactly, and never trusted."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.host import bpf, fanotify, seccomp_notify
from stele.model.report import Report, clean
from stele.watch import ward, wire
from stele.watch.journal import HELD, Journal
from stele.watch.outbox import Outbox
from stele.watch.pace import PATHS, WINDOW_NS, Pace


def event(mask: int, fd: int, pid: int, infos: bytes = b"") -> bytes:
    return struct.pack("<IBBHQii", 24 + len(infos), 3, 0, 24, mask, fd, pid) + infos


def info(kind: int, body: bytes) -> bytes:
    body += b"\0" * (-len(body) % 4)
    return struct.pack("<BBH", kind, 0, 4 + len(body)) + body


def handle(data: bytes, name: bytes = b"") -> bytes:
    return b"FSID----" + struct.pack("<Ii", len(data), 1) + data + (name + b"\0" if name else b"")


def test_permission_events_are_read():
    (one, two) = fanotify.parse(event(fanotify.OPEN_EXEC_PERM, 7, 42) + event(fanotify.Q_OVERFLOW, -1, 0))
    assert (one.mask, one.fd, one.pid) == (fanotify.OPEN_EXEC_PERM, 7, 42)
    assert two.mask & fanotify.Q_OVERFLOW


def test_names_handles_and_pidfds_are_read():
    infos = info(10, handle(b"old-", b"a\xff")) + info(12, handle(b"new-", b"b")) + info(4, struct.pack("<i", 9))
    (got,) = fanotify.parse(event(fanotify.RENAME, -1, 42, infos))
    assert got.parent == fanotify.Handle(b"FSID----", 1, b"old-", "a\udcff")
    assert got.new == fanotify.Handle(b"FSID----", 1, b"new-", "b")
    assert got.pidfd == 9


@given(st.binary(max_size=200))
def test_no_bytes_break_the_event_parser(data: bytes):
    with contextlib.suppress(fanotify.Malformed):
        list(fanotify.parse(data))


@given(st.binary(max_size=120), st.integers(0, 20))
def test_no_information_record_breaks_the_event_parser(body: bytes, kind: int):
    for infos in (info(kind, body), body):
        with contextlib.suppress(fanotify.Malformed):
            list(fanotify.parse(event(1, -1, 1, infos)))


def test_a_notification_is_read():
    data = struct.pack("<QIIiIQ6Q", 5, 42, 0, 59, 0xC000003E, 0, 1, 2, 3, 4, 5, 6)
    assert len(data) == seccomp_notify.NOTIFICATION_SIZE
    assert seccomp_notify.unpack(data) == seccomp_notify.Notification(5, 42, 0xC000003E, 59, (1, 2, 3, 4, 5, 6))


def test_jumps_are_counted_from_the_next_instruction():
    code = bpf.assemble([bpf.move_imm(0, 1), bpf.jump_if(0, 1, "end"), *bpf.map_address(1, 5), bpf.label("end"), bpf.finish()])
    words = [struct.unpack_from("<BBhi", code, at) for at in range(0, len(code), 8)]
    assert words == [(0xB7, 0, 0, 1), (0x15, 0, 2, 1), (0x18, 0x11, 0, 5), (0, 0, 0, 0), (0x95, 0, 0, 0)]


def test_hostile_text_becomes_safe_text():
    assert clean("a\udcffb") == "a\\xffb"
    assert clean("x" * 9999, 10) == "x" * 10
    clean("\udcff\udc80").encode("utf-8")


# ---- journal ---------------------------------------------------------------------------------


def received(journal: Journal, listener: int, identity: int, tid: int = 42) -> None:
    """As the kernel would: the listener is announced, then the notification appears."""
    import ctypes

    journal.open_for(listener)
    data = struct.pack("<QIIiIQ6Q", identity, tid, 0, 59, 0xC000003E, 0, 1, 2, 3, 4, 5, 6)
    ctypes.memmove(journal.receive_address, data, len(data))


def test_a_successor_finds_what_was_received_and_what_was_held():
    journal = Journal.create()
    received(journal, 1, 100)
    assert journal.hold()
    received(journal, 2, 200)
    successor = Journal(os.dup(journal.fd))
    assert [(key, notification.id) for key, notification in successor.unanswered()] == [(2, 200), (1, 100)]
    successor.load(1, successor.unanswered()[1][1])
    assert successor.current().id == 100
    successor.let_go(1, 100)
    assert (1, 100) not in [(key, notification.id) for key, notification in successor.unanswered()[1:]]


def test_holding_is_bounded():
    journal = Journal.create()
    for identity in range(1, HELD + 1):
        received(journal, 1, identity)
        assert journal.hold()
    received(journal, 1, HELD + 1)
    assert not journal.hold()


def test_a_quarantine_survives_with_its_report_until_it_is_acknowledged():
    journal = Journal.create()
    slot = journal.enter("web-1")
    assert slot is not None
    assert journal.enter("web-1") == slot
    journal.quarantine(slot)
    journal.owe(slot, b"{}")
    (found,) = Journal(os.dup(journal.fd)).slots()
    assert (found.instance, found.is_quarantined, found.is_acknowledged, found.report) == ("web-1", True, False, b"{}")
    journal.acknowledge(slot)
    assert journal.slots()[0].is_acknowledged
    journal.leave(slot)
    assert journal.slots() == []
    assert not journal.is_quarantined(journal.enter("web-2") or 0)


def test_the_published_report_is_read_and_written_as_it_stands():
    data = (Path(__file__).parents[1] / "vectors" / "gate" / "report.json").read_bytes().rstrip()
    report = ward.decode(data)
    assert report is not None
    assert report.kind == "exec-unsealed"
    assert ward.encode(report) == data


@given(st.binary(max_size=100))
def test_no_bytes_break_the_report_reader(data: bytes):
    ward.decode(data)


def test_a_foreign_descriptor_is_not_a_journal():
    fd = os.memfd_create("x")
    with pytest.raises(ValueError):
        Journal(fd)
    os.close(fd)


# ---- outbox and pace -------------------------------------------------------------------------


def change(path: str) -> Report:
    return Report(instance="web-1", kind="change", path=path)


def test_reports_stay_until_they_are_acknowledged():
    outbox = Outbox(10, 3)
    for path in "abc":
        outbox.put(change(path))
    assert [entry.number for entry in outbox.after(0)] == [10, 11, 12]
    assert [report.path for report in outbox.acknowledge(11)] == ["a", "b"]
    assert [entry.report.path for entry in outbox.after(0)] == ["c"]


def test_reports_beyond_the_room_are_counted():
    outbox = Outbox(1, 2)
    for path in "abcd":
        outbox.put(change(path))
    assert outbox.take_lost() == 2
    assert outbox.take_lost() == 0


def test_repetitions_become_a_count():
    pace = Pace()
    assert pace.take(change("a"), 0)
    assert not any(pace.take(change("a"), at) for at in range(1, 5))
    assert pace.settle(WINDOW_NS - 1) == []
    (told,) = pace.settle(WINDOW_NS)
    assert (told.path, told.count) == ("a", 4)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, WINDOW_NS)), max_size=300))
def test_every_report_is_told_or_counted_and_few_are_told(steps: list[tuple[int, int]]):
    pace, now, told = Pace(), 0, []
    for path, pause in steps:
        now += pause
        told += pace.settle(now)
        one = pace.take(change(f"/{path}"), now)
        if one:
            told.append(one)
    told += pace.settle(now, at_once=True)
    assert sum(report.count for report in told) == len(steps)
    assert len(told) <= (now // WINDOW_NS + 2) * (2 * PATHS + 1)


# ---- wire ------------------------------------------------------------------------------------


def test_messages_carry_descriptors():
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        read, write = os.pipe()
        wire.send(left, {"op": "item", "key": "L1"}, (read,))
        message, fds = wire.receive(right)
        assert message == {"op": "item", "key": "L1"}
        os.write(write, b"x")
        assert os.read(fds[0], 1) == b"x"
        for fd in (read, write, *fds):
            os.close(fd)


@pytest.mark.parametrize("data", [b"[]", b"{", b"1", b"\xff"])
def test_what_is_no_message_ends_the_conversation(data: bytes):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        left.send(data)
        with pytest.raises(EOFError):
            wire.receive(right)
