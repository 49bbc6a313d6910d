"""Whose a change of the host is: a leak must not hide behind other people's changes, nor be blamed for them."""

from pathlib import Path

from examples.demo import host_state
from examples.demo.host_state import Snapshot

TAG = "0a1b2c3d"
DATA = Path("/home/somebody/.local/state/stele-demo")
KINDS = ("mount", "network namespace", "link", "nft table", "cgroup", "sysctl", "loop device", "run file", "process")


def snapshot(*tags: str, **parts: dict[str, str]) -> Snapshot:
    named = {kind: parts.get(kind.replace(" ", "_"), {}) for kind in KINDS}
    return Snapshot(named, frozenset(tags))


def owners(before: Snapshot, after: Snapshot) -> list[tuple[str, str]]:
    return [(change.owner, str(change)) for change in host_state.compare(before, after, TAG, DATA)]


def test_equal_states_have_no_changes() -> None:
    state = snapshot(mount={"/": "ext4 / rw"}, sysctl={"net/ipv4/ip_forward": "0"})
    assert owners(state, state) == []


def test_what_carries_our_tag_or_folder_is_ours() -> None:
    after = snapshot(mount={f"/run/stele/{TAG}/strata/1": "erofs"}, loop_device={f"loop3 of {DATA}/store/x.erofs": ""})
    assert [owner for owner, _ in owners(snapshot(), after)] == ["ours", "ours"]


def test_what_carries_anothers_tag_is_theirs() -> None:
    after = snapshot("ffffffff", TAG, cgroup={"/sys/fs/cgroup/stele-ffffffff": ""})
    assert owners(snapshot(), after) == [("others", "cgroup /sys/fs/cgroup/stele-ffffffff appeared")]


def test_unattributed_link_is_a_leak_when_nobody_else_is_at_work() -> None:
    assert [owner for owner, _ in owners(snapshot(), snapshot(link={"st5h": ""}))] == ["ours"]
    assert [owner for owner, _ in owners(snapshot(), snapshot("ffffffff", link={"st5h": ""}))] == ["others"]


def test_changed_sysctl_is_a_leak_but_one_that_a_module_brought_is_not() -> None:
    before = snapshot(sysctl={"net/ipv4/ip_forward": "0"})
    after = snapshot(sysctl={"net/ipv4/ip_forward": "1", "net/netfilter/nf_conntrack_max": "262144"})
    assert owners(before, after) == [
        ("ours", "sysctl net/ipv4/ip_forward changed"),
        ("unrelated", "sysctl net/netfilter/nf_conntrack_max appeared"),
    ]


def test_settings_of_a_link_go_with_the_link() -> None:
    before = snapshot(link={"eth0": ""}, sysctl={"net/ipv4/conf/eth0/route_localnet": "0", "net/ipv4/conf/gone/forwarding": "1"})
    after = snapshot(link={"eth0": ""}, sysctl={"net/ipv4/conf/eth0/route_localnet": "1"})
    assert owners(before, after) == [("ours", "sysctl net/ipv4/conf/eth0/route_localnet changed")]


def test_other_programs_mounts_are_unrelated() -> None:
    assert [owner for owner, _ in owners(snapshot(), snapshot(mount={"/run/user/1000": "tmpfs"}))] == ["unrelated"]
