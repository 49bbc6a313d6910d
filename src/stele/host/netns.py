"""Network namespaces: made by a thread of ours, kept by a bind mount as `ip netns` does, so that `ip netns` shows them."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from stele.host import mounts, netlink, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path("/run/netns")
_MS_BIND = 4096
INSIDE = "eth0"


def in_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread of its own that ends with it: what it does to its namespaces touches nobody else."""
    failed: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=body, name="stele-netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def make(name: str, *, veth: str, address: str, gateway: str) -> None:
    """Make the namespace /run/netns/`name` with a veth pair to this one: `address`/30 inside, `gateway`/30 outside.

    Inside: loopback up, default route, and every port may be bound without privilege (there are no capabilities).
    Outside: `veth` may carry connections from 127.0.0.1 (route_localnet). Nothing is undone on failure: `remove` is.
    """
    FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    path = FOLDER / name
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    outside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def inside() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        syscalls.mount("/proc/thread-self/ns/net", str(path), "", _MS_BIND, "")
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0", encoding="ascii")
        with contextlib.suppress(OSError):  # no IPv6 in this kernel
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1", encoding="ascii")
        netlink.set_up("lo")
        netlink.add_veth(INSIDE, veth, outside)
        netlink.add_address(INSIDE, address, 30)
        netlink.set_up(INSIDE)

    try:
        in_thread(inside)
    finally:
        os.close(outside)
    _outside(veth, gateway, name)
    _default_route(path, gateway)


def _outside(veth: str, gateway: str, name: str) -> None:
    with contextlib.suppress(OSError):  # only so that `ip link` says whose it is
        Path(f"/sys/class/net/{veth}/ifalias").write_text(name, encoding="ascii")
    with contextlib.suppress(OSError):
        # no link-local address, no router solicitations: the link is IPv4 only
        Path(f"/proc/sys/net/ipv6/conf/{veth}/disable_ipv6").write_text("1", encoding="ascii")
    Path(f"/proc/sys/net/ipv4/conf/{veth}/route_localnet").write_text("1", encoding="ascii")
    netlink.add_address(veth, gateway, 30)
    netlink.set_up(veth)


def _default_route(path: Path, gateway: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def inside() -> None:
        syscalls.setns(fd, syscalls.CLONE_NEWNET)
        netlink.add_default_route(INSIDE, gateway)

    try:
        in_thread(inside)
    finally:
        os.close(fd)


def remove(name: str, veth: str) -> None:
    """Remove the namespace and its veth pair; what is not there is fine."""
    netlink.remove_link(veth)
    path = FOLDER / name
    if path.exists():
        while mounts.unmount(path, lazy=True):
            pass
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def existing(prefix: str) -> list[str]:
    """Names of the namespaces that begin with `prefix`."""
    return sorted(entry.name for entry in FOLDER.iterdir() if entry.name.startswith(prefix)) if FOLDER.is_dir() else []
