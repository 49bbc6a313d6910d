"""What was moved is not moved again: after a kill, a break, from another repository, and of what is here already."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stele.flow import initialise, opening, pulling, pushing, sealing, storecheck
from stele.flow.places import Places
from stele.host import registry_transfer
from stele.host.http_registry import Connections
from stele.host.registry import Repository
from stele.model import reference as references
from stele.trust.digest import sha256
from stele.trust.errors import SteleError

PART = 200_000
BLOB = os.urandom(10 * PART + 17)


def quiet(*_: object, **__: object) -> None:
    """Neither tells nor records."""


class _Relay(http.server.BaseHTTPRequestHandler):
    """Between a client and a registry; counts requests, and stops in the middle where `server.stop(method, path, number)` says."""

    protocol_version = "HTTP/1.1"

    def relay(self) -> None:
        served: Any = self.server
        served.asked.append((self.command, self.path))
        number = sum(1 for method, _ in served.asked if method == self.command)
        way = served.stop(self.command, self.path, number)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if way == "break":  # it came here, and did not get there
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if way == "busy":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if way == "hold" and self.command != "GET":
            served.held.set()
            served.go_on.wait(60)
            self.close_connection = True
            return
        behind = http.client.HTTPConnection(served.behind, timeout=60)
        behind.request(self.command, self.path, body=body or None, headers=dict(self.headers))
        answer = behind.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for key, value in [*answer.getheaders(), *served.more]:
            if key.lower() not in {"transfer-encoding", "connection", "date", "server", "content-length"}:
                self.send_header(key, value)
        self.send_header("Content-Length", answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        served.sent += len(data)
        if way == "hold":  # half of it, and then nothing
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            served.held.set()
            served.go_on.wait(60)
            self.close_connection = True
            return
        self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = relay

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def relay(debian) -> Iterator[Any]:
    yield from relaying(debian)


def relaying(behind: str) -> Iterator[Any]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Relay) as served:
        server: Any = served
        server.behind, server.asked, server.stop, server.more = behind, [], lambda *_: "", []
        server.held, server.go_on = threading.Event(), threading.Event()
        server.sent = 0
        server.name = f"127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.go_on.set()
        server.shutdown()


def other(places: Places, name: str) -> Places:
    made = Places(places.data.parent / name)
    initialise.make_keys(made)
    shutil.copy(places.policy, made.policy)
    return made


def seal(places: Places, version: str) -> str:
    root = places.data.parent / "root"
    root.mkdir(exist_ok=True)
    (root / "app").write_bytes(BLOB)
    (root / "version").write_text(version)
    spec = places.data.parent / "stele.yaml"
    spec.write_text('{"stele": 0, "name": "app", "command": ["/app"]}')
    return str(sealing.seal(places, root, spec, options=sealing.Options(), say=quiet, record=quiet)["release"])


def push(places: Places, target: str) -> dict[str, Any]:
    record = sealing.event_recorder(places, quiet)
    return pushing.push(places, "app", target, plain_http=False, delta=False, say=quiet, record=record)


def pull(places: Places, source: str) -> dict[str, Any]:
    return pulling.pull(places, source, plain_http=False, whole=False, say=quiet, record=quiet)


def test_a_pull_that_was_killed_goes_on_where_it_stopped(places, relay, tmp_path):
    digest = seal(places, "1")
    push(places, f"{relay.behind}/killed/pull:v1")
    to = other(places, "two")
    relay.stop = lambda method, path, number: "hold" if method == "GET" and "/blobs/" in path and _is_layer(places, path) else ""
    argv = [sys.executable, "-m", "stele", "--data", str(to.data), "pull", f"{relay.name}/killed/pull:v1"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as pulling:
        assert relay.held.wait(250)
        [partial] = _grown(to, 500_000)
        pulling.send_signal(signal.SIGKILL)
    relay.go_on.set()
    relay.stop = lambda *_: ""
    kept = partial.stat().st_size
    got = pull(to, f"{relay.name}/killed/pull:v1")
    assert (got["release"], got["way"]) == (digest, "strata")
    assert got["received"] < len(BLOB) - kept + 200_000
    assert not list((to.store / "partial").iterdir())
    assert opening.open_store(to).verify(opening.open_store(to).release(digest))["bytes"]


def _is_layer(places: Places, path: str) -> bool:
    return any(stratum.layer.digest in path and stratum.layer.size > 500_000 for stratum in opening.open_store(places).find("app").strata)


def _seal_argv(to: Places, source: str) -> list[str]:
    spec = str(to.data.parent / "stele.yaml")
    return [sys.executable, "-m", "stele", "--data", str(to.data), "--json", "seal", source, "-f", spec]


def test_a_seal_from_a_registry_that_was_killed_goes_on_where_it_stopped(places, relay, tmp_path):
    seal(places, "1")
    push(places, f"{relay.behind}/killed/seal:v1")
    to = other(places, "two")
    relay.stop = lambda method, path, number: "hold" if method == "GET" and "/blobs/" in path and _is_layer(places, path) else ""
    with subprocess.Popen(_seal_argv(to, f"{relay.name}/killed/seal:v1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sealing_:
        assert relay.held.wait(250)
        [partial] = _grown(to, 500_000)
        sealing_.send_signal(signal.SIGKILL)
    relay.go_on.set()
    kept = partial.stat().st_size
    relay.stop, relay.asked[:], relay.sent = (lambda *_: ""), [], 0
    done = subprocess.run(_seal_argv(to, f"{relay.name}/killed/seal:v1"), capture_output=True, check=True)
    assert relay.sent < len(BLOB) - kept + 200_000
    assert not list((to.store / "partial").iterdir())  # what was fetched is no part of the store
    fresh = other(places, "three")
    whole = subprocess.run(_seal_argv(fresh, f"{relay.name}/killed/seal:v1"), capture_output=True, check=True)
    assert json.loads(done.stdout)["tree"] == json.loads(whole.stdout)["tree"]
    assert not [item for item in storecheck.check(opening.open_store(to), {}, quiet).findings if item.kind in {"unnamed", "stray"}]


@pytest.mark.parametrize("how", ["gone", "altered"])
def test_a_seal_goes_on_with_layers_that_came_whole_and_believes_none(places, relay, how):
    """What died after its layers came fetches none again; what lies there with other bytes is fetched whole."""
    seal(places, "1")
    push(places, f"{relay.behind}/whole/{how}:v1")
    layers = {stratum.layer.digest for stratum in opening.open_store(places).find("app").strata}
    to = other(places, "two")
    (to.store / "partial").mkdir(parents=True)
    for digest in layers:
        data = opening.open_store(places).blob(digest, 1 << 30)
        (to.store / "partial" / digest[7:]).write_bytes(data if how == "gone" else bytes(len(data)))
    done = subprocess.run(_seal_argv(to, f"{relay.name}/whole/{how}:v1"), capture_output=True, check=True)
    assert json.loads(done.stdout)["release"]
    asked = {digest for digest in layers for method, path in relay.asked if method == "GET" and digest in path}
    assert asked == (set() if how == "gone" else layers)
    assert not list((to.store / "partial").iterdir())


def test_a_seal_whose_registry_goes_away_keeps_what_came(places, relay, monkeypatch):
    monkeypatch.setattr("stele.host.http_registry.Connections.pause", quiet)
    seal(places, "1")
    push(places, f"{relay.behind}/away/seal:v1")
    to = other(places, "two")
    relay.stop = lambda method, path, number: "break" if method == "GET" and "/blobs/" in path and _is_layer(places, path) else ""
    source = references.parse(f"{relay.name}/away/seal:v1")
    spec = places.data.parent / "stele.yaml"
    with pytest.raises(SteleError) as raised:
        sealing.seal(to, source, spec, options=sealing.Options(), say=quiet, record=quiet)
    assert raised.value.retryable
    kept = {path.name for path in (to.store / "partial").iterdir()}
    assert kept & {stratum.layer.digest[7:] for stratum in opening.open_store(places).find("app").strata}
    relay.stop = lambda *_: ""
    assert sealing.seal(to, source, spec, options=sealing.Options(), say=quiet, record=quiet)["release"]
    assert not list((to.store / "partial").iterdir())


def _grown(to: Places, size: int) -> list[Path]:
    """The blobs that came in part, once there is that much of one."""
    while True:
        found = [path for path in (to.store / "partial").glob("*") if path.stat().st_size >= size]
        if found:
            return found


@pytest.mark.parametrize("how", ["altered", "longer", "held"])
def test_what_is_there_in_part_is_not_believed(places, debian, how):
    digest = seal(places, "1")
    push(places, f"{debian}/part/{how}:v1")
    to = other(places, "two")
    layer = max((stratum.layer for stratum in opening.open_store(places).find(digest).strata), key=lambda layer: layer.size)
    store = opening.open_store(to)
    with store.partial(layer.digest) as draft:
        os.write(draft.fd, b"x" * (layer.size + 5 if how == "longer" else 1000))
        if how == "held":  # somebody else is at it: an ordinary draft then
            assert pull(to, f"{debian}/part/{how}:v1")["release"] == digest
        else:
            os.rename(store.root / "partial" / layer.digest[7:], store.root / "partial" / "moved")
    if how != "held":
        (store.root / "partial" / layer.digest[7:]).write_bytes(b"x" * (layer.size + 5 if how == "longer" else 1000))
        (store.root / "partial" / "moved").unlink(missing_ok=True)
        assert pull(to, f"{debian}/part/{how}:v1")["release"] == digest
    assert store.verify(store.release(digest))["bytes"]


UPLOAD = """
import sys
from pathlib import Path
from stele.host import registry_transfer
from stele.host.http_registry import Connections
from stele.host.registry import Repository
from stele.model import reference
registry_transfer.CHUNK = registry_transfer.SMALL = int(sys.argv[4])
repository = Repository(Connections(sys.argv[1].partition("/")[0]), reference.parse(sys.argv[1]))
with open(sys.argv[3], "rb") as file:
    size = file.seek(0, 2)
    registry_transfer.upload(repository, sys.argv[2], size, file, sessions=Path(sys.argv[5]))
"""


def in_small_parts(monkeypatch: pytest.MonkeyPatch, largest: int = PART) -> None:
    monkeypatch.setattr(registry_transfer, "SMALL", PART)
    monkeypatch.setattr(registry_transfer, "CHUNK", largest)


def test_a_push_that_was_killed_goes_on_where_it_stopped(relay, tmp_path, monkeypatch):
    (tmp_path / "blob").write_bytes(BLOB)
    relay.stop = lambda method, _path, number: "hold" if (method, number) == ("PATCH", 7) else ""
    target = f"{relay.name}/killed/push"
    argv = [sys.executable, "-c", UPLOAD, target, sha256(BLOB), tmp_path / "blob", str(PART), tmp_path / "sessions"]
    with subprocess.Popen([str(part) for part in argv], stderr=subprocess.DEVNULL) as pushing:
        assert relay.held.wait(250)
        pushing.send_signal(signal.SIGKILL)
    relay.go_on.set()
    relay.stop = lambda *_: ""
    relay.asked.clear()
    in_small_parts(monkeypatch)
    with Repository(Connections(relay.name), references.parse(target)) as repository, (tmp_path / "blob").open("rb") as file:
        assert registry_transfer.upload(repository, sha256(BLOB), len(BLOB), file, sessions=tmp_path / "sessions")
        assert repository.connections.sent == len(BLOB) - 6 * PART
        assert repository.has_blob(sha256(BLOB))
    assert "POST" not in {method for method, _ in relay.asked}
    assert not list((tmp_path / "sessions").iterdir())


@pytest.mark.parametrize("way", ["break", "busy"])
def test_an_upload_whose_connection_breaks_asks_how_much_is_there(relay, tmp_path, monkeypatch, way):
    in_small_parts(monkeypatch)
    monkeypatch.setattr("stele.host.http_registry.Connections.pause", quiet)  # the pauses between tries, not the tries
    (tmp_path / "blob").write_bytes(BLOB)
    relay.stop = lambda method, _path, number: way if method == "PATCH" and number in {3, 6, 7} else ""
    target = f"{relay.name}/broken/{way}"
    with Repository(Connections(relay.name), references.parse(target)) as repository, (tmp_path / "blob").open("rb") as file:
        registry_transfer.upload(repository, sha256(BLOB), len(BLOB), file)
        assert repository.connections.sent <= len(BLOB) + 3 * PART
        assert repository.has_blob(sha256(BLOB))


@pytest.mark.parametrize("which", ["crane", "referring", "debian"])
def test_a_blob_in_parts_to_any_registry(request, tmp_path, monkeypatch, which):
    """Those that say no to parts, or do not know how much they have, get it in one piece, or again."""
    registry = request.getfixturevalue(which)
    in_small_parts(monkeypatch)
    monkeypatch.setattr("stele.host.http_registry.Connections.pause", quiet)
    (tmp_path / "blob").write_bytes(BLOB)
    for served in relaying(registry):
        served.stop = lambda method, _path, number: "break" if (method, number) == ("PATCH", 4) else ""
        with Repository(Connections(served.name), references.parse(f"{served.name}/parts/app")) as repository:
            with (tmp_path / "blob").open("rb") as file:
                registry_transfer.upload(repository, sha256(BLOB), len(BLOB), file)
            assert repository.has_blob(sha256(BLOB))


def it_arrives(relay, name, tmp_path):
    (tmp_path / "blob").write_bytes(BLOB)
    target = f"{relay.name}/{name}/app"
    with Repository(Connections(relay.name), references.parse(target)) as repository, (tmp_path / "blob").open("rb") as file:
        registry_transfer.upload(repository, sha256(BLOB), len(BLOB), file)
        assert repository.has_blob(sha256(BLOB))


def test_a_registry_that_takes_no_parts_gets_it_whole(relay, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    monkeypatch.setattr(_Relay, "do_PATCH", _refuse)
    it_arrives(relay, "whole", tmp_path)


def test_a_registry_that_says_it_took_nothing_gets_it_whole(relay, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    monkeypatch.setattr("stele.host.http_registry.Connections.pause", quiet)
    monkeypatch.setattr(_Relay, "do_PATCH", _nothing)
    it_arrives(relay, "nothing", tmp_path)


def _nothing(self: _Relay) -> None:
    self.rfile.read(int(self.headers.get("Content-Length", "0")))
    self.send_response(202)
    for name, value in (("Location", self.path), ("Range", "0-0"), ("Content-Length", "0")):
        self.send_header(name, value)
    self.end_headers()


@pytest.mark.parametrize("forgets", [False, True])
def test_a_registry_that_takes_one_part_and_no_more_gets_it_whole(relay, tmp_path, monkeypatch, forgets):
    in_small_parts(monkeypatch)
    monkeypatch.setattr("stele.host.http_registry.Connections.pause", quiet)
    (tmp_path / "blob").write_bytes(BLOB)
    parts = []

    def once(self: _Relay) -> None:
        start = self.headers["Content-Range"].partition("-")[0]
        parts.append(start)
        _Relay.relay(self) if start == "0" else _refuse(self, 416)

    monkeypatch.setattr(_Relay, "do_PATCH", once)
    if forgets:  # it does not know how much it has, either
        monkeypatch.setattr(_Relay, "do_GET", lambda self: _Relay.relay(self) if "uploads" not in self.path else _refuse(self, 404))
    target = f"{relay.name}/one/part{forgets:d}"
    with Repository(Connections(relay.name), references.parse(target)) as repository, (tmp_path / "blob").open("rb") as file:
        registry_transfer.upload(repository, sha256(BLOB), len(BLOB), file)
        assert repository.has_blob(sha256(BLOB))
    assert len(parts) <= 4


@pytest.mark.parametrize(("seconds", "least", "parts"), [(1e12, 0, 4), (0.0, 0, 11), (0.0, 4 * PART, 3)])
def test_parts_grow_where_they_go_quickly_and_are_as_large_as_the_registry_wants(relay, tmp_path, monkeypatch, seconds, least, parts):
    in_small_parts(monkeypatch, 4 * PART)
    monkeypatch.setattr(registry_transfer, "SECONDS", seconds)
    (tmp_path / "blob").write_bytes(BLOB)
    relay.more = [("OCI-Chunk-Min-Length", str(least))] if least else []
    target = f"{relay.name}/parts/grow{parts}"
    with Repository(Connections(relay.name), references.parse(target)) as repository, (tmp_path / "blob").open("rb") as file:
        registry_transfer.upload(repository, sha256(BLOB), len(BLOB), file)
        assert repository.connections.sent == len(BLOB)
        assert repository.has_blob(sha256(BLOB))
    assert sum(method == "PATCH" for method, _ in relay.asked) == parts


def test_a_small_blob_goes_in_one_piece(relay, tmp_path):
    (tmp_path / "blob").write_bytes(BLOB)
    with Repository(Connections(relay.name), references.parse(f"{relay.name}/small/app")) as repository:
        with (tmp_path / "blob").open("rb") as file:
            registry_transfer.upload(repository, sha256(BLOB), len(BLOB), file)
    assert [method for method, _ in relay.asked if method in {"PATCH", "PUT"}] == ["PUT"]


def _refuse(self: _Relay, status: int = 405) -> None:
    self.rfile.read(int(self.headers.get("Content-Length", "0")))
    self.send_response(status)
    self.send_header("Content-Length", "0")
    self.end_headers()


def test_a_push_to_another_repository_takes_blobs_from_the_first(places, relay):
    seal(places, "1")
    first = push(places, f"{relay.name}/team/first:v1")
    assert first["sent"] > len(BLOB)
    second = push(places, f"{relay.name}/team/second:v1")
    assert second["sent"] < 50_000
    assert any("mount=" in path for _, path in relay.asked)
    to = other(places, "two")
    assert pull(to, f"{relay.name}/team/second:v1")["way"] == "strata"


def test_a_pull_of_what_is_here_costs_one_request(places, relay):
    one = seal(places, "1")
    push(places, f"{relay.name}/here/app:v1")
    two = seal(places, "2")
    push(places, f"{relay.name}/here/app:v2")
    to = other(places, "two")
    pull(to, f"{relay.name}/here/app:v1")
    pull(to, f"{relay.name}/here/app:v2")
    relay.asked.clear()
    again = pull(to, f"{relay.name}/here/app:v1")
    assert (again["release"], again["way"]) == (one, "nothing")
    assert [(method, path.rpartition("/")[2]) for method, path in relay.asked] == [("HEAD", "v1")]
    assert opening.open_store(to).find("app").digest == one  # what was pulled last is the newest
    pull(to, f"{relay.name}/here/app:v2")
    assert opening.open_store(to).find("app").digest == two


def test_a_registry_that_stays_away_ends_with_4(places, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        name = f"127.0.0.1:{closed.getsockname()[1]}"
    script = "import stele.host.http_registry as h; h.Connections.pause = lambda *_: None\nfrom stele.cli.app import run; import sys\n"
    argv = [sys.executable, "-c", script + "sys.exit(run(sys.argv[1:]))", "--data", str(places.data), "pull", f"{name}/app:v1"]
    ran = subprocess.run(argv, capture_output=True, check=False, text=True)
    assert (ran.returncode, "registry.unreachable" in ran.stderr) == (4, True)
