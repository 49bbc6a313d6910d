"""What was set on the host for instances is written down by whoever sets it, and they may die while they write."""

from __future__ import annotations

from pathlib import Path

from stele.host import slots, sysctl


def test_what_one_left_that_died_while_it_wrote_goes_with_the_next_that_gives_back(tmp_path: Path) -> None:
    with slots.locked(tmp_path / "sysctl"):  # which makes the folder
        left = tmp_path / "sysctl" / "net.ipv4.ip_forward.new"
        left.write_text('{"previous": "0", "us', encoding="ascii")
    before = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    sysctl.give_back(tmp_path, "tag", sysctl.IP_FORWARD)
    assert not left.exists()
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == before
