"""Evidence of real frozen processes, judged by gdb and GNU tar. The victim must stay as it was: frozen, unread by ptrace, unchanged."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stele.respond import bundle, elfcore
from stele.trust.release_key import PrivateKey
from tests import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.guest, pytest.mark.cgroups]

SECRET = "the-planted-secret-5b1f"
MANY = """
import ctypes, mmap, os, socket, sys, tempfile, threading
secret = ctypes.create_string_buffer(sys.argv[1].encode() + b"\\0" * 100)
folder = sys.argv[2]
gone = open(folder + "/gone", "wb+"); gone.write(b"deleted content"); gone.flush(); os.unlink(folder + "/gone")
mapped = open(folder + "/mapped", "wb+"); mapped.write(b"mapped content".ljust(8192)); mapped.flush()
view = mmap.mmap(mapped.fileno(), 8192); mapped.close(); os.unlink(folder + "/mapped")
memfd = os.memfd_create("payload"); os.write(memfd, b"memfd content")
hidden = mmap.mmap(-1, 4096); hidden[:] = b"hidden by PROT_NONE".ljust(4096)
libc = ctypes.CDLL(None)
where = ctypes.addressof(ctypes.c_char.from_buffer(hidden))
assert libc.mprotect(ctypes.c_void_p(where), 4096, 0) == 0
libc.mmap.restype = ctypes.c_void_p
huge = libc.mmap(None, ctypes.c_size_t(64 << 30), 3, 0x4022, -1, ctypes.c_long(0))  # MAP_NORESERVE, 64 GiB
ctypes.memmove(huge + (40 << 30), b"in the middle of nothing\\0", 25)
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted = server.accept()[0]
client.sendall(b"in flight")
wait = threading.Event()
started = threading.Barrier(5)
def spin():
    started.wait()
    wait.wait()
for _ in range(4):
    threading.Thread(target=spin, daemon=True).start()
started.wait()
print(hex(ctypes.addressof(secret)))
print(hex(where))
print(hex(huge + (40 << 30)))
print(server.getsockname()[1])
print("ready", flush=True)
while True:
    sys.stdin.read(1)
"""


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tmpfs"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def gdb(core: Path, *commands: str) -> str:
    asked = [part for command in commands for part in ("-ex", command)]
    done = subprocess.run(["gdb", "-nx", "-batch", *asked, "--core", str(core)], capture_output=True, text=True, timeout=240)
    return done.stdout + done.stderr


def state(victim: frozen.Victim) -> dict[str, object]:
    """What collecting must not change."""
    status = {line.split(":")[0]: line.split(":", 1)[1].strip() for line in victim.read("status").decode().splitlines()}
    quiet = ("State", "TracerPid", "SigPnd", "ShdPnd", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches", "Threads")
    return {
        "status": {name: status[name] for name in quiet},
        "maps": victim.read("maps"),
        "frozen": victim.freezer.is_frozen(),
        "cpu": victim.read("stat").rsplit(b")", 1)[1].split()[11:13],
        "fds": sorted(os.listdir(f"/proc/{victim.pid}/fd")),
    }


def times(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        if not path.is_symlink():  # readlink has no way to leave the time of access alone
            found[str(path)] = (facts.st_atime_ns, facts.st_mtime_ns, facts.st_ctime_ns)
    return found


@pytest.mark.parametrize("kind", frozen.KINDS)
def test_everything_of_a_busy_process(kind: str, tmp_path: Path, tmpfs: Path) -> None:
    (tmpfs / "plain").write_bytes(b"dropped by an attacker")
    os.setxattr(tmpfs / "plain", "trusted.mark", b"\xff\x00=\n")
    (tmpfs / "sub").mkdir(mode=0o750)
    (tmpfs / "sub" / "link").symlink_to("/etc/shadow")
    key = PrivateKey.generate()
    with frozen.victim(MANY, SECRET, str(tmpfs), kind=kind, stdin=subprocess.PIPE) as victim:
        before, stamps = state(victim), times(tmpfs)
        sealed = frozen.gather(tmp_path / "incident", victim, str(tmpfs), key=key)
        assert state(victim) == before
        assert times(tmpfs) == stamps
        assert victim.freezer.is_frozen()
    folder = tmp_path / "incident"
    assert bundle.verify(folder, key.public, sealed.root) == []
    assert not (tmp_path / "incident.partial").exists()
    secret, hidden, middle, port = victim.said
    _memory(folder / "memory" / f"{victim.pid}.core", victim.pid, {secret: SECRET, middle: "in the middle of nothing"}, hidden)
    _proc(folder / "processes" / str(victim.pid))
    sockets = (folder / "network" / "tcp").read_text()
    assert len(re.findall(rf"(?m)^ *\d+: .*0100007F:{int(port):04X} .*\b01 ", sockets)) == 2  # both ends of the connection
    assert re.search(r"01 00000000:00000009", sockets)  # what was sent, and nobody has read
    _tar(folder, tmp_path)


def _memory(core: Path, pid: int, texts: dict[str, str], hidden: str) -> None:
    assert core.stat().st_size < 512 << 20  # of 64 GiB reserved
    said = gdb(core, "info threads", "info registers rip rsp", *(f"x/s {address}" for address in texts), f"x/s {hidden}")
    for address, text in texts.items():
        assert re.search(rf"{address}:\s+\"{text}\"", said), said
    assert "hidden by PROT_NONE" in said
    assert len(re.findall(r"LWP \d+", "\n".join(line for line in said.splitlines() if re.match(r"^[* ] +\d+ ", line)))) == 5, said
    assert re.search(rf"\* 1 +.*LWP {pid}\b", said), said
    assert int(re.search(r"rip +(0x[0-9a-f]+)", said)[1], 16) > 1 << 20  # type: ignore[index]
    assert not core.with_name(f"{pid}.left-out").exists(), core.with_name(f"{pid}.left-out").read_text()


def _proc(folder: Path) -> None:
    assert SECRET.encode() in (folder / "cmdline").read_bytes()
    links = json.loads((folder / "links.json").read_text())
    assert links["links"]["exe"].startswith("/")
    assert len(list((folder / "task").iterdir())) == 5
    assert not (folder / "rewritten-text").exists()
    out = folder.parent.parent.parent / "deleted"
    out.mkdir()
    subprocess.run(["tar", "-xf", str(folder / "deleted.tar"), "-C", str(out)], check=True)
    found = {path.read_bytes().rstrip(b" \0") for path in out.iterdir()}
    assert found >= {b"deleted content", b"memfd content", b"mapped content"}


def _tar(folder: Path, scratch: Path) -> None:
    index = json.loads((folder / "files" / "index.json").read_text())
    tar, listing = (folder / index[str(scratch / "tmpfs")][name] for name in ("tar", "listing"))
    out = scratch / "unpacked"
    out.mkdir()
    subprocess.run(["tar", "--xattrs", "--xattrs-include=*", "-xpf", str(tar), "-C", str(out)], check=True)
    assert (out / "plain").read_bytes() == b"dropped by an attacker"
    assert os.getxattr(out / "plain", "trusted.mark") == b"\xff\x00=\n"
    assert os.readlink(out / "sub" / "link") == "/etc/shadow"
    assert (out / "sub").stat().st_mode & 0o777 == 0o750
    entries = [json.loads(line) for line in listing.read_text().splitlines()]
    assert {entry["path"] for entry in entries} == {".", "./plain", "./sub", "./sub/link"}


TEXT = """
import ctypes, os, re
libc = ctypes.CDLL(None)
address = ctypes.cast(libc.rand, ctypes.c_void_p).value
memory = os.open("/proc/self/mem", os.O_RDWR)
os.pwrite(memory, b"\\xcc" * 8, address)
print(hex(address), flush=True)
print("ready", flush=True)
os.read(0, 1)
"""


def test_text_that_was_written_over_is_named_and_kept(tmp_path: Path) -> None:
    with frozen.victim(TEXT, stdin=subprocess.PIPE) as victim:
        frozen.gather(tmp_path / "incident", victim)
    base = tmp_path / "incident"
    assert "libc" in (base / "processes" / str(victim.pid) / "rewritten-text").read_text()
    said = gdb(base / "memory" / f"{victim.pid}.core", f"x/8xb {victim.said[0]}")
    assert said.count("0xcc") == 8, said


FORKS = """
import os, sys
big = bytearray(b"x" * (int(sys.argv[1]) << 20))
child = os.fork()
if child == 0:
    del big
    secret = b"the small one's secret" * 10
    os.read(0, 1)
print(child)
print("ready", flush=True)
os.read(0, 1)
"""


def test_a_large_process_does_not_use_up_the_room_of_a_small_one(tmp_path: Path) -> None:
    with frozen.victim(FORKS, "48", stdin=subprocess.PIPE) as victim:
        frozen.gather(tmp_path / "incident", victim, memory=40 << 20)
    child = int(victim.said[0])
    memory = tmp_path / "incident" / "memory"
    left_out = memory / f"{child}.left-out"
    assert not left_out.exists(), left_out.read_text()
    assert b"the small one's secret" in (memory / f"{child}.core").read_bytes()
    assert "over the budget" in (memory / f"{victim.pid}.left-out").read_text()
    assert sum(path.stat().st_blocks * 512 for path in memory.glob("*.core")) < 44 << 20


def test_a_process_that_vanished_spoils_nothing(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    key = PrivateKey.generate()
    with frozen.victim(TEXT, stdin=subprocess.PIPE) as victim:
        sealed = frozen.gather(tmp_path / "incident", victim, key=key, pids=[gone.pid, victim.pid])
    assert (tmp_path / "incident" / "memory" / f"{victim.pid}.core").exists()
    assert str(gone.pid) in (tmp_path / "incident" / "left-out").read_text()
    assert bundle.verify(tmp_path / "incident", key.public, sealed.root) == []


SPARSE = """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
where = libc.mmap(None, ctypes.c_size_t(1 << 40), 3, 0x4022, -1, ctypes.c_long(0))
for step in range(64):
    ctypes.memmove(where + (step << 30), b"x" * 100, 100)
print(hex(where))
print("ready", flush=True)
input()
"""


def test_both_ways_to_find_pages_agree(tmp_path: Path) -> None:
    with frozen.victim(SPARSE, stdin=subprocess.PIPE) as victim:
        mappings = [item for item in elfcore.parse_maps(victim.read("maps")) if item.end - item.begin < 1 << 40]
        resident = elfcore.parse_smaps(victim.read("smaps"))
        fast = elfcore.plan(f"/proc/{victim.pid}", mappings, resident, 1 << 30)
        slow = elfcore.plan(f"/proc/{victim.pid}", mappings, resident, 1 << 30, can_scan=False)
        everything = elfcore.parse_maps(victim.read("maps"))
        bounded = elfcore.plan(f"/proc/{victim.pid}", everything, {}, 1 << 30, can_scan=False)
    page = elfcore.PAGE
    wide, narrow = _pages(slow), _pages(fast)
    assert narrow <= wide
    assert len(wide - narrow) * page < 1 << 20  # pages of zeros are told apart by PAGEMAP_SCAN only
    assert any("within its limit" in line for line in bounded.left_out)  # a terabyte is not searched page by page
    assert ctypes.sizeof(ctypes.c_void_p) == 8


def _pages(plan: elfcore.Plan) -> set[int]:
    return {page for segment in plan.segments for begin, end in segment.pieces for page in range(begin, end, elfcore.PAGE)}
