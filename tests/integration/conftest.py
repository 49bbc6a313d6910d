"""What tests share: registries (Debian's, crane's command, and crane's package with the referrers API) and a hostile middle, and cosign."""

from __future__ import annotations

import http.server
import re
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stele.flow import initialise
from stele.flow.places import Places
from stele.host import immutable
from tests import judges
from tests.between import Between


@pytest.fixture(scope="session")
def cosign_program() -> Path:
    return judges.go_judge("github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3")


@pytest.fixture(scope="module")
def crane() -> Iterator[str]:
    program = judges.go_judge("github.com/google/go-containerregistry/cmd/crane@v0.20.6")
    yield from serving(program, "registry", "serve", "--address", "127.0.0.1:0")


@pytest.fixture(scope="module")
def referring() -> Iterator[str]:
    yield from serving(judges.go_main(Path(__file__).parent / "judges" / "referrers-registry"))


def serving(*argv: object) -> Iterator[str]:
    with subprocess.Popen([str(part) for part in argv], stderr=subprocess.PIPE, text=True) as served:
        assert served.stderr is not None
        port = next(found[1] for line in served.stderr if (found := re.search(r"serving on port (\d+)", line)))
        threading.Thread(target=served.stderr.read, daemon=True).start()
        yield f"127.0.0.1:{port}"
        served.terminate()


@pytest.fixture(scope="module")
def debian(tmp_path_factory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("registry")
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as served:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            except OSError:
                assert served.poll() is None
        yield f"127.0.0.1:{port}"
        served.terminate()


@pytest.fixture(params=["crane", "debian", "referring"])
def registry(request) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def places(tmp_path) -> Iterator[Places]:
    made = Places(tmp_path / "one")
    initialise.make_keys(made)
    yield made
    for path in tmp_path.glob("*/store/erofs/*"):
        immutable.make_mutable(path)


@pytest.fixture
def between(registry) -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Between) as server:
        server.behind, server.trick, server.cuts = registry, "", 0  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
