"""Asking for an agent that is going, or gone: a real socket whose owner dies while it is asked."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from stele.api.client import AgentClient
from stele.trust.errors import SteleError


def test_an_agent_that_is_killed_while_it_is_asked_is_not_running(tmp_path):
    path = tmp_path / "agent.sock"
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(path))
        listening.listen(8)
        os.write(told, b"x")
        listening.accept()  # somebody asks: this is when it dies, as by kill -9
        os.kill(os.getpid(), signal.SIGKILL)
    os.read(ready, 1)
    try:
        assert not AgentClient(path).is_running()
    finally:
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


def test_what_takes_connections_and_says_nothing_of_use_is_not_taken_for_gone(tmp_path):
    path = tmp_path / "agent.sock"
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(path))
        listening.listen(8)
        os.write(told, b"x")
        while True:
            listening.accept()[0].close()
    os.read(ready, 1)
    try:
        with pytest.raises(SteleError) as caught:
            AgentClient(path).is_running()
        assert caught.value.code == "agent.broke-off"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)
