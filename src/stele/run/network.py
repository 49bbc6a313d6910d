"""The instances' network: who may talk to whom, which instance answers a published port, cutting one off (docs/spec/network.md).

State is what the kernel holds in the table `inet stele_TAG`; every change is one transaction.
"""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stele.host import landscape, nft, sysctl
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from stele.model.instance import Instance
    from stele.model.spec import Port

Target = tuple[str, int]
_ESTABLISHED = "01"
_LOOPBACK = "7F"  # 127, the last byte of an address as the kernel prints it

TABLE = """
table inet {table} {{
  map ports {{ type inet_service : ipv4_addr . inet_service; }}
  set veths {{ type ifname; }}
  set places {{ type ifname . ipv4_addr; }}
  set closed {{ type ifname; }}
  set severed {{ type ifname; }}
  chain from_instance {{
    type filter hook prerouting priority raw; policy accept;
    iifname != @veths accept
    iifname @severed drop
    meta nfproto ipv6 drop
    iifname . ip saddr != @places drop
    ip daddr 127.0.0.0/8 drop
  }}
  chain to_instance {{
    type filter hook postrouting priority raw; policy accept;
    oifname @severed drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname @closed ct state new reject with icmpx admin-prohibited
    oifname @veths ct state new ct status dnat accept
    oifname @veths ct state new reject with icmpx admin-prohibited
  }}
  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname @closed ct state new reject with icmpx admin-prohibited
  }}
  chain published {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname != @closed fib daddr type local dnat ip to tcp dport map @ports
  }}
  chain published_here {{
    type nat hook output priority -100; policy accept;
    fib daddr type local dnat ip to tcp dport map @ports
  }}
  chain masquerading {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 127.0.0.0/8 oifname @veths masquerade
    iifname @veths oifname @veths ct status dnat masquerade
    iifname @veths oifname != @veths masquerade
  }}
}}
"""


def parse_ports(listing: dict[str, Any]) -> dict[int, Target]:
    """The elements of `nft -j list map … ports`: host port -> (address, port)."""
    out: dict[int, Target] = {}
    for item in listing.get("nftables", []):
        for key, value in item.get("map", {}).get("elem", []):
            address, port = value["concat"]
            out[int(key)] = (str(address), int(port))
    return out


def established(table: str) -> int:
    """Established connections in a /proc/PID/net/tcp table, those over loopback left out."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return sum(1 for row in rows if len(row) > 3 and row[3] == _ESTABLISHED and not row[1].partition(":")[0].endswith(_LOOPBACK))


class Network:
    """The network of one run folder's instances. Thread-safe.

    Args:
        run_dir: the run folder, /run/stele/TAG.
    """

    def __init__(self, run_dir: Path) -> None:
        self._root, self._tag = run_dir.parent, run_dir.name
        self._table = f"stele_{self._tag}"
        self._lock = threading.RLock()
        self._held: dict[int, socket.socket] = {}
        self._owner: dict[int, str] = {}
        self._ports: dict[int, Target] | None = None  # as in the kernel; None: not read yet

    def _ensure(self) -> dict[int, Target]:
        """Make the table if it is not there; what is published now."""
        if self._ports is None:
            if nft.table_exists("inet", self._table):
                self._ports = parse_ports(json.loads(nft.run(f"list map inet {self._table} ports", json=True)))
            else:
                nft.run(TABLE.format(table=self._table))
                self._ports = {}
        return self._ports

    def admit(self, veth: str, address: str, egress: str) -> None:
        """Let an instance in: its link is known, and unless `egress` is "any" it can only answer. Before it is started.

        Raises:
            SteleError: `run.nft-refused`.
        """
        with self._lock:
            self._ensure()
            commands = [self._element("add", "veths", f'"{veth}"'), self._element("add", "places", f'"{veth}" . {address}')]
            if egress != "any":
                commands.append(self._element("add", "closed", f'"{veth}"'))
            nft.run("\n".join(commands))
            # published ports are reached from other hosts by forwarding, and so is everything beyond this one
            sysctl.want(self._root, self._tag, sysctl.IP_FORWARD, "1")

    def withdraw(self, veth: str, address: str) -> None:
        """Forget an instance: nothing leads to it any more. Idempotent."""
        with self._lock:
            if self._ports is None and not nft.table_exists("inet", self._table):
                return
            ports = self._ensure()
            commands = [self._element("delete", "ports", str(port)) for port, target in ports.items() if target[0] == address]
            for name, element in (
                ("veths", f'"{veth}"'),
                ("places", f'"{veth}" . {address}'),
                ("closed", f'"{veth}"'),
                ("severed", f'"{veth}"'),
            ):
                # add, then delete: a transaction that succeeds whether it was there or not
                commands += [self._element("add", name, element), self._element("delete", name, element)]
            nft.run("\n".join(commands))
            self._ports = {port: target for port, target in ports.items() if target[0] != address}

    def _element(self, verb: str, name: str, element: str) -> str:
        return f"{verb} element inet {self._table} {name} {{ {element} }}"

    def publish(self, workload: str, ports: Iterable[Port], instance: Instance) -> None:
        """Lead the published ports to `instance`, in one transaction: also the flip from one instance to the next.

        New connections go to `instance` from then on; established ones stay where they are. Ports that the workload
        published before and that are not among `ports` are given up.

        Raises:
            SteleError: `run.port-busy` (nothing was changed), `run.port-forbidden`, `run.nft-refused`.
        """
        wanted = {port.host: (instance.address, port.container) for port in ports if port.host}
        with self._lock:
            current = self._ensure()
            reserved: list[int] = []
            try:
                for port in wanted:
                    self._reserve(port, workload, reserved)
                dropped = {port for port, owner in self._owner.items() if owner == workload and port not in wanted}
                self._change(current, wanted, dropped)
            except BaseException:
                for port in reserved:
                    self._held.pop(port).close()
                raise
            for port in wanted:
                self._owner[port] = workload
            self._let_go(dropped)

    def _reserve(self, port: int, workload: str, reserved: list[int]) -> None:
        owner = self._owner.get(port, workload)
        if owner != workload:
            raise SteleError(
                f"port {port} is published by the workload {owner}",
                remedy="publish another port (ports: host: …) in the spec",
                code="run.port-busy",
            )
        if port not in self._held:
            self._held[port] = landscape.reserve(port)
            reserved.append(port)

    def _change(self, current: dict[int, Target], wanted: dict[int, Target], dropped: set[int]) -> None:
        commands = [self._element("delete", "ports", str(port)) for port in sorted((dropped | set(wanted)) & set(current))]
        commands += [self._element("add", "ports", f"{port} : {address} . {inner}") for port, (address, inner) in sorted(wanted.items())]
        if commands:
            nft.run("\n".join(commands))
        self._ports = {**{port: target for port, target in current.items() if port not in dropped}, **wanted}

    def _let_go(self, ports: Iterable[int]) -> None:
        for port in list(ports):
            self._owner.pop(port, None)
            held = self._held.pop(port, None)
            if held is not None:
                held.close()

    def unpublish(self, workload: str) -> None:
        """Nothing answers the workload's ports any more, and they are free for others. Established connections stay."""
        with self._lock:
            ports = {port for port, owner in self._owner.items() if owner == workload}
            if ports:
                self._change(self._ensure(), {}, ports)
            self._let_go(ports)

    def cut(self, workload: str, instance: Instance) -> int:
        """Cut an instance off in one transaction: nothing reaches or leaves it, and its ports refuse new connections at once.

        The ports stay reserved for `workload`. Connection tracking is not flushed: it is evidence.

        Returns:
            How many connections were established with it: those are lost.
        """
        with self._lock:
            current = self._ensure()
            gone = [port for port, target in current.items() if target[0] == instance.address]
            commands = [self._element("delete", "ports", str(port)) for port in gone]
            nft.run("\n".join([self._element("add", "severed", f'"{instance.veth}"'), *commands]))
            self._ports = {port: target for port, target in current.items() if port not in gone}
            for port in gone:
                self._owner.setdefault(port, workload)
        count = 0
        for name in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                count += established(Path(f"/proc/{instance.pid}/net/{name}").read_text(encoding="ascii"))
        return count

    def keep_only(self, present: dict[str, str]) -> None:
        """Withdraw every link that is not in `present` (veth -> address); with none left, remove everything."""
        with self._lock:
            if not present:
                self.remove()
                return
            if not nft.table_exists("inet", self._table):
                return
            self._ports = None
            listing = json.loads(nft.run(f"list set inet {self._table} places", json=True))
            for item in listing.get("nftables", []):
                for element in item.get("set", {}).get("elem", []):
                    veth, address = element["concat"]
                    if present.get(veth) != address:
                        self.withdraw(veth, address)

    def remove(self) -> None:
        """Remove the table, give back the ports and restore what was set on the host. Idempotent."""
        with self._lock:
            # add, then delete: succeeds whether it was there or not
            nft.run(f"add table inet {self._table}\ndelete table inet {self._table}")
            self._ports = None
            self._let_go(set(self._held) | set(self._owner))
            sysctl.give_back(self._root, self._tag, sysctl.IP_FORWARD)
