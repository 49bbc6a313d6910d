"""rtnetlink, as much as an instance's network needs: veth pairs, addresses, routes, links up (rtnetlink(7)).

Each function works in the network namespace of the calling thread. Errors are OSError with the kernel's errno.
"""

from __future__ import annotations

import os
import socket
import struct

_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_REQUEST, _ACK, _EXCL, _CREATE = 1, 4, 0x200, 0x400
_ERROR = 2
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_OIF, _RTA_GATEWAY = 4, 5
_UP = 1


def _attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


def _request(kind: int, flags: int, body: bytes) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as channel:
        channel.bind((0, 0))
        channel.send(struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST | _ACK, 1, 0) + body)
        answer = channel.recv(65536)
    answered = struct.unpack_from("=H", answer, 4)[0]
    number = -struct.unpack_from("=i", answer, 16)[0] if answered == _ERROR else 0
    if number:
        raise OSError(number, os.strerror(number))


def add_veth(name: str, peer: str, peer_netns: int) -> None:
    """Create a veth pair; its other end is made inside the network namespace behind the descriptor `peer_netns`."""
    inside = _link() + _attribute(_IFLA_IFNAME, peer.encode() + b"\0") + _attribute(_IFLA_NET_NS_FD, struct.pack("=I", peer_netns))
    info = _attribute(_INFO_KIND, b"veth") + _attribute(_INFO_DATA, _attribute(_VETH_PEER, inside))
    body = _link() + _attribute(_IFLA_IFNAME, name.encode() + b"\0") + _attribute(_IFLA_LINKINFO, info)
    _request(_NEWLINK, _CREATE | _EXCL, body)


def remove_link(name: str) -> bool:
    """Remove a link; False if there is none of that name."""
    try:
        _request(_DELLINK, 0, _link(socket.if_nametoindex(name)))
    except OSError:
        if name in {link for _, link in socket.if_nameindex()}:
            raise
        return False
    return True


def set_up(name: str) -> None:
    """Bring a link up."""
    _request(_NEWLINK, 0, _link(socket.if_nametoindex(name), _UP, _UP))


def add_address(name: str, address: str, prefix: int) -> None:
    """Give a link an IPv4 address."""
    raw = socket.inet_aton(address)
    body = struct.pack("=BBBBi", socket.AF_INET, prefix, 0, 0, socket.if_nametoindex(name))
    _request(_NEWADDR, _CREATE | _EXCL, body + _attribute(_IFA_LOCAL, raw) + _attribute(_IFA_ADDRESS, raw))


def add_default_route(name: str, gateway: str) -> None:
    """Route everything through `gateway` on link `name`."""
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 4, 0, 1, 0)  # main table, static, universe, unicast
    body += _attribute(_RTA_GATEWAY, socket.inet_aton(gateway))
    body += _attribute(_RTA_OIF, struct.pack("=i", socket.if_nametoindex(name)))
    _request(_NEWROUTE, _CREATE | _EXCL, body)
