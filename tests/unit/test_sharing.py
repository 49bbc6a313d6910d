"""Work that is shared out: what one gave back is done by this thread, and first."""

from __future__ import annotations

import threading

import pytest

from stele.host.sharing import Sharing


def raising(_: int) -> bool:
    raise ValueError


@pytest.mark.parametrize("other", [raising, lambda _: False])
def test_what_was_given_back_is_done_next_so_that_an_error_is_not_told_after_all_else(other):
    before, done = set(threading.enumerate()), []
    with Sharing[int]() as sharing:
        for number in range(9):
            sharing.add(number)
        sharing.begin([other, other])
        for thread in set(threading.enumerate()) - before:
            thread.join()
        sharing.finish(done.append)
    assert sorted(done) == list(range(9))
    assert sorted(done[:2]) == [0, 1]


def test_all_is_done_whoever_does_it():
    done: list[int] = []

    def do(number: int) -> bool:
        done.append(number)
        return True

    with Sharing[int]() as sharing:
        sharing.begin([do, do])
        for number in range(500):
            sharing.add(number)
        sharing.finish(done.append)
    assert sorted(done) == list(range(500))


def test_what_nobody_began_is_left_when_it_is_left():
    threads, done = set(threading.enumerate()), []
    with Sharing[int]() as sharing:
        sharing.add(1)
        assert sharing.one(done.append)
        sharing.add(2)
    assert done == [1]
    assert not sharing.one(done.append)
    assert set(threading.enumerate()) == threads
