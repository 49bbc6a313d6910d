"""What is read from the kernel and from other tools: good text, odd text, any text."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.host import landscape, mounts, slots
from stele.run import network
from stele.trust.errors import SteleError

MOUNTINFO = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
48 22 0:41 / /run/stele/0123abcd/strata/ab ro,nosuid,nodev master:3 shared:4 - erofs /data/a\040b.erofs ro
49 22 0:42 / /run/with\011tab ro - overlay stele-x ro,lowerdir=/a:/b
"""
ROUTES = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
tun0	0000D50A	00000000	0001	0	0	0	0000FFFF	0	0	0
st3h	0CD5E50A	00000000	0001	0	0	0	FCFFFFFF	0	0	0
"""
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0200D50A:0050 0100D50A:A0B2 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 0100007F:1F90 0100007F:A0B2 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
"""


def test_mountinfo_with_escapes_and_optional_fields() -> None:
    root, stratum, overlay = mounts.parse_mountinfo(MOUNTINFO)
    assert (root.target, root.fstype, root.device) == ("/", "ext4", (254, 0))
    assert (stratum.source, stratum.options) == ("/data/a b.erofs", "ro,nosuid,nodev")
    assert overlay.target == "/run/with\ttab"


@given(st.text())
def test_any_text_as_mountinfo_is_survived(text) -> None:
    mounts.parse_mountinfo(text)


def test_routes_without_the_default_one() -> None:
    assert slots.parse_routes(ROUTES) == [
        ("eth0", ipaddress.IPv4Network("192.0.2.0/24")),
        ("tun0", ipaddress.IPv4Network("10.213.0.0/16")),
        ("st3h", ipaddress.IPv4Network("10.229.213.12/30")),
    ]


@given(st.text())
def test_any_text_as_routes_is_survived(text) -> None:
    slots.parse_routes("header\n" + text)


def test_a_subnet_that_a_vpn_holds_is_avoided_and_our_own_links_do_not_count() -> None:
    assert slots.free_subnet(slots.parse_routes(ROUTES)) == "10.229.0.0/16"


def test_no_free_subnet_is_an_error_that_names_them() -> None:
    with pytest.raises(SteleError) as caught:
        slots.free_subnet([("tun0", ipaddress.IPv4Network("0.0.0.0/1")), ("tun1", ipaddress.IPv4Network("128.0.0.0/1"))])
    assert caught.value.code == "run.no-subnet"
    assert "10.213.0.0/16" in caught.value.reason


def test_first_and_last_slot() -> None:
    first, last = slots.slot(0, "10.213.0.0/16"), slots.slot(slots.COUNT - 1, "10.213.0.0/16")
    assert first == (0, 0x70000000, "10.213.0.2", "10.213.0.1", "st0h")
    assert last == (16383, 0xAFFF0000, "10.213.255.254", "10.213.255.253", "st16383h")
    assert len(last.veth) < 16
    assert last.uid_base + 65536 < 2**32


@given(st.integers(0, slots.COUNT - 1), st.integers(0, slots.COUNT - 1))
def test_slots_share_neither_ids_nor_addresses(one, other) -> None:
    a, b = slots.slot(one, "10.229.0.0/16"), slots.slot(other, "10.229.0.0/16")
    assert (one == other) == (a.address == b.address) == (a.veth == b.veth)
    assert one == other or abs(a.uid_base - b.uid_base) >= 65536


def test_listeners_of_a_port() -> None:
    assert landscape.parse_listeners(TCP, 8080) == [4711]
    assert landscape.parse_listeners(TCP, 80) == []


@given(st.text(), st.integers(1, 65535))
def test_any_text_as_a_socket_table_is_survived(text, port) -> None:
    landscape.parse_listeners("header\n" + text, port)
    network.established("header\n" + text)


def test_established_connections_without_those_over_loopback() -> None:
    assert network.established(TCP) == 1


@pytest.mark.parametrize(
    ("chain", "found"),
    [
        ({"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}, ["ip filter FORWARD"]),
        ({"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "accept"}, []),
        ({"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}, []),
        (
            {"family": "inet", "table": "firewalld", "name": "filter_FORWARD", "hook": "forward", "policy": "accept"},
            ["inet firewalld filter_FORWARD"],
        ),
        ({"family": "inet", "table": "stele_0123abcd", "name": "forward", "hook": "forward", "policy": "drop"}, []),
    ],
)
def test_firewalls_that_are_in_the_way(chain, found) -> None:
    assert landscape.dropping_chains({"nftables": [{"metainfo": {}}, {"chain": chain}]}) == found


def test_state_of_a_table() -> None:
    listing = {
        "nftables": [
            {"table": {"name": "x"}},
            {"map": {"name": "ports", "elem": [[8080, {"concat": ["10.213.0.2", 80]}]]}},
            {"set": {"name": "places", "elem": [{"concat": ["st0h", "10.213.0.2"]}]}},
            {"set": {"name": "closed", "elem": ["st0h"]}},
            {"set": {"name": "severed"}},
        ]
    }
    state = network.parse_state(listing)
    assert state.ports == {8080: ("10.213.0.2", 80)}
    assert state.places == {("st0h", "10.213.0.2")}
    assert (state.closed, state.severed) == ({"st0h"}, frozenset())
    assert state.without("st0h", "10.213.0.2") == network.parse_state({})
