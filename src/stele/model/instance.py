"""The instance: one running copy of a release, and what of it the host must know to handle it."""

from __future__ import annotations

from typing import Literal

import msgspec

Enforcement = Literal["kernel-verified", "verified at start, watched since"]


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """Host facts of an instance; kept in `<run dir>/instances/<id>/instance.json`, gone after a reboot.

    `slot`: the host-wide number that gives `uid_base` and `address`. `pid`, `start_ticks`: its first process
    (field 22 of /proc/PID/stat, so that a reused pid is not mistaken). `root_dev`: st_dev of its sealed root
    (overlay), the identity that the gate decides by. `cgroups`: freezer kind ("v1", "v2") to folder.
    `rootfs`, `run_dir`: absolute folders. `netns`: path of its network namespace.
    """

    id: str
    workload: str
    release: str
    slot: int
    uid_base: int
    address: str
    gateway: str
    netns: str
    veth: str
    run_dir: str
    rootfs: str
    root_dev: int
    pid: int
    start_ticks: int
    freezer: Literal["v1", "v2"]
    freezer_dir: str
    cgroup_id: int
    enforcement: Enforcement
    log: str
