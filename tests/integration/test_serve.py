"""The published ledger over HTTP: by `stele serve`, and by nginx as the guide configures it; read by torchwood's client."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from stele.ledger import source as sources
from stele.ledger.published import Published
from stele.trust import note
from tests import judges
from tests.ledgers import SIGNER, event, opened

ROOT = Path(__file__).parents[2]
STELE = str(Path(sys.executable).with_name("stele"))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "ledger"
    with opened(folder) as made:
        made.append([event(number) for number in range(600)])
        made.publish()
    (folder / ".state" / "openings").write_text("private")
    return folder


@contextlib.contextmanager
def stele_serve(folder, *options):
    argv = [STELE, "serve", "--ledger", str(folder), "--listen", "127.0.0.1:0", *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            assert process.wait(20) in {0, -15}


@contextlib.contextmanager
def nginx(folder, work):
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    block = re.search(r"```nginx\n(.*?)```", (ROOT / "docs/guide/publishing.md").read_text(), re.DOTALL)[1]
    block = block.replace("127.0.0.1:8080", f"unix:{work}/sock").replace("/var/lib/stele/ledger", str(folder))
    temp = "".join(f"{kind}_temp_path {work}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (work / "nginx.conf").write_text(
        f"daemon off; pid {work}/pid; error_log stderr; worker_processes 1;\n{'user root;' if Path(work).owner() == 'root' else ''}\n"
        f"events {{}}\nhttp {{ access_log off; {temp} {block} }}\n"
    )
    with subprocess.Popen([program, "-p", str(work), "-c", str(work / "nginx.conf")], stderr=subprocess.DEVNULL) as process:
        try:
            with forwarded(work / "sock", process) as port:
                yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def forwarded(path, process):
    """A TCP port that leads to a Unix socket: nginx takes no free port by itself."""
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def pump(a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                while True:
                    try:
                        far.connect(str(path))
                        break
                    except OSError:
                        assert process.poll() is None, "nginx ended"
                        threading.Event().wait(0.02)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture(params=["stele serve", "nginx"])
def served(request, ledger, tmp_path):
    with stele_serve(ledger) if request.param == "stele serve" else nginx(ledger, tmp_path) as url:
        yield url


def ask(url, path, method="GET", **headers):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_an_independent_client_reads_every_entry(served, ledger):
    program = judges.go_main(ROOT / "tests/integration/judges/tlog-http")
    done = subprocess.run([program, served, SIGNER.verifier.encode()], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    with sources.source_of(served) as source:
        head = note.open_checkpoint(sources.checkpoint_of(source, served), [SIGNER.verifier])
        found = [raw for _, raw in Published(source, head).entries(0, head.size)]
    assert done.stdout.splitlines() == found
    assert len(found) == head.size == 601
    other = SIGNER.verifier.encode().replace(SIGNER.verifier.key_id.hex(), "00000000")
    assert subprocess.run([program, served, other], capture_output=True, check=False).returncode == 1


def test_what_changes_is_asked_for_again_and_what_does_not_is_kept(served, ledger):
    for path, kind, kept in (
        ("/checkpoint", "text/plain; charset=utf-8", "no-cache"),
        ("/checkpoints/601", "text/plain; charset=utf-8", "no-cache"),
        ("/tile/0/001", "application/octet-stream", "public, max-age=31536000, immutable"),
        ("/tile/entries/002.p/89", "application/octet-stream", "public, max-age=31536000, immutable"),
    ):
        status, headers, body = ask(served, path)
        assert (status, headers["content-type"], headers["cache-control"]) == (200, kind, kept), path
        assert body == (ledger / path[1:]).read_bytes()
        assert int(headers["content-length"]) == len(body)
        assert ask(served, path, If_None_Match=headers["etag"])[0::2] == (304, b"")
        assert ask(served, path, "HEAD")[0::2] == (200, b"")
        status, headers, part = ask(served, path, Range="bytes=10-19")
        assert (status, part, headers["content-range"]) == (206, body[10:20], f"bytes 10-19/{len(body)}")
        assert ask(served, path, Range="bytes=-5")[2] == body[-5:]
        assert ask(served, path, Range=f"bytes={len(body)}-")[0] == 416


NOT_PUBLIC = (
    "/.state/openings", "/.state/wal.0", "/projection.sqlite", "/map/nodes", "/tile/", "/tile/0", "/checkpoints/", "/tile/0/0",
    "/tile/../.state/openings", "/tile/0/../../.state/openings", "/%2e%2e/%2e%2e/etc/passwd", "/tile/%2e%2e/.state/openings",
    "//.state/openings", "/tile/0/000.p/0", "/tile/0/000/../../.state/openings", "/tile/0/000%00", "/tile/0/x000/001", "/" + "a" * 4000,
)  # fmt: skip


def test_nothing_else_is_handed_out(served):
    for path in NOT_PUBLIC:
        status, _, body = ask(served, path)
        assert status in {400, 404}, path
        assert b"private" not in body, path


def test_other_methods_and_symlinks_are_refused(ledger, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ledger, copy)
    (tmp_path / "secret").write_text("private")
    (copy / "tile/0/000").unlink()
    (copy / "tile/0/000").symlink_to(tmp_path / "secret")
    (copy / "checkpoints/1").symlink_to(tmp_path)
    with stele_serve(copy) as url, contextlib.ExitStack() as stack:
        for other in (url, stack.enter_context(nginx(copy, tmp_path))):
            assert ask(other, "/tile/0/000")[0] in {403, 404}
            assert ask(other, "/checkpoints/1")[0] in {403, 404}
        assert ask(url, "/checkpoint", "POST")[0] == 405
        assert ask(url, "/checkpoint", "DELETE")[0] == 405


def test_a_partial_tile_that_was_pruned_is_cut_from_a_fuller_one(ledger):
    with stele_serve(ledger) as url:
        whole = ask(url, "/tile/0/002.p/89")[2]
        assert ask(url, "/tile/0/002.p/17")[2] == whole[: 17 * 32]
        assert ask(url, "/tile/0/002.p/90")[0] == 404
        assert ask(url, "/tile/0/001.p/255")[2] == ask(url, "/tile/0/001")[2][: 255 * 32]


def test_with_a_certificate_it_speaks_tls(ledger, tmp_path, monkeypatch):
    pair = tmp_path / "pair.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-keyout", str(pair), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(make, check=True, capture_output=True)
    pair.write_bytes(pair.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    with stele_serve(ledger, "--tls-cert", str(pair)) as url:
        assert url.startswith("https://")
        with sources.source_of(url) as source, pytest.raises(Exception, match="not trusted") as raised:
            sources.checkpoint_of(source, url)
        assert raised.value.code == "http.tls"
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        with sources.source_of(url) as source:
            assert sources.checkpoint_of(source, url) == (ledger / "checkpoint").read_bytes()


def test_no_ledger_no_certificate_and_a_busy_port_are_said(ledger, tmp_path):
    def refused(*options):
        done = subprocess.run([STELE, "serve", "--json", *options], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode
        return done.stdout + done.stderr

    assert "ledger.none" in refused("--ledger", str(tmp_path))
    assert "serve.bad-address" in refused("--ledger", str(ledger), "--listen", "8080")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "serve.address-busy" in refused("--ledger", str(ledger), "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    (tmp_path / "x.pem").write_text("nothing")
    assert "serve.bad-certificate" in refused("--ledger", str(ledger), "--listen", "127.0.0.1:0", "--tls-cert", str(tmp_path / "x.pem"))


BOUNDED = """
import sys
from pathlib import Path
from stele.api import listening, static
static.LIFE_SECONDS, static.CONNECTIONS = 2.0, 3
sock = listening.listen("127.0.0.1:0")
print(sock.getsockname()[1], flush=True)
static.serve(Path(sys.argv[1]), sock)
"""


def test_who_is_slow_is_cut_off_and_too_many_are_told(ledger):
    with subprocess.Popen([sys.executable, "-c", BOUNDED, str(ledger)], stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            with contextlib.ExitStack() as opened_:
                slow = [opened_.enter_context(socket.create_connection(("127.0.0.1", port), 60)) for _ in range(3)]
                for each in slow:
                    each.sendall(b"GET /checkpoint HTTP/1.1\r\nHost: x\r\n")  # and never the end of it
                assert ask(f"http://127.0.0.1:{port}/", "/checkpoint")[0] == 503
                assert all(each.recv(100) == b"" for each in slow)
            assert ask(f"http://127.0.0.1:{port}/", "/checkpoint")[0] == 200
        finally:
            process.terminate()
            process.wait(20)
