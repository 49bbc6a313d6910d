"""The witness dies, or its disk fails, at every step: what it gave away is never forgotten, and no second history is ever signed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from base64 import b64decode, b64encode

import pytest

from stele.host import durable
from stele.trust import note
from stele.witness import journal, service, state
from stele.witness.service import Witness
from tests import witnesses
from tests.power_cuts import MARK, Disk, calls, record, tell
from tests.witnesses import NOW, SIGNER, Log

TRACED = {module.__file__ for module in (durable, journal, service, state)}
WRITES = {durable.__file__}  # where a disk can fail
LOG, FORK = Log(), Log(tag="other")
STEPS = ((0, 3), (3, 3), (3, 9), (9, 40))


def run(folder, at, what):
    """A child that goes through STEPS and reports each answer; at the `at`-th line of what keeps the state, it dies, or its disk fails."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            _child(folder, at, what, write)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="ascii") as said:
        lines = said.read().splitlines()
    _, status = os.waitpid(child, 0)
    got = [json.loads(line) for line in lines]
    return [(old, size, code, b64decode(body)) for old, size, code, body in got], os.WIFSIGNALED(status)


def _child(folder, at, what, out):
    witness = Witness(folder, clock=lambda: NOW)
    count = 0

    def line(frame, event, _):
        nonlocal count
        if event == "line":
            count += 1
            if count == at:
                if what == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(what, os.strerror(what))
        return line

    requests = [(old, size, LOG.submission(old, size)) for old, size in STEPS]
    traced = TRACED if what == "kill" else WRITES
    sys.settrace(lambda frame, event, arg: line if frame.f_code.co_filename in traced else None)
    for old, size, body in requests:
        answer = witness.answer("POST", "/add-checkpoint", body)
        os.write(out, (json.dumps([old, size, answer.status, b64encode(answer.body).decode()]) + "\n").encode())


@pytest.mark.parametrize("what", ["kill", 5, 28], ids=["kill", "EIO", "ENOSPC"])
def test_nothing_that_was_given_away_is_forgotten(tmp_path, what, monkeypatch):
    monkeypatch.setattr(journal, "ROOM", 8 << 10)  # so that it begins anew on the way
    template = tmp_path / "template"
    keys = witnesses.make(template)
    points = 0
    for at in range(1, 10_000, 5 if what == "kill" else 2):
        folder = tmp_path / f"w{at}"
        shutil.copytree(template, folder)
        got, killed = run(folder, at, what)
        if what == "kill" and not killed:
            break  # it went through: there is no such line
        if what != "kill" and all(code == 200 for _, _, code, _ in got):
            break
        points += 1
        given = max([size for _, size, code, _ in got if code == 200], default=0)
        for _, size, code, body in got:
            assert code in {200, 409, 503}, at
            if code == 200:
                note.open_note(LOG.note(size) + body, SIGNER.verifiers, keys.verifiers)
        again = Witness(folder, clock=lambda: NOW)
        known = 0
        answer = again.answer("POST", "/add-checkpoint", LOG.submission(0, 41))
        if answer.status == 409:
            known = int(answer.body)
        else:
            assert answer.status == 200
            assert given == 0, at
        assert known >= given, at
        if known:
            # it goes on from there, and never to another history
            assert again.answer("POST", "/add-checkpoint", FORK.submission(known, 50)).status == 422
            assert again.answer("POST", "/add-checkpoint", LOG.submission(known, 50)).status == 200
        again.close()
    assert points > 20


@pytest.mark.needs("strace")  # makes a system call fail
def test_what_a_failed_write_left_in_memory_is_on_disk_before_anything_builds_on_it(tmp_path, monkeypatch):
    """The disk refuses one head, the witness starts again and sees it, gives away another, and the power goes."""
    monkeypatch.setattr(journal, "ROOM", 8 << 10)
    folder, log, left = tmp_path / "w", tmp_path / "trace", tmp_path / "left"
    witnesses.make(folder)

    def work() -> None:
        for old, size in ((0, 3), (3, 9), (9, 40)):
            with contextlib.closing(Witness(folder, clock=lambda: NOW)) as witness:
                if size == 9 or witness.answer("POST", "/add-checkpoint", LOG.submission(old, size)).status == 200:
                    tell("given", size if size != 9 else 3)
                if size == 9:
                    assert witness.answer("POST", "/add-checkpoint", LOG.submission(old, size)).status == 503

    disk = Disk(folder)
    record(work, log, "-e", "inject=fdatasync:error=EIO:when=3")
    given, failed = 0, False
    for call, texts, rest, result in calls(log):
        disk.play(call, texts, rest, result)
        failed = failed or (result < 0 and call == "fdatasync")
        if call == "access" and (word := texts[0].decode()).startswith(MARK):
            given = int(word.rpartition("/")[2])
            shutil.rmtree(left, ignore_errors=True)
            disk.leave(left, None)
            with contextlib.closing(Witness(left, clock=lambda: NOW)) as again:
                assert int(again.answer("POST", "/add-checkpoint", LOG.submission(0, 41)).body) >= given
    assert failed
    assert given == 40
