"""`stele log monitor` as it is run: over HTTP from `stele serve`, once and for long, with a command for alarms."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stele.flow.initialise import make_keys
from stele.flow.opening import open_ledger
from stele.flow.places import Places
from stele.host.http_files import HttpFiles
from stele.trust.errors import SteleError
from tests.ledgers import event

ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}


def stele(*argv):
    return [sys.executable, "-m", "stele", *map(str, argv)]


def write(places, *events):
    with contextlib.closing(open_ledger(places)) as ledger:
        ledger.append(list(events))
        return ledger.publish()


@pytest.fixture
def places(tmp_path):
    made = Places(tmp_path / "data")
    make_keys(made)
    write(made, event(1))
    return made


@contextlib.contextmanager
def served(folder):
    argv = stele("--json", "serve", "--listen", "127.0.0.1:0", "--ledger", folder)
    with subprocess.Popen(argv, env=ENV, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield json.loads("".join(iter(running.stdout.readline, "}\n")) + "}")["url"]
        finally:
            running.terminate()


def until(true):
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_follows_over_http_runs_the_command_and_ends_at_a_split_view(tmp_path, places):
    shutil.copytree(places.data, tmp_path / "double")
    double = Places(tmp_path / "double")
    folder = tmp_path / "shown"
    folder.symlink_to(places.ledger)
    script = tmp_path / "alarm.py"
    script.write_text("import sys; open(sys.argv[1], 'a').write(sys.stdin.read())")
    command = f"{sys.executable} {script} '{tmp_path / 'alarms'}'"
    (tmp_path / "expected.yaml").write_text("stele_expectations: 0\nexpected:\n- {kinds: [instance.*, epoch]}\n")
    argv = ["--json", "log", "monitor", "--trust", places.trust, "--state", tmp_path / "m", "--every", "100ms", "--stale", "0s"]
    argv += ["--expect", tmp_path / "expected.yaml", "--on-alarm", command]
    with served(tmp_path / "shown") as url:
        with subprocess.Popen(stele(*argv, url), env=ENV, stdout=subprocess.PIPE, text=True) as monitor:
            assert json.loads(monitor.stdout.readline())["size"] == 2
            write(places, event(2), event(3))
            assert json.loads(monitor.stdout.readline())["fresh"] == 3
            write(places, event(4, kind="release.pardoned"))
            found = json.loads(monitor.stdout.readline())
            assert [alarm["kind"] for alarm in found["alarms"]] == ["unexpected-entry"]
            monitor.terminate()  # in good order
            assert monitor.wait(30) == 0
    write(double, *(event(number) for number in range(20)))
    with served(double.ledger) as url:
        done = subprocess.run(stele(*argv, url), env=ENV, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        (alarm,) = json.loads(done.stdout)["alarms"]
        assert alarm["kind"] == "split-view"
        assert all(Path(path).exists() for path in alarm["evidence"])
    told = [json.loads(line) for line in (tmp_path / "alarms").read_text().splitlines()]
    assert [each["kind"] for each in told] == ["unexpected-entry", "split-view"]


def test_once_for_cron(tmp_path, places):
    argv = ["--json", "log", "monitor", "--trust", places.trust, "--state", tmp_path / "m", "--once", "--stale"]
    with served(places.ledger) as url:
        assert subprocess.run(stele(*argv, "0s", url), env=ENV, capture_output=True).returncode == 0
        done = []
        until(lambda: done.append(subprocess.run(stele(*argv, "1s", url), env=ENV, capture_output=True, text=True)) or done[-1].returncode)
        assert done[-1].returncode == 1
        assert json.loads(done[-1].stdout)["alarms"][0]["kind"] == "stale"
    done = subprocess.run(stele(*argv, "1s", url), env=ENV, capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (4, "http.unreachable")


class _Later(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.send_response(503)
        self.send_header("Retry-After", "600")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_server_that_wants_to_be_asked_much_later_is_not_asked_again_at_once():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Later) as server:
        server.asked = 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with HttpFiles(f"http://127.0.0.1:{server.server_port}/") as files, pytest.raises(SteleError) as raised:
            files.get("checkpoint", 100)
        server.shutdown()
        assert (raised.value.code, server.asked) == ("http.unreachable", 1)


def test_one_that_cannot_be_reached_any_more_gets_stale(tmp_path, places):
    argv = ["--json", "log", "monitor", "--trust", places.trust, "--state", tmp_path / "m", "--every", "100ms", "--stale", "2s"]
    write(places, event(10**18))  # far ahead: no entry is too old, so that only the monitor's clock says so
    shutil.copytree(places.ledger, tmp_path / "copy")
    with subprocess.Popen(
        stele(*argv, tmp_path / "copy"), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as monitor:
        assert json.loads(monitor.stdout.readline())["alarms"] == []
        shutil.rmtree(tmp_path / "copy")
        (alarm,) = json.loads(monitor.stdout.readline())["alarms"]
        assert alarm["kind"] == "stale"
        monitor.terminate()
