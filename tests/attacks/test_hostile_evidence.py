"""Evidence of an instance that does not want to be collected, a collector that is killed, and bundles that were tampered with."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stele.respond import bundle, collect
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

IDLE = 'import sys\nprint("ready", flush=True)\nsys.stdin.read(1)\n'
ODD_TIMES = 12


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def lair(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "lair", "256m") as folder:
        yield folder


@pytest.fixture
def idle() -> Iterator[frozen.Victim]:
    with frozen.victim(IDLE, stdin=subprocess.PIPE) as victim:
        yield victim


def unpack(folder: Path, path: str) -> tuple[tarfile.TarFile, list[dict[str, object]], str]:
    """The tar of a path (Python reads it), its listing, and what was left out."""
    index = json.loads((folder / "files" / "index.json").read_text())[path]
    left_out = folder / "files" / "left-out"
    listing = [json.loads(line) for line in (folder / index["listing"]).read_text().splitlines()]
    return tarfile.open(folder / index["tar"]), listing, left_out.read_text() if left_out.exists() else ""


def gnu_tar(folder: Path, path: str, *args: str) -> bytes:
    index = json.loads((folder / "files" / "index.json").read_text())[path]
    return subprocess.run(["tar", "-f", str(folder / index["tar"]), *args], capture_output=True, check=True).stdout


@pytest.mark.guest
def test_odd_files(tmp_path: Path, lair: Path, idle: frozen.Victim) -> None:
    (lair / "shadow").symlink_to("/etc/shadow")
    (lair / "root").symlink_to("/")
    (lair / "loop").symlink_to("loop")
    os.mkfifo(lair / "fifo")
    os.mknod(lair / "disk", 0o660 | 0o060000, os.makedev(8, 0))
    os.mknod(lair / "console", 0o660 | 0o020000, os.makedev(5, 1))
    (lair / "null").write_bytes(b"not a device")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(lair / "socket"))
    names = [b"new\nline", b"\xff\xfe", b"-rf", b"a=b", b" ", b"\x1b[31m", "…".encode() * 80]
    for name in names:
        with open(os.path.join(os.fsencode(lair), name), "wb") as file:
            file.write(name)
    (lair / "unreadable").write_bytes(b"mode 0")
    (lair / "unreadable").chmod(0)
    os.setxattr(lair / "null", "trusted.a=b%", b"\xff\xfe\x00\n")
    os.setxattr(lair / "null", b"trusted.\xff", b"name that is not UTF-8")
    os.link(lair / "null", lair / "zero")
    key = PrivateKey.generate()
    sealed = frozen.gather(tmp_path / "incident", idle, str(lair), key=key)
    assert bundle.verify(tmp_path / "incident", key.public, sealed.root) == []
    archive, listing, left_out = unpack(tmp_path / "incident", str(lair))
    with archive:
        assert archive.getmember("./shadow").linkname == "/etc/shadow"
        assert archive.getmember("./root").issym()
        assert archive.getmember("./zero").islnk()
        for name in names:
            content = archive.extractfile("./" + os.fsdecode(name))
            assert content is not None
            assert content.read() == name
        assert archive.extractfile("./unreadable").read() == b"mode 0"  # type: ignore[union-attr]
    types = {str(entry["path"]): entry["type"] for entry in listing}
    assert (types["./disk"], types["./console"], types["./socket"], types["./fifo"]) == (
        "block device",
        "character device",
        "socket",
        "fifo",
    )
    assert "./disk: block device" in left_out
    assert "extended attribute" in left_out
    secrets = Path("/etc/shadow").read_bytes()
    assert secrets.splitlines()[0] not in b"".join(path.read_bytes() for path in (tmp_path / "incident" / "files").iterdir())
    with tmpfs(tmp_path / "out", "1m") as out:
        gnu_tar(tmp_path / "incident", str(lair), "--xattrs", "--xattrs-include=*", "-xC", str(out), "./null")
        assert os.getxattr(out / "null", "trusted.a=b%") == b"\xff\xfe\x00\n"


@pytest.mark.guest
def test_a_sparse_terabyte_keeps_its_data_and_its_size(tmp_path: Path, lair: Path, idle: frozen.Victim) -> None:
    with (lair / "huge").open("wb") as file:
        file.truncate(1 << 40)
        for offset in (5, 1 << 30, (1 << 40) - 9):
            os.pwrite(file.fileno(), b"a secret", offset)
    (lair / "hole").touch()
    os.truncate(lair / "hole", 1 << 40)
    used = os.statvfs(lair).f_bfree
    frozen.gather(tmp_path / "incident", idle, str(lair))
    assert os.statvfs(lair).f_bfree == used  # reading filled no holes
    assert sum(path.stat().st_size for path in (tmp_path / "incident" / "files").iterdir()) < 1 << 20
    archive, _, left_out = unpack(tmp_path / "incident", str(lair))
    with archive:
        assert archive.getmember("./huge").size == 1 << 40
        content = archive.extractfile("./huge")
        assert content is not None
        for offset in (5, 1 << 30, (1 << 40) - 9):
            content.seek(offset)
            assert content.read(8) == b"a secret"
    assert not left_out
    out = tmp_path / "out"
    with tmpfs(out, "16m"):
        gnu_tar(tmp_path / "incident", str(lair), "-xSC", str(out))
        assert (out / "huge").stat().st_size == (out / "hole").stat().st_size == 1 << 40
        with (out / "huge").open("rb") as again:
            assert os.pread(again.fileno(), 8, 1 << 30) == b"a secret"


def test_depth_is_no_shelter(tmp_path: Path, lair: Path, idle: frozen.Victim) -> None:
    """500 levels are collected; 5000 too, under shorter names."""
    for depth, name in ((500, "deep"), (5_000, "abyss")):
        here = os.open(lair, os.O_RDONLY)
        for level in range(depth):
            os.mkdir(name if level == 0 else "d", dir_fd=here)
            there = os.open(name if level == 0 else "d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = there
        os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.close(here)
    (lair / "zz-after").write_bytes(b"still collected")
    frozen.gather(tmp_path / "incident", idle, str(lair))
    archive, listing, left_out = unpack(tmp_path / "incident", str(lair))
    archive.close()
    paths = {str(entry["path"]) for entry in listing}
    assert "./deep" + "/d" * 499 + "/bottom" in paths
    assert "./zz-after" in paths
    assert "continued as ./stele-deep-" in left_out
    assert gnu_tar(tmp_path / "incident", str(lair), "-t").count(b"/bottom\n") == 2
    subprocess.run(["find", str(lair), "-mindepth", "1", "-delete"], check=True)


def test_many_files(tmp_path: Path, lair: Path, idle: frozen.Victim) -> None:
    for folder in range(50):
        (lair / str(folder)).mkdir()
        for name in range(1000):
            os.close(os.open(lair / str(folder) / str(name), os.O_CREAT | os.O_WRONLY))
    frozen.gather(tmp_path / "incident", idle, str(lair))
    assert len(gnu_tar(tmp_path / "incident", str(lair), "-t").splitlines()) == 50_051


def test_more_than_the_budget_is_listed(tmp_path: Path, lair: Path, idle: frozen.Victim) -> None:
    (lair / "a-large").write_bytes(os.urandom(1 << 20) * 8)
    (lair / "b-small").write_bytes(b"small")
    frozen.gather(tmp_path / "incident", idle, str(lair), files=4 << 20)
    archive, listing, left_out = unpack(tmp_path / "incident", str(lair))
    with archive:
        assert archive.extractfile("./b-small").read() == b"small"  # type: ignore[union-attr]
    assert "./a-large: 8388608 bytes, over the budget" in left_out
    assert [entry["size"] for entry in listing if entry["path"] == "./a-large"] == [8 << 20]


@pytest.mark.guest
def test_a_leased_file_delays_and_does_not_hide(tmp_path: Path, lair: Path) -> None:
    """A write lease makes every reader wait for its holder, who is frozen; the kernel breaks it in its time."""
    limit = Path("/proc/sys/fs/lease-break-time")
    usual = limit.read_text()
    script = (
        "import fcntl, os, sys\n"
        "kept = [os.open(f'{sys.argv[1]}/leased{n}', os.O_CREAT | os.O_RDWR) for n in range(20)]\n"
        "for fd in kept: os.write(fd, b'behind a lease'); fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n" + IDLE
    )
    limit.write_text("1")
    try:
        with frozen.victim(script, str(lair), stdin=subprocess.PIPE) as victim:
            frozen.gather(tmp_path / "incident", victim, str(lair))
    finally:
        limit.write_text(usual)
    archive, _, left_out = unpack(tmp_path / "incident", str(lair))
    with archive:
        for number in range(20):
            assert archive.extractfile(f"./leased{number}").read() == b"behind a lease"  # type: ignore[union-attr]
    assert not left_out


@pytest.mark.guest
@pytest.mark.parametrize("target", ["/etc", "/proc", "../../../../../../etc", "/proc/self/root"])
def test_a_declared_path_that_became_a_link(tmp_path: Path, lair: Path, idle: frozen.Victim, target: str) -> None:
    (lair / "data").symlink_to(target)
    paths = [f"{lair}/data", f"{lair}/data/sys", f"{lair}/absent", "/" + "x" * 300]
    frozen.gather(tmp_path / "incident", idle, *paths)
    index = json.loads((tmp_path / "incident" / "files" / "index.json").read_text())
    assert all("missing" in index[path] for path in paths)


def test_paths_that_look_alike(tmp_path: Path, lair: Path, idle: frozen.Victim) -> None:
    (lair / "a").mkdir()
    (lair / "a" / "b").write_bytes(b"")
    key = PrivateKey.generate()
    sealed = frozen.gather(tmp_path / "incident", idle, str(lair), f"{lair}/a", str(lair).replace("/lair", "_lair"), key=key)
    assert bundle.verify(tmp_path / "incident", key.public, sealed.root) == []


@pytest.mark.guest
def test_nested_mounts_and_memory_of_other_kinds(tmp_path: Path, lair: Path) -> None:
    """Sparse shared memory is not filled by reading it; a mapping beyond its file costs nothing."""
    script = (
        "import mmap, os, sys\n"
        "f = os.open(sys.argv[1] + '/sparse', os.O_CREAT | os.O_RDWR); os.ftruncate(f, 1 << 34)\n"
        "m = mmap.mmap(f, 1 << 34); m[1 << 33:(1 << 33) + 6] = b'inside'\n"
        "g = os.open(sys.argv[1] + '/short', os.O_CREAT | os.O_RDWR); os.ftruncate(g, 1 << 34)\n"
        "n = mmap.mmap(g, 1 << 34); os.ftruncate(g, 10)\n" + IDLE
    )
    with tmpfs(lair / "inner", "1m"):
        (lair / "inner" / "file").write_bytes(b"x")
        with frozen.victim(script, str(lair), stdin=subprocess.PIPE) as victim:
            free = os.statvfs(lair).f_bfree
            frozen.gather(tmp_path / "incident", victim, str(lair), memory=64 << 20)
            assert os.statvfs(lair).f_bfree == free
    core = tmp_path / "incident" / "memory" / f"{victim.pid}.core"
    assert core.stat().st_size < 128 << 20
    assert b"inside" in core.read_bytes()
    _, _, left_out = unpack(tmp_path / "incident", str(lair))
    assert "./inner: another file system" in left_out


@pytest.mark.guest
def test_one_file_mapped_a_thousand_times_crowds_nothing_out(tmp_path: Path, lair: Path) -> None:
    script = (
        "import mmap, os, sys\n"
        "f = os.open(sys.argv[1] + '/filler', os.O_CREAT | os.O_RDWR); os.write(f, b'x' * (1 << 20))\n"
        "maps = [mmap.mmap(f, 1 << 20, prot=mmap.PROT_READ) for _ in range(1000)]\n"
        "touched = [m[::4096] for m in maps]\n"
        "large = bytearray(b'.' * (16 << 20)); secret = 'the large one holds ' + 'a secret'\n"
        "large[8 << 20:(8 << 20) + len(secret)] = secret.encode()\n" + IDLE
    )
    with frozen.victim(script, str(lair), stdin=subprocess.PIPE) as victim:
        frozen.gather(tmp_path / "incident", victim, memory=64 << 20)
    core = tmp_path / "incident" / "memory" / f"{victim.pid}.core"
    assert b"the large one holds a secret" in core.read_bytes()
    assert "over the budget" in core.with_name(f"{victim.pid}.left-out").read_text()


@pytest.mark.guest
def test_hostile_command_line_and_environment(tmp_path: Path) -> None:
    script = "import ctypes\nctypes.CDLL(None).prctl(15, b'\\xff\\n(x) R', 0, 0, 0)\n" + IDLE
    env = {**os.environb, b"BAD\xff": b"\xff\x00\n\x1b"[:1] + b"\n", b"LONG": b"x" * 100_000}
    key = PrivateKey.generate()
    with frozen.victim(script, os.fsdecode(b"\xfe\n\x1b[2J"), stdin=subprocess.PIPE, env=env) as victim:
        sealed = frozen.gather(tmp_path / "incident", victim, key=key)
    folder = tmp_path / "incident" / "processes" / str(victim.pid)
    assert b"\xfe\n\x1b[2J" in (folder / "cmdline").read_bytes()
    assert b"BAD\xff=\xff\n" in (folder / "environ").read_bytes()
    assert bundle.verify(tmp_path / "incident", key.public, sealed.root) == []


COLLECTOR = """
import os, sys
from pathlib import Path
from stele.host.freezer import Freezer
from tests import frozen
victim = frozen.Victim(int(sys.argv[1]), Freezer(sys.argv[2], Path(sys.argv[3])), [])
print("go", flush=True)
frozen.gather(Path(sys.argv[4]), victim, sys.argv[5])
"""


def test_killed_at_any_moment_and_begun_anew(tmp_path: Path, lair: Path) -> None:
    """Only `.partial` is left behind, the sweep removes it, and the next collection is whole."""
    (lair / "file").write_bytes(os.urandom(1 << 20))
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    chance = random.Random(20_240_101)
    moments = [*range(1, 40, 3), *chance.sample(range(40, 90), ODD_TIMES)]
    with frozen.victim("x = bytearray(b'x' * (24 << 20))\n" + IDLE, stdin=subprocess.PIPE) as victim:
        for moment in moments:
            incident = evidence / f"incident-{moment}"
            argv = [str(victim.pid), victim.freezer.kind, str(victim.freezer.folder), str(incident), str(lair)]
            worker = subprocess.Popen([sys.executable, "-c", COLLECTOR, *argv], stdout=subprocess.PIPE, env=_environment())
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"go\n"
            partial = incident.with_name(incident.name + ".partial")
            # killed when so many files were begun: a moment of its work, not of the clock
            while worker.poll() is None and not incident.exists() and sum(len(names) for _, _, names in os.walk(partial)) < moment:
                pass
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            worker.stdout.close()
            if incident.exists():
                assert not partial.exists()
                # sealed with the worker's own key: everything else must fit
                assert bundle.verify(incident, PrivateKey.generate().public, "") == ["the manifest is not signed by this host's key"]
                continue
            assert {path.name for path in evidence.glob(f"{incident.name}*")} <= {partial.name}
            swept = collect.sweep(evidence)
            assert swept in ([incident.name], [])
            assert not partial.exists()
            assert victim.freezer.is_frozen()
        key = PrivateKey.generate()
        sealed = frozen.gather(evidence / "again", victim, str(lair), key=key)
    assert bundle.verify(evidence / "again", key.public, sealed.root) == []


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}


def test_what_was_tampered_with_is_found(tmp_path: Path, lair: Path, idle: frozen.Victim) -> None:
    key = PrivateKey.generate()
    folder = tmp_path / "incident"
    sealed = frozen.gather(folder, idle, str(lair), key=key)
    chosen = folder / "processes" / str(idle.pid) / "maps"
    content = chosen.read_bytes()

    def problems() -> list[str]:
        return bundle.verify(folder, key.public, sealed.root)

    name = str(chosen.relative_to(folder))
    chosen.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert problems() == [f"altered: {name}"]
    chosen.write_bytes(content + b"x")
    assert problems() == [f"altered: {name}"]
    chosen.unlink()
    assert problems() == [f"missing: {name}"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(content)
    chosen.symlink_to(elsewhere)
    assert problems() == [f"altered: {name}"]
    chosen.unlink()
    os.mkfifo(chosen)
    assert problems() == [f"altered: {name}"]
    chosen.unlink()
    chosen.write_bytes(content)
    assert problems() == []
    (folder / "files" / "more").write_bytes(b"planted")
    (folder / "link").symlink_to("/etc")
    (folder / "empty").mkdir()
    assert problems() == ["added: empty/", "added: files/more", "added: link"]
    (folder / "files" / "more").unlink()
    (folder / "link").unlink()
    (folder / "empty").rmdir()
    moved = tmp_path / "network"
    (folder / "network").rename(moved)
    (folder / "network").symlink_to(moved)
    assert "added: network" in problems()
    assert "missing: network/tcp" in problems()
    (folder / "network").unlink()
    moved.rename(folder / "network")
    manifest = (folder / bundle.MANIFEST).read_bytes()
    for position in random.Random(1).sample(range(len(manifest)), 100):
        (folder / bundle.MANIFEST).write_bytes(manifest[:position] + bytes([manifest[position] ^ 1]) + manifest[position + 1 :])
        # the key's hint is not signed and decides nothing
        assert problems() or b"keyid" in manifest[max(0, position - 60) : position + 10]
    (folder / bundle.MANIFEST).write_bytes(manifest)
    assert bundle.verify(folder, PrivateKey.generate().public, sealed.root) == ["the manifest is not signed by this host's key"]
    assert bundle.verify(folder, key.public, "sha256:" + "0" * 64) == ["the ledger recorded another root"]


@pytest.mark.parametrize("size", ["4k", "64k", "1m", "6m"])
def test_a_full_disk_leaves_nothing_that_looks_whole(tmp_path: Path, lair: Path, idle: frozen.Victim, size: str) -> None:
    (lair / "file").write_bytes(os.urandom(1 << 20))
    with tmpfs(tmp_path / "small", size) as small:
        with pytest.raises(SteleError) as refused:
            frozen.gather(small / "incident", idle, str(lair))
        assert refused.value.code == "evidence.no-space"
        assert list(small.iterdir()) == []
        assert idle.freezer.is_frozen()
    frozen.gather(tmp_path / "incident", idle, str(lair))
    assert (tmp_path / "incident" / bundle.MANIFEST).exists()


@pytest.mark.guest
def test_a_handler_of_page_faults_that_is_frozen_does_not_stop_the_reader(tmp_path: Path) -> None:
    """Memory behind userfaultfd: reading a missing page would wait for the victim itself."""
    script = (
        "import ctypes, fcntl, mmap, os, struct\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "fd = libc.syscall(323, 0o2000000)\n"
        "assert fd >= 0, ctypes.get_errno()\n"
        "fcntl.ioctl(fd, 0xC018AA3F, bytearray(struct.pack('<QQQ', 0xAA, 0, 0)))\n"
        "area = mmap.mmap(-1, 1 << 20)\n"
        "where = ctypes.addressof(ctypes.c_char.from_buffer(area))\n"
        "fcntl.ioctl(fd, 0xC020AA00, bytearray(struct.pack('<QQQQ', where, 1 << 20, 1, 0)))\n" + IDLE
    )
    with frozen.victim(script, stdin=subprocess.PIPE) as victim:
        frozen.gather(tmp_path / "incident", victim)
        assert victim.freezer.is_frozen()
    assert ctypes.sizeof(ctypes.c_long) == 8


def test_only_safe_names_enter_a_bundle(tmp_path: Path) -> None:
    with bundle.Writer(tmp_path / "incident") as out:
        out.add("a/b", b"")
        for name in ("../x", "/etc/x", "a/../../x", "", "a//b", ".hidden", bundle.MANIFEST, "a/b", "a\nb", "x" * 300):
            with pytest.raises(ValueError, match="cannot be a file"):
                out.add(name, b"")
    assert list(tmp_path.iterdir()) == []


def test_the_sweep_follows_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_bytes(b"")
    root = tmp_path / "evidence"
    root.mkdir()
    (root / "a.partial").symlink_to(kept)
    (root / "b.partial").write_bytes(b"")
    (root / "c.partial").mkdir()
    assert collect.sweep(root) == ["a", "b", "c"]
    assert list(root.iterdir()) == []
    assert (kept / "file").exists()
