"""Warm calls: the same command by a process that was there already, and never with anything that the caller does not have itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.cli import warm_call, warm_server, warm_spare
from stele.host import circumstances
from stele.store import removal

pytestmark = pytest.mark.timeout(600)
ENTRY = "import sys; sys.path[0] = ''; sys.argv[0] = 'stele'; from stele.cli.main import main; main()"
PEER_PIDFD = 77


def _kernel_tells_who_asks() -> bool:
    one, other = socket.socketpair()
    with one, other:
        try:
            os.close(one.getsockopt(socket.SOL_SOCKET, PEER_PIDFD))
        except OSError:
            return False
    return True


# not `needs`, which makes a run red: before Linux 6.5 nothing of this is claimed, every call is cold there (docs/spec/warm.md)
needs_peers = pytest.mark.skipif(not _kernel_tells_who_asks(), reason="SO_PEERPIDFD: Linux 6.5")


class Warm:
    """A person's runtime folder, an application, and what they type."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.data = folder, folder / "run", folder / "data"
        self.run.mkdir(mode=0o700)
        (folder / "app").mkdir()
        (folder / "app" / "hello").write_bytes(b"hello")
        (folder / "stele.yaml").write_bytes(b"stele: 0\nname: shop\ncommand: [/hello]\n")
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(self.run)}
        self("init", "--keys-only")

    def __call__(self, *argv: str, before: tuple[str, ...] = (), code: int = 0, **more) -> subprocess.CompletedProcess[str]:
        command = [*before, sys.executable, "-c", ENTRY, "--data", str(self.data), *argv]
        env = {**self.env, **more.pop("env", {})}
        more = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "cwd": self.folder, **more}
        done = subprocess.run(command, env=env, check=False, **more)
        assert done.returncode == code, done
        return done

    def seal(self, **more) -> subprocess.CompletedProcess[str]:
        return self("seal", "app", "-f", "stele.yaml", **more)

    def says(self) -> str:
        return json.loads(self("warm", "status", "--json").stdout)["says"]

    def counts(self) -> tuple[int, int]:
        """Calls that were run, and refused."""
        words = self.says().split(": ")[1].split()
        return int(words[0]), int(words[3])


@pytest.fixture
def cold(tmp_path):
    return Warm(tmp_path)


@pytest.fixture
def warm(cold):
    cold("warm", "start")
    yield cold
    cold("warm", "stop")


def told(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join(line for line in done.stdout.splitlines() if "took" not in line) + done.stderr


@needs_peers
def test_a_warm_call_says_and_makes_what_a_cold_one_does(warm, tmp_path):
    (tmp_path / "other").mkdir()
    other = Warm(tmp_path / "other")  # has no warm process
    shutil.copytree(warm.data, other.data, dirs_exist_ok=True)
    for content in (b"hello", b"one", b"two", b"two"):
        (warm.folder / "app" / "hello").write_bytes(content)
        (other.folder / "app" / "hello").write_bytes(content)
        assert told(warm.seal()) == told(other.seal())
    assert warm.counts() == (4, 0)


@needs_peers
def test_exit_codes_errors_umask_folder_and_environment_are_the_callers(warm):
    (warm.folder / "bad.yaml").write_bytes(b"stele: 0\n")
    refused = warm("--json", "seal", "app", "-f", "bad.yaml", code=3)
    assert json.loads(refused.stdout)["error"]["code"].startswith("spec.")
    (warm.folder / "deeper").mkdir()
    made = warm("seal", "../app", "-f", "../stele.yaml", cwd=warm.folder / "deeper", umask=0o077)
    assert "sealed shop" in made.stdout
    assert (warm.data / "store").stat().st_mode & 0o777 == 0o700  # made by this call
    elsewhere = warm.folder / "elsewhere"
    env = {**warm.env, "STELE_DATA": str(elsewhere)}
    command = [sys.executable, "-c", ENTRY, "seal", "app"]
    done = subprocess.run(command, env=env, cwd=warm.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode
    assert str(elsewhere) in done.stderr
    assert warm.counts() == (3, 0)


@needs_peers
def test_output_that_nobody_reads_ends_the_command_as_ever(warm):
    script = f'{sys.executable} -c "$0" --data {warm.data} seal app -f stele.yaml 2>&1 | true'
    done = subprocess.run(["sh", "-c", script, ENTRY], env=warm.env, cwd=warm.folder, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert "sealed shop" in warm.seal().stdout


@needs_peers
@pytest.mark.parametrize(
    "before",
    [
        ("prlimit", "--nofile=100:100"),
        ("nice", "-n", "3"),
        ("taskset", "1"),
        ("setpriv", "--no-new-privs"),
        ("nohup",),
    ],
    ids=lambda before: before[0],
)
def test_a_caller_with_other_means_is_refused_and_runs_the_command_itself(warm, before):
    if before[0] == "taskset" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one processor")  # then taskset gives the caller what it had, and there is nothing to refuse
    assert "sealed shop" in warm.seal(before=before).stdout
    assert warm.counts() == (0, 1)
    assert "circumstances" in warm.says()


@needs_peers
@pytest.mark.root
@pytest.mark.parametrize(
    "before",
    [
        ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"),
        ("unshare", "--net"),
        ("unshare", "--mount"),
        ("unshare", "--pid", "--fork"),
        ("setpriv", "--groups=7"),
    ],
    ids=lambda before: " ".join(before[:2]),
)
def test_a_caller_with_less_power_or_another_view_gets_nothing_of_the_warm_process(warm, before):
    assert "sealed shop" in warm.seal(before=before).stdout
    assert warm.counts() == (0, 1)


@needs_peers
@pytest.mark.root
def test_another_user_is_not_answered(warm):
    os.chmod(warm.run, 0o777)
    os.chmod(warm.run / "stele", 0o777)
    os.chmod(warm.run / "stele" / "warm.sock", 0o777)
    for folder in warm.folder.parents:
        if folder != Path("/") and folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o011)
    warm.folder.chmod(0o755)
    script = (
        "import socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX); sock.settimeout(60)\n"
        f"sock.connect({str(warm.run / 'stele' / 'warm.sock')!r})\n"
        "try:\n"
        f"    sock.sendall({(len(body := warm_call.request(b'stop', []))).to_bytes(4, 'big') + body!r})\n"
        "except OSError: pass\n"
        "try: sys.exit(len(sock.recv(1)))\n"
        "except ConnectionError: sys.exit(0)\n"
    )
    subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c", script], check=True, cwd="/")
    os.chmod(warm.run / "stele", 0o700)
    assert warm.counts() == (0, 0)


@needs_peers
@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "OPENSSL_CONF"])
def test_what_counts_when_python_starts_is_not_another_for_a_warm_call(warm, name):
    assert "sealed shop" in warm.seal(env={name: "0"}).stdout
    assert warm.counts() == (0, 1)


@needs_peers
def test_other_command_lines_and_further_descriptors_stay_with_the_caller(warm):
    warm("seal", "app", "-f", "stele.yaml", "--paranoid")
    assert warm.counts() == (0, 1)
    read, write = os.pipe()
    assert "sealed shop" in warm.seal(pass_fds=(read,)).stdout
    os.close(read)
    os.close(write)
    with (warm.folder / "stele.yaml").open("rb") as file:
        warm("seal", "app", "-f", "/dev/stdin", stdin=file)
    assert warm.counts() == (0, 1)


@needs_peers
def test_a_program_that_changed_on_disk_is_not_run_from_memory(cold, tmp_path):
    package = tmp_path / "installed" / "stele"
    shutil.copytree(Path(warm_server.__file__).parents[1], package)
    cold.env["PYTHONPATH"] = str(package.parent)
    cold("warm", "start")
    assert "sealed shop" in cold.seal().stdout
    assert cold.counts() == (1, 0)
    (package / "seal" / "tar.py").write_text((package / "seal" / "tar.py").read_text() + "\n# mended\n")
    assert "sealed shop" in cold.seal().stdout
    deadline = time.monotonic() + 300
    while json.loads(cold("warm", "status", "--json").stdout)["running"]:  # it goes by itself
        assert time.monotonic() < deadline
    assert "sealed shop" in cold.seal().stdout


def blocked(warm: Warm) -> tuple[subprocess.Popen[bytes], contextlib.ExitStack]:
    """A call that has begun and does not come to its end: the store is taken by somebody who removes something."""
    warm.seal()
    lock = contextlib.ExitStack()
    lock.enter_context(removal.removing(warm.data / "store"))
    (warm.folder / "app" / "hello").write_bytes(b"other")
    command = [sys.executable, "-c", ENTRY, "--data", str(warm.data), "seal", "app", "-f", "stele.yaml"]
    pipe = subprocess.PIPE
    call = subprocess.Popen(command, env=warm.env, cwd=warm.folder, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    assert call.stderr is not None
    assert b"sealing" in call.stderr.readline()
    return call, lock


def children_of(pid: int) -> list[str]:
    return (Path("/proc") / str(pid) / "task" / str(pid) / "children").read_text().split()


def commands_of(pid: int) -> list[str]:
    """Children that have a caller's output; what waits for the next call has the log."""

    def is_command(child: str) -> bool:
        try:
            return not os.readlink(f"/proc/{child}/fd/1").endswith("warm.log")
        except FileNotFoundError:
            return False

    return list(filter(is_command, children_of(pid)))


def spare_of(warm: Warm) -> tuple[int, list[int]]:
    """The process that waits for the next call, and those that it has made; waits until there are."""
    deadline = time.monotonic() + 300
    while " waits for the next" not in (said := warm.says()):
        assert time.monotonic() < deadline
    spare = int(said.split("; process ")[1].split()[0])
    return spare, list(map(int, children_of(spare)))


def wait_for_the_end_of(*pids: int) -> None:
    deadline = time.monotonic() + 300
    for pid in pids:
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@needs_peers
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_call_that_is_ended_ends_the_command(warm, number):
    call, lock = blocked(warm)
    server = int(warm.says().split()[1])
    assert len(commands_of(server)) == 1
    call.send_signal(number)
    _, said = call.communicate()
    assert call.returncode == (2 if number == signal.SIGINT else -number)
    assert (b"aborted" in said) == (number == signal.SIGINT)
    deadline = time.monotonic() + 300
    while commands_of(server):
        assert time.monotonic() < deadline
    lock.close()
    assert "sealed shop" in warm.seal().stdout


def test_a_signal_is_passed_on_once():
    """A second Ctrl-C would meet the command while it cleans up after the first."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})  # signals of this kind are counted, not joined
            os.setsid()
            os.write(write, b"!")
            signal.sigwait({signal.SIGRTMIN})
            again = signal.sigtimedwait({signal.SIGRTMIN}, 0.1) is not None
        finally:
            os._exit(again)
    assert os.read(read, 1) == b"!"
    with socket.socket() as unused:
        warm_server._signal(warm_server._Call(unused, pid, -1), signal.SIGRTMIN)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(read)
    os.close(write)


def test_libraries_are_of_the_program():
    """A library that was mended is to be used at once, like a module."""
    files = warm_server._files()
    assert os.path.realpath(sys.executable) in map(os.path.realpath, files)
    assert any(Path(path).name.startswith("libc.") for path in files)
    assert None not in warm_server._states([path for path in files if Path(path).name.startswith("libc.")])


def test_the_place_of_another_user_is_not_taken_for_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert warm_call.folder() == f"{tmp_path}/stele"
    if os.geteuid():
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/")
        assert warm_call.folder() is None
    else:
        os.chown(tmp_path, 65534, 65534)
        assert warm_call.folder() == "/run/stele/warm"


@needs_peers
def test_a_command_that_is_killed_ends_its_call_in_the_same_way(warm):
    call, lock = blocked(warm)
    (command,) = commands_of(int(warm.says().split()[1]))
    os.kill(int(command), signal.SIGKILL)
    call.communicate()
    assert call.returncode == -signal.SIGKILL
    lock.close()


@needs_peers
def test_the_process_that_waits_runs_the_next_call_and_another_waits_then(warm):
    warm.seal()
    for content in (b"one", b"two"):
        spare, lookers = spare_of(warm)
        assert len(lookers) == warm_spare.LOOKERS
        (warm.folder / "app" / "hello").write_bytes(content)
        before = warm.counts()[0]
        assert "of which 1 changed" in warm.seal().stderr
        assert warm.counts() == (before + 1, 0)
        wait_for_the_end_of(spare, *lookers)


@needs_peers
@pytest.mark.parametrize("which", ["spare", "looker"])
def test_who_waits_and_is_not_any_more_what_it_was_made_as_runs_nothing(warm, which):
    spare, lookers = spare_of(warm)
    os.setpriority(os.PRIO_PROCESS, spare if which == "spare" else lookers[0], 5)
    assert "sealed shop" in warm.seal().stdout
    assert warm.counts() == (1, 0)  # by a process that was made for it
    wait_for_the_end_of(spare, *lookers)
    assert spare_of(warm)[0] != spare


@needs_peers
def test_calls_need_neither_who_waits_nor_its_lookers(warm):
    warm.seal()
    spare, lookers = spare_of(warm)
    for looker in lookers:
        os.kill(looker, signal.SIGKILL)
    (warm.folder / "app" / "hello").write_bytes(b"one")
    assert "of which 1 changed" in warm.seal().stderr
    spare, lookers = spare_of(warm)
    os.kill(spare, signal.SIGSTOP)  # it does not take what it is given, and nobody knows yet that it is to end
    os.kill(spare, signal.SIGKILL)
    (warm.folder / "app" / "hello").write_bytes(b"two")
    assert "of which 1 changed" in warm.seal().stderr
    assert warm.counts() == (3, 0)
    wait_for_the_end_of(spare, *lookers)


@needs_peers
@pytest.mark.parametrize("which", ["spare", "looker"])
def test_a_process_that_waits_and_is_stopped_holds_up_nobody(warm, which):
    warm.seal()
    for end in ("seal", "stop"):
        spare, lookers = spare_of(warm)
        server = int(warm.says().split()[1])
        os.kill(spare if which == "spare" else lookers[0], signal.SIGSTOP)
        if end == "seal":
            (warm.folder / "app" / "hello").write_bytes(b"one")
            assert "of which 1 changed" in warm.seal().stderr
            assert warm.counts() == (2, 0)
        else:
            warm("warm", "stop")
            wait_for_the_end_of(server)
        wait_for_the_end_of(spare, *lookers)


@needs_peers
def test_a_caller_that_waited_too_long_is_not_served_beside_what_it_does_itself(warm):
    warm.seal()
    spare, _ = spare_of(warm)
    server = int(warm.says().split()[1])
    os.kill(server, signal.SIGSTOP)
    mark = warm.folder / "came"
    ask = (
        "import socket, sys; from pathlib import Path; from stele.cli import warm_call; sys.path[0] = '';"
        f"sock = socket.socket(socket.AF_UNIX); warm_call.ask(sock, {str(warm.run / 'stele')!r}, b'run', sys.argv[1:]);"
        f"sock.close(); Path({str(mark)!r}).touch(); input()"
    )
    command = [sys.executable, "-c", ask, "--data", str(warm.data), "seal", "app", "-f", "stele.yaml"]
    with subprocess.Popen(command, env=warm.env, cwd=warm.folder, stdin=subprocess.PIPE) as caller:
        deadline = time.monotonic() + 300
        while not mark.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(server, signal.SIGCONT)
        assert warm.counts() == (1, 0)  # asked after it
        assert spare_of(warm)[0] == spare
        caller.communicate(b"\n")
    assert caller.returncode == 0


def test_ctrl_c_before_there_is_an_answer_ends_a_call_as_it_does_later(cold):
    (cold.run / "stele").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:  # of a warm process that has much to do
        listener.bind(str(cold.run / "stele" / warm_call.SOCKET))
        listener.listen()
        command = [sys.executable, "-c", ENTRY, "--data", str(cold.data), "seal", "app", "-f", "stele.yaml"]
        with subprocess.Popen(command, env=cold.env, cwd=cold.folder, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as call:
            asked, _ = listener.accept()
            with asked:
                assert asked.recv(1)  # the descriptors that come with it are closed
                call.send_signal(signal.SIGINT)
                _, said = call.communicate()
    assert (call.returncode, said.strip()) == (2, b"aborted")
    assert not (cold.data / "store" / "index.json").exists()


@needs_peers
def test_the_longest_that_can_be_waited_for_a_call_is_waited(cold):
    cold("warm", "start", "--idle", str(30 * 24 * 3600))
    assert "sealed shop" in cold.seal().stdout
    assert cold.counts() == (1, 0)
    cold("warm", "stop")


@needs_peers
def test_one_that_was_killed_is_not_made_again_and_again(warm):
    spare, lookers = spare_of(warm)
    server = int(warm.says().split()[1])
    os.kill(spare, signal.SIGKILL)
    wait_for_the_end_of(spare, *lookers)
    assert warm.counts() == (0, 0)
    assert children_of(server) == []
    warm.seal()
    assert spare_of(warm)


@needs_peers
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_who_waits_ends_with_the_warm_process(warm, end):
    spare, lookers = spare_of(warm)
    if end == "stop":
        warm("warm", "stop")
    else:
        os.kill(int(warm.says().split()[1]), signal.SIGKILL)
    wait_for_the_end_of(spare, *lookers)


def test_a_warm_process_that_ends_without_an_answer_is_said(capsys):
    for argv in (["seal", "app"], ["--json", "seal", "app"]):
        here, there = socket.socketpair()
        there.close()
        with here:
            assert warm_call._ended(here, argv) == 70
    said = capsys.readouterr()
    assert "the warm process ended" in said.err
    assert json.loads(said.out)["error"]["code"] == "warm.broke-off"


@needs_peers
def test_a_warm_process_that_is_told_to_stop_lets_its_calls_come_to_their_end(warm):
    call, lock = blocked(warm)
    warm("warm", "stop")
    assert not json.loads(warm("warm", "status", "--json").stdout)["running"]
    lock.close()
    said, _ = call.communicate()
    assert b"sealed shop" in said
    assert call.returncode == 0


def test_one_that_ends_leaves_calls_as_cold_as_ever(cold):
    cold("warm", "start", "--idle", "1")
    cold("warm", "start", "--idle", "1")
    deadline = time.monotonic() + 300
    while (cold.run / "stele" / "warm.sock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "sealed shop" in cold.seal().stdout


@needs_peers
def test_a_folder_that_others_may_enter_is_not_trusted(warm):
    (warm.run / "stele").chmod(0o755)
    assert "sealed shop" in warm.seal().stdout
    assert "warm.no-place" in warm("warm", "status", code=3).stderr
    (warm.run / "stele").chmod(0o700)
    assert warm.counts() == (0, 0)


def test_a_warm_process_has_loaded_all_that_a_seal_needs(cold):
    script = (
        "import sys\n"
        "from stele.cli import plain, warm_server\n"
        "warm_server.load()\n"
        "before = set(sys.modules)\n"
        "for content in (b'one', b'two'):\n"
        "    open('app/hello', 'wb').write(content)\n"
        f"    assert plain.run(['--data', {str(cold.data)!r}, 'seal', 'app', '-f', 'stele.yaml']) == 0\n"
        "print(sorted(name for name in set(sys.modules) - before if name.startswith('stele.')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=cold.folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([b"stele-warm v0", b"run", b"p", b"022", b"1", b"01", b"seal", b"A=b", b"=", b"x"])).map(b"\0".join)
)
@settings(deadline=None)
def test_any_bytes_are_a_request_or_none(body):
    found = warm_server.decode(body)
    if found is not None:
        parts = [warm_call.HEADER, found.kind, found.program, b"%03o" % found.umask, b"%d" % len(found.argv)]
        assert b"\0".join([*parts, *map(os.fsencode, found.argv), *found.env]) == body


def test_what_is_asked_is_understood():
    found = warm_server.decode(warm_call.request(b"run", ["seal", "a b", "\udcff"]))
    assert found is not None
    assert (found.kind, found.argv, found.program) == (b"run", ["seal", "a b", "\udcff"], warm_call.program())
    assert dict(entry.split(b"=", 1) for entry in found.env) == dict(os.environb)


def test_circumstances_of_a_child_are_its_parents_until_it_changes_them():
    own = circumstances.of(os.getpid())
    assert own["root"]
    assert own["ns/mnt"]
    child = subprocess.Popen(["sleep", "600"])
    other = subprocess.Popen(["nice", "-n", "1", "sleep", "600"])
    try:
        same = {name: value for name, value in own.items() if not name.startswith("Sig")}
        assert {name: value for name, value in circumstances.of(child.pid).items() if not name.startswith("Sig")} == same
        deadline = time.monotonic() + 300
        while circumstances.of(other.pid)["priority"] == own["priority"]:
            assert time.monotonic() < deadline
    finally:
        child.kill()
        other.kill()
        child.wait()
        other.wait()
    with pytest.raises(OSError, match="No such file"):
        circumstances.of(child.pid)
