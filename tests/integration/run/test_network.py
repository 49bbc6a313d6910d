"""Publishing, flipping, cutting off, and who may talk to whom."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from stele.host import landscape, netns, nft, syscalls
from stele.model.spec import Port
from stele.run.network import Network, established
from stele.trust.errors import SteleError
from tests.integration.run.conftest import get

pytestmark = pytest.mark.root
in_guest = pytest.mark.guest  # what differs between kernels; the rest is seen on the host alone
PORT = 18_431
PORTS = (Port(container=80, host=PORT),)


@pytest.fixture
def neighbour(bench):
    """Run something in another network namespace of this host, as another machine on a link of its own would."""
    name, veth = f"stele-{bench.run_dir.name}-neighbour", "st16000h"
    netns.make(name, veth=veth, address="10.254.254.2", gateway="10.254.254.1")

    def there(work):
        out = []
        fd = os.open(netns.FOLDER / name, os.O_RDONLY)

        def inside():
            syscalls.setns(fd, syscalls.CLONE_NEWNET)
            out.append(work("10.254.254.1"))

        netns.in_thread(inside)
        os.close(fd)
        return out[0]

    yield there
    netns.remove(name, veth)


@in_guest
def test_published_port_answers_locally_and_from_elsewhere(bench, neighbour) -> None:
    instance = bench.serve()
    bench.network.publish("tiny", PORTS, instance)
    assert get("127.0.0.1", PORT) == "one"
    assert get("127.1.2.3", PORT) == "one"
    assert get(instance.gateway, PORT) == "one"  # an address of the host's own
    assert neighbour(lambda gateway: get(gateway, PORT)) == "one"


def test_nothing_but_the_published_port_is_reached_from_elsewhere(bench, neighbour) -> None:
    instance = bench.serve()
    bench.network.publish("tiny", PORTS, instance)

    def direct(_gateway):
        try:
            return get(instance.address, 80, timeout=2.0)
        except OSError:
            return None

    assert neighbour(direct) is None


@in_guest
def test_port_without_an_instance_refuses_at_once_and_stays_reserved(bench, neighbour) -> None:
    instance = bench.serve()
    bench.network.publish("tiny", PORTS, instance)
    bench.network.cut("tiny", instance)
    assert get("127.0.0.1", PORT) is None
    assert neighbour(lambda gateway: get(gateway, PORT)) is None
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError):
            other.bind(("127.0.0.1", PORT))


def test_unpublished_port_is_free_again(bench) -> None:
    instance = bench.serve()
    bench.network.publish("tiny", PORTS, instance)
    bench.network.unpublish("tiny")
    assert get("127.0.0.1", PORT) is None
    landscape.reserve(PORT).close()


@in_guest
def test_flip_under_load_loses_no_request(bench) -> None:
    first, second = bench.serve(page="one"), bench.serve(page="two")
    bench.network.publish("tiny", PORTS, first)
    answers: list[str | None] = []
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            answers.append(get("127.0.0.1", PORT))

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    for number in range(40):
        had = len(answers)
        bench.network.publish("tiny", PORTS, second if number % 2 == 0 else first)
        bench.await_true(lambda had=had: len(answers) > had + 4)
    done.set()
    for client in clients:
        client.join()
    assert set(answers) == {"one", "two"}


@in_guest
def test_cut_counts_what_was_in_flight_and_nothing_passes_any_more(bench) -> None:
    instance = bench.serve()
    bench.network.publish("tiny", PORTS, instance)
    with socket.create_connection(("127.0.0.1", PORT), 20) as connection:
        tables = [Path(f"/proc/{instance.pid}/net/{name}") for name in ("tcp", "tcp6")]
        bench.await_true(lambda: sum(established(table.read_text()) for table in tables if table.exists()) == 1)
        assert bench.network.cut("tiny", instance) == 1
        connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    with pytest.raises(TimeoutError):
        socket.create_connection((instance.address, 80), 0.5)
    assert bench.network.cut("tiny", instance) >= 0


def test_after_a_cut_a_clean_instance_takes_the_port(bench) -> None:
    offender, clean = bench.serve(page="one"), bench.serve(page="two")
    bench.network.publish("tiny", PORTS, offender)
    bench.runtime.freeze(offender)
    bench.network.cut("tiny", offender)
    assert get("127.0.0.1", PORT) is None
    bench.network.publish("tiny", PORTS, clean)
    assert get("127.0.0.1", PORT) == "two"
    bench.runtime.freezer(offender).thaw()


REACH = "wget -q -O - http://{gateway}:{port}/ && echo reached || echo refused"


@in_guest
@pytest.mark.parametrize(("egress", "expected"), [("none", "refused"), ("any", "reached")])
def test_egress(bench, neighbour, egress, expected) -> None:
    """From an instance to a server on another network."""
    target, port = "10.254.254.2", 8099
    server = neighbour(lambda _: socket.create_server((target, port)))
    stop = threading.Event()

    def answer() -> None:
        server.settimeout(0.1)
        while not stop.is_set():
            try:
                connection, peer = server.accept()
            except TimeoutError:
                continue
            connection.settimeout(20)
            connection.recv(65536)  # unread data would turn the close into a reset
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + peer[0].encode() + b"\n")
            connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    _, lines = bench.script(REACH.format(gateway=target, port=port), network={"egress": egress})
    stop.set()
    thread.join()
    server.close()
    assert lines[-1] == expected
    if egress == "any":
        assert lines[0] == "10.254.254.1"  # masqueraded: its own address is known to nobody


def test_without_egress_even_the_host_is_out_of_reach(bench) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        probe = bench.create(command=["/bin/sh", "-c", "exit 0"])
        gateway = probe.gateway
        bench.runtime.remove(probe)  # the next instance takes the same slot
        _, lines = bench.script(REACH.format(gateway=gateway, port=port))
    assert lines[-1] == "refused"


@in_guest
def test_an_instance_can_call_its_own_published_port(bench) -> None:
    instance = bench.create(
        command=["/bin/sh", "-c", f"httpd -p 80 -h /www; until wget -q -O - http://10.254.254.1:{PORT}/; do sleep 0.1; done; sleep 1000"],
        network={"egress": "any"},
    )
    name, veth = f"stele-{bench.run_dir.name}-neighbour", "st16000h"
    netns.make(name, veth=veth, address="10.254.254.2", gateway="10.254.254.1")
    bench.runtime.start(instance)
    bench.network.publish("tiny", PORTS, instance)
    bench.await_true(lambda: "one" in bench.output(instance))
    netns.remove(name, veth)


def test_busy_port_is_named_with_its_owner_and_nothing_changes(bench) -> None:
    instance = bench.serve()
    with socket.create_server(("0.0.0.0", PORT)), pytest.raises(SteleError) as caught:
        bench.network.publish("tiny", (Port(container=81, host=PORT + 1), *PORTS), instance)
    assert caught.value.code == "run.port-busy"
    assert f"(pid {os.getpid()})" in caught.value.reason
    landscape.reserve(PORT + 1).close()


def test_two_workloads_cannot_publish_one_port(bench) -> None:
    instance = bench.serve()
    bench.network.publish("tiny", PORTS, instance)
    with pytest.raises(SteleError) as caught:
        bench.network.publish("other", PORTS, instance)
    assert caught.value.code == "run.port-busy"
    assert "tiny" in caught.value.reason


def test_a_successor_finds_what_is_published_and_goes_on(bench) -> None:
    instance, other = bench.serve(page="one"), bench.serve(page="two")
    bench.network.publish("tiny", PORTS, instance)
    for port in list(bench.network._held):
        bench.network._held.pop(port).close()  # as after a kill: the kernel keeps the rules, not the reservation
    successor = Network(bench.run_dir)
    assert get("127.0.0.1", PORT) == "one"
    successor.publish("tiny", PORTS, other)
    assert get("127.0.0.1", PORT) == "two"
    successor.remove()


def test_a_firewall_that_drops_forwarded_packets_is_found() -> None:
    found = []

    def inside() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        assert landscape.forward_obstacles() == []
        nft.run("table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; }\n}\n")
        found.extend(landscape.forward_obstacles())

    netns.in_thread(inside)
    assert found == ["ip filter FORWARD"]
