"""The demo of `make run`, and the control without which its attacks would prove nothing."""

import socket
import time
from pathlib import Path

import pytest
from examples.demo import attacks, load, ordinary
from examples.shop import build

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def layout() -> Path:
    return build.build()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def await_health(port: int) -> None:
    limit = time.monotonic() + 30
    while load.ask(port, "/health")[0] != "ok":
        assert time.monotonic() < limit, "the shop did not come up"
        time.sleep(0.02)


@pytest.mark.parametrize("privileged", [False, True], ids=["ordinary", "privileged"])
def test_every_attack_succeeds_in_an_ordinary_container(layout: Path, *, privileged: bool) -> None:
    port = free_port()
    with ordinary.container(layout, port, privileged=privileged) as root:
        await_health(port)
        for attack in attacks.catalogue():
            if attack.privileged == privileged:
                _, body = load.ask(port, attacks.target(attack.line), timeout=20)
                assert attack.prize.encode() in body, attack.key
        if not privileged:
            assert "0wned" in (root / "srv/shop/site/index.html").read_text()
            assert "server_tokens on" in (root / "etc/nginx/nginx.conf").read_text()


def test_shop_answers_its_page_and_its_lookup(layout: Path) -> None:
    port = free_port()
    with ordinary.container(layout, port, version="v2"):
        await_health(port)
        outcome, page = load.ask(port)
        assert (outcome, b"shop version 2" in page) == ("ok", True)
        assert load.ask(port, "/cgi-bin/lookup?name=SLATE") == ("ok", b"slate board     18.00\n")
