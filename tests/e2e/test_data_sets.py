"""Data sets: sealed data, mounted read-only by digest; a new version of it is a new release."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.host import Host

pytestmark = [pytest.mark.root]
COMMAND = ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/"]


def seal_data(host: Host, text: str, name: str = "words") -> str:
    folder = host.folder / f"data-{name}-{text}"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.html").write_text(text)
    (folder / "dev").mkdir(mode=0o755)  # no mount point: nothing is mounted in a data set
    (folder / "dev" / "part").write_text(f"{text} part")
    (folder / "sub" / "large").write_bytes(os.urandom(1 << 20))
    (folder / "tool").write_bytes(Path("/bin/busybox").read_bytes())
    for path, mode in ((folder, 0o755), (folder / "sub", 0o755), (folder / "tool", 0o755)):
        path.chmod(mode)
    spec = host.folder / f"{name}.yaml"
    spec.write_text(json.dumps({"stele": 0, "name": name, "kind": "dataset"}))
    return str(host.stele("seal", str(folder), "-f", str(spec))["release"])


def seal(host: Host, data: str) -> str:
    return host.seal("1", data=[{"path": "/srv/words", "release": data}])


def words(host: Host) -> str:
    return host.run_inside("cat /srv/words/index.html")


def test_a_data_set_is_shown_replaced_and_brought_back(host: Host) -> None:
    one, two = seal_data(host, "first"), seal_data(host, "second")
    first, second = seal(host, one), seal(host, two)
    assert first != second
    host.stele("apply", first)
    assert words(host) == "first"
    assert host.run_inside("cat /srv/words/dev/part") == "first part"
    assert sorted(host.run_inside("ls /srv/words").split()) == ["dev", "index.html", "sub", "tool"]
    host.wait(lambda: host.status()["good"] == [first], "confirmed")
    host.stele("apply", second)
    assert words(host) == "second"
    host.stele("rollback", "tiny")
    assert words(host) == "first"


def test_nothing_changes_it_and_nothing_in_it_runs(host: Host) -> None:
    host.stele("apply", seal(host, seal_data(host, "first")))
    assert "Read-only file system" in host.run_inside("echo x > /srv/words/index.html")
    assert words(host) == "first"
    mounted = next(line.split() for line in host.run_inside("cat /proc/self/mountinfo").splitlines() if " /srv/words " in line)
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounted[5].split(","))
    host.run_inside("/srv/words/tool echo IT RAN")
    assert host.incident()["path"] == "/srv/words/tool"


def test_what_is_refused(host: Host) -> None:
    data = seal_data(host, "first")
    images = list((host.data / "store" / "erofs").iterdir())
    assert host.refused("apply", "words")["code"] == "deploy.is-a-data-set"
    workload = host.seal("1")
    assert host.refused("apply", seal(host, workload))["code"] == "deploy.not-a-data-set"
    assert host.refused("apply", seal(host, "sha256:" + "0" * 64))["code"] == "store.unknown-release"
    (image,) = images
    good = seal(host, data)
    raw = bytearray(image.read_bytes())
    raw[-5000] ^= 1
    image.chmod(0o600)
    image.write_bytes(raw)
    assert host.refused("apply", good)["code"] == "store.damaged"


def lapse(host: Host, *, stops: bool) -> tuple[str, str]:
    """A workload runs, signed by the present key, with a data set by a key that is then revoked. Both releases: data set, workload."""
    data = seal_data(host, "first")
    (old,) = (item["key"] for item in host.stele("key", "list")["keys"])
    host.stele("key", "rotate")
    release = seal(host, data)
    host.stele("apply", release)
    host.wait(lambda: host.status()["good"] == [release], "confirmed")
    if stops:
        path = host.data / "keys" / "trust.policy"
        path.write_text(path.read_text() + "running stop\n")
    host.stele("key", "revoke", old, "--from", "0", "--reason", "stolen")
    return data, release


@pytest.mark.timeout(300)
def test_the_signer_of_a_data_set_is_revoked_and_what_shows_it_is_reported(host: Host) -> None:
    data, release = lapse(host, stops=False)
    host.wait(lambda: "revoked" in host.status()["refused"], "status says so")
    assert words(host) == "first"  # reported, not killed
    (lapsed,) = host.events("release.lapsed")
    assert lapsed["data"]["release"] == release
    assert "revoked" in lapsed["data"]["reason"]
    another = host.seal("2", data=[{"path": "/srv/words", "release": data}])
    assert host.refused("apply", another)["code"] == "trust.key-revoked"
    starts = len(host.events("instance.starting"))
    os.kill(int(host.events("instance.started")[-1]["data"]["pid"]), signal.SIGKILL)
    host.wait(lambda: host.events("incident.unresolved"), "no replacement")
    assert len(host.events("instance.starting")) == starts

    # somebody knows the data set to be good: the workload, which was always signed well, is started by itself
    assert host.stele("sign", data)["accepted"]
    host.wait(lambda: host.status()["refused"] == "", "accepted again")
    host.wait(lambda: len(host.events("instance.active")) == 2, "it serves again")
    assert words(host) == "first"
    assert host.events("release.reinstated")[-1]["data"]["release"] == release


@pytest.mark.timeout(300)
def test_the_signer_of_a_data_set_is_revoked_and_a_policy_that_says_so_stops_what_shows_it(host: Host) -> None:
    _, release = lapse(host, stops=True)
    host.wait(lambda: host.events("instance.stopped"), "it is stopped")
    stopped = host.events("instance.stopped")[-1]["data"]
    assert stopped["release"] == release
    assert "no longer accepted" in stopped["reason"]
    assert "revoked" in host.status()["refused"]
