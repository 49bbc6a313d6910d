"""What else lives on this host and may be in the way: owners of ports, firewalls that drop forwarded packets."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

from stele.host import nft, proc
from stele.trust.errors import SteleError

_LISTEN = "0A"


def parse_listeners(text: str, port: int) -> list[int]:
    """Inode numbers of the sockets of /proc/net/tcp{,6} that hold `port`, listening ones only."""
    out = []
    for line in text.splitlines()[1:]:
        parts = line.split()
        if len(parts) < 10 or ":" not in parts[1] or parts[3] != _LISTEN:
            continue
        try:
            if int(parts[1].rsplit(":", 1)[1], 16) == port:
                out.append(int(parts[9]))
        except ValueError:
            continue
    return out


def port_owner(port: int) -> str:
    """Who listens on TCP `port`, as "name (pid N)"; "" if nobody visible does."""
    inodes: set[int] = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            inodes.update(parse_listeners(Path(f"/proc/net/{name}").read_text(encoding="ascii"), port))
    wanted = {f"socket:[{inode}]" for inode in inodes}
    if not wanted:
        return ""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{entry}/fd"):
                    with contextlib.suppress(OSError):
                        if os.readlink(f"/proc/{entry}/fd/{fd}") in wanted:
                            return f"{Path(f'/proc/{entry}/comm').read_text().strip()} (pid {entry})"
    return ""


def reserve(port: int) -> socket.socket:
    """Hold TCP `port` on every address without listening: nobody else can take it, and connections to it are refused at once.

    Raises:
        SteleError: `run.port-busy` with the owner if it is visible, `run.port-forbidden`.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        held.bind(("0.0.0.0", port))  # noqa: S104  a published port is published on every address
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            owner = port_owner(port)
            raise SteleError(
                f"port {port} of this host is in use{' by ' + owner if owner else ''}",
                remedy="stop what holds it, or publish another port (ports: host: …) in the spec",
                code="run.port-busy",
                retryable=True,
            ) from error
        raise SteleError(
            f"port {port} cannot be bound: {error.strerror}", remedy="run the agent as root", code="run.port-forbidden"
        ) from error
    return held


def dropping_chains(ruleset: dict[str, Any], ours: str = "stele_") -> list[str]:
    """Chains of an `nft -j list ruleset` that drop forwarded packets by policy, and firewalld's, as "family table chain"."""
    out = []
    for item in ruleset.get("nftables", []):
        chain = item.get("chain") if isinstance(item, dict) else None
        if not isinstance(chain, dict) or chain.get("hook") != "forward" or str(chain.get("table", "")).startswith(ours):
            continue
        if chain.get("policy") == "drop" or chain.get("table") == "firewalld":
            out.append(f"{chain.get('family')} {chain.get('table')} {chain.get('name')}")
    return out


def forward_obstacles() -> list[str]:
    """Firewalls that keep connections from other hosts away from instances (Docker, ufw, firewalld); [] if none is seen."""
    found: list[str] = []
    with contextlib.suppress(SteleError, ValueError):
        found = dropping_chains(json.loads(nft.run("list ruleset", json=True)))
    with contextlib.suppress(OSError, SteleError):
        if "filter" in Path("/proc/net/ip_tables_names").read_text(encoding="ascii").split():
            rules = proc.run(["iptables-legacy", "-S", "FORWARD"], timeout=10, check=False).stdout
            if rules.startswith(b"-P FORWARD DROP"):
                found.append("iptables-legacy FORWARD")
    return found
