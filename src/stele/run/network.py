"""The instances' network: who may talk to whom, which instance answers a published port, cutting one off (docs/spec/network.md).

State is what the kernel holds in the table `inet stele_TAG`; every change is one transaction.
"""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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


SETS = ("ports", "veths", "places", "closed", "severed")


class _State(NamedTuple):
    """What the table holds. `ports`: host port -> target. `places`: (veth, address). The others: veths."""

    ports: dict[int, Target] = {}  # noqa: RUF012  never changed in place
    places: frozenset[tuple[str, str]] = frozenset()
    closed: frozenset[str] = frozenset()
    severed: frozenset[str] = frozenset()

    def elements(self) -> tuple[set[str], ...]:
        """The elements of each of `SETS`, as nft spells them."""
        return (
            {f"{port} : {address} . {inner}" for port, (address, inner) in self.ports.items()},
            {f'"{veth}"' for veth, _ in self.places},
            {f'"{veth}" . {address}' for veth, address in self.places},
            {f'"{veth}"' for veth in self.closed},
            {f'"{veth}"' for veth in self.severed},
        )

    def without(self, veth: str, address: str) -> _State:
        """The state without one instance."""
        return _State(
            ports={port: target for port, target in self.ports.items() if target[0] != address},
            places=self.places - {(veth, address)},
            closed=self.closed - {veth},
            severed=self.severed - {veth},
        )


def parse_state(listing: dict[str, Any]) -> _State:
    """The state of a table from `nft -j list table inet …`."""
    found: dict[str, list[Any]] = {}
    for item in listing.get("nftables", []):
        for kind in ("map", "set"):
            if kind in item:
                found[item[kind]["name"]] = item[kind].get("elem", [])
    return _State(
        ports={int(key): (str(value["concat"][0]), int(value["concat"][1])) for key, value in found.get("ports", [])},
        places=frozenset((str(item["concat"][0]), str(item["concat"][1])) for item in found.get("places", [])),
        closed=frozenset(map(str, found.get("closed", []))),
        severed=frozenset(map(str, found.get("severed", []))),
    )


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
        self._state: _State | None = None  # as in the kernel; None: not read yet

    # ---- the kernel's side ----------------------------------------------------------------------

    def _known(self) -> _State:
        """What the kernel holds; the table is made if it is not there."""
        if self._state is None:
            self._state = self._read() or self._make(_State())
        return self._state

    def _read(self) -> _State | None:
        if not nft.table_exists("inet", self._table):
            return None
        return parse_state(json.loads(nft.run(f"list table inet {self._table}", json=True)))

    def _make(self, state: _State) -> _State:
        nft.run(TABLE.format(table=self._table) + "\n".join(self._difference(_State(), state)))
        return state

    def _difference(self, old: _State, new: _State) -> list[str]:
        """The commands that lead from one state to another: what is taken away first."""
        commands = []
        for name, before, after in zip(SETS, old.elements(), new.elements(), strict=True):
            commands += [f"delete element inet {self._table} {name} {{ {element} }}" for element in sorted(before - after)]
        for name, before, after in zip(SETS, old.elements(), new.elements(), strict=True):
            commands += [f"add element inet {self._table} {name} {{ {element} }}" for element in sorted(after - before)]
        return commands

    def _go_to(self, wanted: _State) -> None:
        """Reach `wanted` in one transaction. If somebody else has changed our table (a firewall that was reloaded), make it anew."""
        commands = self._difference(self._known(), wanted)
        try:
            if commands:
                nft.run("\n".join(commands) + "\n")
        except SteleError:
            found = self._read()
            if found is None:
                self._make(wanted)
            else:
                nft.run("\n".join(self._difference(found, wanted)) + "\n")
        self._state = wanted

    # ---- who takes part -------------------------------------------------------------------------

    def admit(self, veth: str, address: str, egress: str) -> None:
        """Let an instance in: its link is known, and unless `egress` is "any" it can only answer. Before it is started.

        Raises:
            SteleError: `run.nft-refused`.
        """
        with self._lock:
            now = self._known()
            closed = now.closed if egress == "any" else now.closed | {veth}
            self._go_to(now._replace(places=now.places | {(veth, address)}, closed=closed, severed=now.severed - {veth}))
            # published ports are reached from other hosts by forwarding, and so is everything beyond this one
            sysctl.want(self._root, self._tag, sysctl.IP_FORWARD, "1")

    def withdraw(self, veth: str, address: str) -> None:
        """Forget an instance: nothing leads to it any more. Idempotent."""
        with self._lock:
            if self._state is not None or nft.table_exists("inet", self._table):
                self._go_to(self._known().without(veth, address))

    def cut(self, workload: str, instance: Instance) -> int:
        """Cut an instance off in one transaction: nothing reaches or leaves it, and its ports refuse new connections at once.

        The ports stay reserved for `workload`. Connection tracking is not flushed: it is evidence.

        Returns:
            How many connections were established with it: those are lost.
        """
        with self._lock:
            now = self._known()
            left = {port: target for port, target in now.ports.items() if target[0] != instance.address}
            self._go_to(now._replace(ports=left, severed=now.severed | {instance.veth}))
            for port in set(now.ports) - set(left):
                self._owner.setdefault(port, workload)
        count = 0
        for name in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                count += established(Path(f"/proc/{instance.pid}/net/{name}").read_text(encoding="ascii"))
        return count

    # ---- published ports ------------------------------------------------------------------------

    def publish(self, workload: str, ports: Iterable[Port], instance: Instance) -> None:
        """Lead the published ports to `instance`, in one transaction: also the flip from one instance to the next.

        New connections go to `instance` from then on; established ones stay where they are. Ports that the workload
        published before and that are not among `ports` are given up.

        Raises:
            SteleError: `run.port-busy` (nothing was changed), `run.port-forbidden`, `run.nft-refused`.
        """
        wanted = {port.host: (instance.address, port.container) for port in ports if port.host}
        with self._lock:
            reserved: list[int] = []
            try:
                for port in wanted:
                    self._reserve(port, workload, reserved)
                dropped = {port for port, owner in self._owner.items() if owner == workload and port not in wanted}
                now = self._known()
                kept = {port: target for port, target in now.ports.items() if port not in dropped}
                self._go_to(now._replace(ports={**kept, **wanted}))
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
                now = self._known()
                self._go_to(now._replace(ports={port: target for port, target in now.ports.items() if port not in ports}))
            self._let_go(ports)

    # ---- after a kill, and at the end -------------------------------------------------------------

    def keep_only(self, present: dict[str, str]) -> None:
        """Withdraw every link that is not in `present` (veth -> address); with none left, remove everything."""
        with self._lock:
            if not present:
                self.remove()
                return
            self._state = self._read()
            if self._state is not None:
                wanted = self._state
                for veth, address in self._state.places:
                    if present.get(veth) != address:
                        wanted = wanted.without(veth, address)
                self._go_to(wanted)

    def remove(self) -> None:
        """Remove the table, give back the ports and restore what was set on the host. Idempotent."""
        with self._lock:
            # add, then delete: succeeds whether it was there or not
            nft.run(f"add table inet {self._table}\ndelete table inet {self._table}\n")
            self._state = None
            self._let_go(set(self._held) | set(self._owner))
            sysctl.give_back(self._root, self._tag, sysctl.IP_FORWARD)
