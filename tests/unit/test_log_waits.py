"""`stele log` shows what was committed before it began: it waits for the agent to publish that, and says so where it does not."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading

import pytest

from stele.cli import log_options
from stele.cli.app import run
from stele.flow import holding, places
from stele.flow.initialise import make_keys
from stele.flow.opening import open_ledger
from tests.ledgers import event


class Agent:
    """What an agent says of its ledger, at its socket. `asked` is called for every question, with its number, before the answer."""

    def __init__(self, path, ledger, asked):
        path.parent.mkdir(parents=True)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen(8)
        self._ledger, self._asked = ledger, asked
        self.count = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            taken, _ = self._listening.accept()
            with taken, taken.makefile("rb") as lines:
                said = lines.readline()
                if not said:
                    return
                while lines.readline().strip():
                    pass
                assert said.startswith(b"GET /v1/ledger ")
                self.count += 1
                answer = json.dumps({"result": holding.state(self._ledger)}).encode() + b"\n"
                self._asked(self.count)
                taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)

    def close(self, path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(path))
        self._thread.join()
        self._listening.close()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "RUN_ROOT", tmp_path / "run")
    made = places.Places(tmp_path / "data")
    make_keys(made)
    monkeypatch.setattr(log_options, "ASKED_S", 120.0)
    with contextlib.closing(open_ledger(made)) as ledger:
        ledger.append([event(1)])
    return made


@contextlib.contextmanager
def committed(data, asked):
    """An agent that has committed something and publishes it when `asked` lets go of the lock that it gets."""
    with contextlib.closing(open_ledger(data)) as ledger:
        ledger.publish()
        held = contextlib.ExitStack()
        held.enter_context(ledger._publishing)
        ledger.append([event(2)])
        agent = Agent(data.agent_socket, ledger, lambda count: asked(count, held))
        try:
            yield agent
        finally:
            agent.close(data.agent_socket)
            held.close()


def shown(data, capfd):
    assert not run(["--data", str(data.data), "log", "--json", "--kind", "instance"])
    out, err = capfd.readouterr()
    return [json.loads(line)["data"]["number"] for line in out.splitlines()], err


def test_what_was_committed_before_is_waited_for(data, capfd, monkeypatch):
    monkeypatch.setattr(log_options, "WAIT_S", 120.0)

    def publish_at_the_third(count, held):
        if count == 3:
            held.close()

    with committed(data, publish_at_the_third) as agent:
        assert shown(data, capfd) == ([1, 2], "")
        assert agent.count > 3


def test_what_is_not_published_in_time_is_said(data, capfd, monkeypatch):
    monkeypatch.setattr(log_options, "WAIT_S", 0.2)
    with committed(data, lambda count, held: None):
        numbers, said = shown(data, capfd)
    assert numbers == [1]
    assert "committed and not published yet: the newest 1" in said


def test_without_an_agent_nothing_is_waited_for(data, capfd):
    assert shown(data, capfd) == ([1], "")
    data.agent_socket.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(data.agent_socket))
    assert os.path.exists(data.agent_socket)
    assert shown(data, capfd) == ([1], "")
