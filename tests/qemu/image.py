"""Guest images: Debian root file systems with their stock kernels, made by mmdebstrap, without systemd or a boot loader."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.qemu import cache

HERE = Path(__file__).resolve().parent
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Raise it when this module makes something else from the same lists.
RECIPE = 2
PACKAGES = (
    "attr",
    "busybox-static",
    "conmon",
    "cryptsetup-bin",
    "e2fsprogs",
    "erofs-utils",
    "gdb-minimal",
    "iproute2",
    "kmod",
    "libseccomp2",
    "nftables",
    "procps",
    "python3",
    "runc",
    "strace",
)
# What must be there before the root file system is; the rest is loaded on demand from it.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4")
ROOT_SIZE = "3G"  # sparse; tests seal and unpack things in it


@dataclasses.dataclass(frozen=True)
class Suite:
    """One Debian release as a guest."""

    name: str
    python: str  # the version of its python3, for which wheels are chosen


SUITES = {suite.name: suite for suite in (Suite("bookworm", "3.11"), Suite("trixie", "3.13"))}


@dataclasses.dataclass(frozen=True)
class Image:
    """What QEMU boots."""

    kernel: Path
    initrd: Path
    root: Path
    release: str  # of the kernel, as `uname -r` gives it


class BuildError(Exception):
    """A guest could not be made; the message says why and what to do."""


def image(suite: Suite) -> Image:
    """The cached image of `suite`, built when it is not there (root only, about a minute)."""
    made = cache.made_once(f"guest-{suite.name}-{_key(suite)}", lambda folder: _build(suite, folder))
    return Image(made / "vmlinuz", made / "initrd", made / "root.ext4", (made / "release").read_text().strip())


def is_cached(suite: Suite) -> bool:
    """Whether `image` would find it without building."""
    return (cache.folder() / f"guest-{suite.name}-{_key(suite)}").is_dir()


def _key(suite: Suite) -> str:
    parts = (str(RECIPE), suite.name, *PACKAGES, *BOOT_MODULES, ROOT_SIZE)
    digest = hashlib.sha256("\n".join(parts).encode())
    for script in ("init", "kernel-hook"):
        digest.update((HERE / "guest" / script).read_bytes())
    return digest.hexdigest()[:16]


def _build(suite: Suite, folder: Path) -> None:
    if os.geteuid() != 0:
        raise BuildError(
            f"the {suite.name} guest is not in the cache and building it needs root (a root file system has owners).\n"
            "  remedy: run `make qemu` once as root or with sudo; booting what is cached needs no root"
        )
    mirror = os.environ.get("STELE_DEBIAN_MIRROR", "http://deb.debian.org")
    root = folder / "root"
    _run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            f"--customize-hook={HERE / 'guest' / 'kernel-hook'}",
            suite.name,
            str(root),
            # Both suites are signed with the key of bookworm too, so the keyring of any supported host will do.
            f"deb [signed-by={KEYRING}] {mirror}/debian {suite.name} main",
            f"deb [signed-by={KEYRING}] {mirror}/debian-security {suite.name}-security main",
        ],
        remedy=f"check that {mirror} can be reached (STELE_DEBIAN_MIRROR names another) and that there is 3 GB of space",
    )
    kernel = next((root / "boot").glob("vmlinuz-*"))
    release = kernel.name.removeprefix("vmlinuz-")
    (folder / "release").write_text(release + "\n")
    shutil.copyfile(kernel, folder / "vmlinuz")
    _run(["depmod", "-b", str(root), release], remedy="kmod is in scripts/apt-packages.txt: run scripts/bootstrap test")
    (folder / "initrd").write_bytes(_initrd(root, release))
    shutil.rmtree(root / "boot")
    (root / "site").mkdir()
    target = folder / "root.ext4"
    # -O verity: fs-verity is one of the ways an image can be enforced, and a test needs it
    _run(
        ["mke2fs", "-q", "-t", "ext4", "-O", "verity", "-b", "4096", "-m", "0", "-d", str(root), str(target), ROOT_SIZE],
        remedy="see that the cache folder has 3 GB of space",
    )
    shutil.rmtree(root)


def _initrd(root: Path, release: str) -> bytes:
    """A newc archive of busybox, our init, and the modules between power-on and the root file system."""
    modules: dict[str, bytes] = {}
    for name in BOOT_MODULES:
        shown = _run(["modprobe", "-d", str(root), "-S", release, "--show-depends", name], remedy="install kmod")
        for path in re.findall(r"^insmod (\S+)", shown, re.MULTILINE):
            data = Path(path).read_bytes()
            if path.endswith(".xz"):
                data = subprocess.run(["xz", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
            modules[Path(path).name.removesuffix(".xz")] = data
    busybox = next(path for path in (root / "usr/bin/busybox", root / "bin/busybox") if path.exists())
    archive = _Newc()
    for folder in ("bin", "dev", "proc", "sys", "root", "modules"):
        archive.add(folder, 0o040755)
    archive.add("dev/console", 0o020600, device=(5, 1))
    archive.add("bin/busybox", 0o100755, busybox.read_bytes())
    archive.add("init", 0o100755, (HERE / "guest" / "init").read_bytes())
    for name, data in modules.items():
        archive.add(f"modules/{name}", 0o100644, data)
    archive.add("modules/order", 0o100644, "\n".join(modules).encode() + b"\n")
    return archive.finish()


class _Newc:
    """The cpio format of initramfs (Documentation/driver-api/early-userspace/buffer-format)."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._inode = 0

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        raw = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        self._out += b"070701" + b"".join(b"%08X" % field for field in fields)
        self._append(raw)
        self._append(data)

    def finish(self) -> bytes:
        self._inode = -1
        self.add("TRAILER!!!", 0)
        return bytes(self._out)

    def _append(self, data: bytes) -> None:
        self._out += data
        self._out += bytes(-len(self._out) % 4)


def _run(argv: list[str], *, remedy: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=1200, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise BuildError(f"{argv[0]} is not installed.\n  remedy: scripts/bootstrap test installs it") from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise BuildError(f"{argv[0]} ended with status {done.returncode}:\n{tail}\n  remedy: {remedy}")
    return done.stdout
