"""Slots: host-wide numbers that give every instance its own block of user ids and its own /30 (docs/spec/instance.md)."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator

UID_FLOOR = 0x7000_0000
IDS = 65536
COUNT = 1 << 14  # /30 networks in a /16
SUBNETS = ("10.213.0.0/16", "10.229.0.0/16", "172.29.0.0/16", "100.115.0.0/16")
VETH_PREFIX, VETH_SUFFIX = "st", "h"


class Slot(NamedTuple):
    """One slot. `uid_base`: first of its 65,536 ids. `address`, `gateway`: of its /30. `veth`: the host's end."""

    number: int
    uid_base: int
    address: str
    gateway: str
    veth: str


def slot(number: int, subnet: str) -> Slot:
    """The slot `number` in the /16 `subnet`."""
    base = int(ipaddress.IPv4Network(subnet).network_address) + number * 4
    return Slot(
        number=number,
        uid_base=UID_FLOOR + number * IDS,
        address=str(ipaddress.IPv4Address(base + 2)),
        gateway=str(ipaddress.IPv4Address(base + 1)),
        veth=f"{VETH_PREFIX}{number}{VETH_SUFFIX}",
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a host-wide folder, made if need be."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def parse_routes(text: str) -> list[tuple[str, ipaddress.IPv4Network]]:
    """Interface and destination of each line of /proc/net/route, the default route left out."""
    out = []
    for line in text.splitlines()[1:]:
        parts = line.split("\t")
        if len(parts) < 8:
            continue
        try:
            destination, mask = (int.from_bytes(bytes.fromhex(parts[n].strip()), "little") for n in (1, 7))
            network = ipaddress.IPv4Network((destination, str(ipaddress.IPv4Address(mask))), strict=False)
        except ValueError:
            continue
        if mask:
            out.append((parts[0].strip(), network))
    return out


def is_ours(interface: str) -> bool:
    """Whether a link's name is of the form that instances get."""
    middle = interface[len(VETH_PREFIX) : -len(VETH_SUFFIX)]
    return interface.startswith(VETH_PREFIX) and interface.endswith(VETH_SUFFIX) and middle.isascii() and middle.isdecimal()


def free_subnet(routes: list[tuple[str, ipaddress.IPv4Network]], candidates: tuple[str, ...] = SUBNETS) -> str:
    """The first candidate that overlaps no route of somebody else's.

    Raises:
        SteleError: `run.no-subnet`.
    """
    for candidate in candidates:
        network = ipaddress.IPv4Network(candidate)
        if not any(network.overlaps(other) for interface, other in routes if not is_ours(interface)):
            return candidate
    raise SteleError(
        f"every subnet that instances could use ({', '.join(candidates)}) overlaps a route of this host",
        remedy="remove the route (`ip route`), or free one of these ranges: a VPN or another container engine often holds it",
        code="run.no-subnet",
    )


def subnet(root: Path) -> str:
    """The /16 of this host's instances: chosen at first use, the same until no slot is taken. Call it locked."""
    folder = root / "slots"
    recorded = folder / ".subnet"
    taken = any(entry.name.isdecimal() for entry in folder.iterdir())
    if taken and recorded.exists():
        return recorded.read_text(encoding="ascii")
    chosen = free_subnet(parse_routes(Path("/proc/net/route").read_text(encoding="ascii")))
    recorded.write_text(chosen, encoding="ascii")
    return chosen


def _foreign_ids() -> list[tuple[int, int]]:
    """Ranges given away in /etc/subuid and /etc/subgid, as (first, end)."""
    out = []
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        with contextlib.suppress(OSError):
            for line in path.read_text("utf-8", "replace").splitlines():
                parts = line.split(":")
                if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
                    out.append((int(parts[1]), int(parts[1]) + int(parts[2])))
    return out


def take(root: Path, tag: str, instance: str) -> Slot:
    """Take the lowest free slot for an instance whose folder `root/tag/instances/instance` exists already.

    Slots of instances whose folder is gone are free again.

    Raises:
        SteleError: `run.no-slot`, `run.no-subnet`.
    """
    folder = root / "slots"
    with locked(folder):
        chosen_subnet = subnet(root)
        foreign = _foreign_ids()
        for number in range(COUNT):
            path = folder / str(number)
            first = UID_FLOOR + number * IDS
            if any(begin < first + IDS and first < end for begin, end in foreign):
                continue
            if path.exists():
                owner = path.read_text("utf-8").split()
                if len(owner) == 2 and (root / owner[0] / "instances" / owner[1]).exists():
                    continue
            path.write_text(f"{tag} {instance}\n", encoding="utf-8")
            return slot(number, chosen_subnet)
    raise SteleError(
        "every slot of this host is taken", remedy="stop instances, or release quarantined ones", code="run.no-slot", retryable=True
    )


def taken(root: Path, tag: str) -> dict[int, str]:
    """The slots that `tag` holds: number -> instance."""
    out = {}
    with contextlib.suppress(FileNotFoundError):
        for path in (root / "slots").iterdir():
            owner = path.read_text("utf-8").split() if path.name.isdecimal() else []
            if len(owner) == 2 and owner[0] == tag:
                out[int(path.name)] = owner[1]
    return out


def is_taken(root: Path, number: str) -> bool:
    """Whether somebody holds the slot `number`."""
    return (root / "slots" / number).exists()


def give_back(root: Path, tag: str, instance: str, number: int) -> None:
    """Free a slot, if it is (still) this instance's."""
    path = root / "slots" / str(number)
    with locked(root / "slots"):
        if path.exists() and path.read_text("utf-8").split() == [tag, instance]:
            path.unlink()
