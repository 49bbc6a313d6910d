"""The demo of `make run`, and the control without which its attacks would prove nothing."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo import attacks, host_state, load, ordinary
from examples.shop import build
from stele.flow.places import Places

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def layout() -> Path:
    return build.build()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def await_health(port: int) -> None:
    limit = time.monotonic() + 30
    while load.ask(port, "/health")[0] != "ok":
        assert time.monotonic() < limit, "the shop did not come up"
        time.sleep(0.02)


@pytest.mark.parametrize("privileged", [False, True], ids=["ordinary", "privileged"])
def test_every_attack_succeeds_in_an_ordinary_container(layout: Path, *, privileged: bool) -> None:
    port = free_port()
    with ordinary.container(layout, port, privileged=privileged) as root:
        await_health(port)
        for attack in attacks.catalogue():
            if attack.privileged == privileged:
                _, body = load.ask(port, attacks.target(attack.line), timeout=20)
                assert attack.prize.encode() in body, attack.key
        if not privileged:
            assert "0wned" in (root / "srv/shop/site/index.html").read_text()
            assert "server_tokens on" in (root / "etc/nginx/nginx.conf").read_text()


def test_shop_answers_its_page_and_its_lookup(layout: Path) -> None:
    port = free_port()
    with ordinary.container(layout, port, version="v2"):
        await_health(port)
        outcome, page = load.ask(port)
        assert (outcome, b"shop version 2" in page) == ("ok", True)
        assert load.ask(port, "/cgi-bin/lookup?name=SLATE") == ("ok", b"slate board     18.00\n")


ROOT = Path(__file__).parents[2]
DEMO_LIMIT_S = 240


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a run with a folder and a port of its own; the folder is removed afterwards, immutable images too."""
    demo = tmp_path / "demo"
    try:
        yield {**os.environ, "STELE_DEMO": str(demo), "PORT": str(free_port()), "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    finally:
        data = demo / "data"
        if Path(f"/run/stele/{Places(data).tag}").exists():
            subprocess.run([sys.executable, "-m", "stele", "--data", str(data), "agent", "stop", "--remove"], cwd=ROOT, timeout=60)
        subprocess.run(["chattr", "-R", "-f", "-i", str(demo)])
        shutil.rmtree(demo, ignore_errors=True)


def state(ground: dict[str, str]) -> host_state.Snapshot:
    data = Path(ground["STELE_DEMO"]) / "data"
    return host_state.take(Places(data).tag, data)


def leaks(ground: dict[str, str], before: host_state.Snapshot) -> list[str]:
    data = Path(ground["STELE_DEMO"]) / "data"
    changes = host_state.compare(before, state(ground), Places(data).tag, data)
    return [str(change) for change in changes if change.owner == "ours"]


def demo(ground: dict[str, str], *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*prefix, "scripts/demo"], cwd=ROOT, env=ground, capture_output=True, text=True, timeout=DEMO_LIMIT_S)


def test_demo_through_sudo_shows_the_whole_loop_and_leaves_only_a_folder_of_the_callers(
    layout: Path, ground: dict[str, str], tmp_path: Path
) -> None:
    before = state(ground)
    caller, cache = 12345, tmp_path / "cache"
    cache.mkdir()
    for base in layout.parent.glob("shop-base-*.tar"):
        shutil.copy2(base, cache)  # only the layout is built anew, for the caller
    done = demo({**ground, "SUDO_UID": str(caller), "SUDO_GID": str(caller), "STELE_CACHE": str(cache)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything came out as it should" in done.stdout
    assert "\x1b" not in done.stdout
    assert leaks(ground, before) == []
    made = [Path(ground["STELE_DEMO"]), *(path for path in cache.glob("shop-*") if path.is_dir())]
    assert len(made) == 2
    assert [path for top in made for path in (top, *top.rglob("*")) if path.lstat().st_uid != caller] == []
    shutil.rmtree(ground["STELE_DEMO"])  # nothing in it is immutable: the caller may delete it


def test_demo_killed_half_way_with_its_agent_cleans_up_when_run_again(layout: Path, ground: dict[str, str]) -> None:
    before = state(ground)
    child = subprocess.Popen(["scripts/demo"], cwd=ROOT, env=ground, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    try:
        assert any("Remount the root writable" in line for line in child.stdout), "it ended before the attacks"
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    kill_agent(ground)
    assert leaks(ground, before), "there is nothing to clean up: the test tests nothing"
    done = demo(ground)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "an earlier run was interrupted" in done.stdout
    assert leaks(ground, before) == []


def kill_agent(ground: dict[str, str]) -> None:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"agent" in words and b"run" in words and f"{ground['STELE_DEMO']}/data".encode() in words:
                os.kill(int(folder.name), signal.SIGKILL)


def test_demo_interrupted_stops_what_it_started(layout: Path, ground: dict[str, str]) -> None:
    before = state(ground)
    child = subprocess.Popen(["scripts/demo"], cwd=ROOT, env=ground, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    lines = iter(child.stdout)
    assert any("Upgrade to version 2" in line for line in lines)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to everything in the foreground
    rest = "".join(lines)
    assert child.wait(60) == 130, rest
    child.stdout.close()
    assert leaks(ground, before) == []


def test_demo_without_privileges_seals_and_proves_and_says_what_it_cannot(layout: Path, ground: dict[str, str]) -> None:
    caps = "cap_sys_admin,cap_net_admin,cap_sys_ptrace,cap_mknod,cap_bpf,cap_perfmon,cap_sys_module,cap_linux_immutable"
    done = subprocess.run(
        ["capsh", f"--drop={caps}", "--", "-c", "exec scripts/demo"],
        cwd=ROOT,
        env=ground,
        capture_output=True,
        text=True,
        timeout=DEMO_LIMIT_S,
    )
    assert done.returncode == 77, done.stdout + done.stderr
    assert "nothing can be run here" in done.stdout
    assert "nothing served the workload" in done.stdout


def test_busy_port_is_named_with_its_holder_and_a_free_one(layout: Path, ground: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", int(ground["PORT"]))):
        done = demo(ground)
    assert done.returncode == 4
    assert f"(process {os.getpid()})" in done.stderr
    assert "make run PORT=" in done.stderr


def test_folder_that_the_demo_did_not_make_is_left_alone(tmp_path: Path, ground: dict[str, str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = demo({**ground, "STELE_DEMO": str(tmp_path / "mine")})
    assert done.returncode == 4
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
