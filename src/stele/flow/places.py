"""Where things lie: the data folder, which is kept, and the run folder, which a reboot clears."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

RUN_ROOT = Path("/run/stele")


class Places:
    """The paths of one data folder. Names made on the host carry `tag`, so that several can live side by side."""

    def __init__(self, data: Path) -> None:
        self.data = Path(os.path.realpath(data))
        self.tag = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:8]
        self.run = RUN_ROOT / self.tag
        self.keys = self.data / "keys"
        self.store = self.data / "store"
        self.ledger = self.data / "ledger"
        self.cosigning = self.data / "cosigning"
        self.stat_caches = self.data / "stat-cache"
        self.volumes = self.data / "volumes"
        self.evidence = self.data / "evidence"
        self.publications = self.data / "published"
        self.agent = self.data / "agent"
        self.release_key = self.keys / "release.key"
        self.release_pub = self.keys / "release.pub"
        self.host_key = self.keys / "host.key"
        self.host_pub = self.keys / "host.pub"
        self.ledger_key = self.keys / "ledger.key"
        self.trust = self.keys / "trust.keys"
        self.root = self.keys / "trust.root"
        self.policy = self.keys / "trust.policy"
        self.agent_socket = self.run / "agent.sock"
        self.logs = self.agent / "logs"
        self.agent_log = self.agent / "agent.log"


def default_data() -> Path:
    """STELE_DATA, else /var/lib/stele for root, else the user's XDG data folder."""
    given = os.environ.get("STELE_DATA")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/stele")
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "stele"
