"""A helper answers until it fails or dies, never takes the asker along, and never outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stele.host import helper as helpers
from stele.host.helper import Helper, possible


@pytest.fixture
def begin():
    begun: list[Helper] = []

    def make(serve) -> Helper:
        begun.append(Helper(serve))
        return begun[-1]

    yield make
    for helper in begun:
        helper.close()


def test_it_answers_every_request_in_its_own_process(begin):
    helper = begin(lambda request, _: b"%d " % os.getpid() + request[::-1])
    for request in (b"", b"abc", bytes(3 << 20), b"x" * 70_000):
        pid, _, answer = helper.ask(request).partition(b" ")
        assert answer == request[::-1]
        assert int(pid) != os.getpid()


def test_one_that_fails_gives_no_answer_and_ends(begin):
    def serve(request: bytes, _) -> bytes:
        if request == b"fail":
            raise ValueError
        return request

    helper = begin(serve)
    assert helper.ask(b"fine") == b"fine"
    assert helper.ask(b"fail") is None
    assert helper.ask(b"fine") is None


def test_who_waits_for_one_that_is_killed_gets_no_answer(begin):
    out, into = os.pipe()

    def serve(request: bytes, _) -> bytes:
        os.write(into, b"busy")
        signal.pause()
        return request

    helper = begin(serve)
    answers: list[bytes | None] = [b"none yet"]
    asking = threading.Thread(target=lambda: answers.append(helper.ask(b"x")))
    asking.start()
    assert os.read(out, 4) == b"busy"
    helper.kill()
    asking.join()
    assert answers[-1] is None
    os.close(out)
    os.close(into)


def test_it_writes_to_the_files_that_come_with_a_request_and_has_none_of_them_afterwards(begin, tmp_path):
    def serve(request: bytes, files) -> bytes:
        for fd in files:
            os.write(fd, request)
        return b"%d of %d" % (len(files), len(os.listdir("/proc/self/fd")))

    helper = begin(serve)
    before = helper.ask(b"")
    for number in range(3):
        fds = [os.open(tmp_path / f"{number}.{which}", os.O_WRONLY | os.O_CREAT) for which in range(2)]
        count, _, opened = (helper.ask(b"as asked", fds) or b"").partition(b" of ")
        assert (count, int(opened)) == (b"2", int(before.rpartition(b" ")[2]) + 2)
        for fd in fds:
            os.close(fd)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"as asked"] * 6


@pytest.mark.parametrize("size", [0, 8 << 20])  # the second: more than is sent at once
def test_one_that_somebody_stopped_is_ended_and_done_without(begin, monkeypatch, size):
    monkeypatch.setattr(helpers, "_PATIENCE_S", 0.05)
    helper = begin(lambda request, _: b"%d" % os.getpid())
    pid = int(helper.ask(b""))
    os.kill(pid, signal.SIGSTOP)
    assert helper.ask(bytes(size)) is None
    assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT).si_status == signal.SIGKILL


def test_one_that_takes_its_time_is_waited_for(begin, monkeypatch):
    monkeypatch.setattr(helpers, "_PATIENCE_S", 0.001)
    out, into = os.pipe()

    def serve(request: bytes, _) -> bytes:
        os.read(out, 1)
        return request

    helper = begin(serve)
    answers: list[bytes | None] = []
    asking = threading.Thread(target=lambda: answers.append(helper.ask(b"x")))
    asking.start()
    asking.join(0.2)  # many times its patience
    os.write(into, b".")
    asking.join()
    assert answers == [b"x"]
    os.close(out)
    os.close(into)


def test_where_memory_is_short_it_goes_before_its_asker(begin):
    mine = int(Path("/proc/self/oom_score_adj").read_text())
    helper = begin(lambda *_: Path("/proc/self/oom_score_adj").read_bytes())
    assert int(helper.ask(b"")) == min(1000, mine + 500)


def test_several_do_not_keep_each_other_alive(begin):
    helpers = [begin(lambda request, _: request) for _ in range(3)]
    assert [helper.ask(b"x") for helper in helpers] == [b"x"] * 3
    helpers[0].kill()
    assert helpers[0].ask(b"x") is None
    assert helpers[2].ask(b"y") == b"y"


def test_it_is_gone_when_who_forked_it_is_killed():
    program = (
        "import os, signal, sys\nfrom stele.host.helper import Helper\n"
        "def serve(request, files):\n    print(os.getpid(), flush=True)\n    signal.pause()\n"
        "Helper(serve).ask(b'x')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as forker:
        assert forker.stdout is not None
        assert int(forker.stdout.readline()) != forker.pid
        forker.kill()
        assert forker.stdout.read() == ""  # it ends when the last process that could write to it is gone


def test_with_other_threads_there_is_none():
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        assert not possible()
    finally:
        stop.set()
        other.join()
    alone = subprocess.run(
        [sys.executable, "-c", "from stele.host import helper; print(helper.possible())"], capture_output=True, text=True
    )
    assert alone.stdout == "True\n"


def test_where_children_are_ignored_there_is_none():
    """As under a supervisor that ignores SIGCHLD: the kernel gives their numbers to others at once."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert not possible()
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_right_after_the_fork_does_not_have_it_clean_up_in_place_of_its_asker(number):
    program = f"""
import ctypes, functools, os, signal
from stele.host.helper import Helper
signal.signal(signal.SIGTERM, signal.default_int_handler)
mine = os.getpid()
os.register_at_fork(after_in_child=functools.partial(getattr(ctypes.CDLL(None), "raise"), {number:d}))
try:
    Helper(lambda request, _: request).ask(b"x")
finally:
    os.write(1, b"cleaned by %s\\n" % (b"its asker" if os.getpid() == mine else b"the helper"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "cleaned by its asker\n"
