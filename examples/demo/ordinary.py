"""The control: the shop in an ordinary container, by plain runc, where every attack of the demo must succeed.

Without it, "the attack did not work" could mean that the attack is broken. The container is what people run every day: root
inside, a writable root, Docker's default capabilities, no seccomp filter; `privileged` adds CAP_SYS_ADMIN and a read-only
root, for the attack that wants to remount it. It shares the host's network and listens on a port of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCKER_CAPS = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"


def unpack(layout: Path, version: str, target: Path) -> None:
    """Unpack an image of the shop's own layout (trusted: we built it) into a folder."""
    blobs = layout / "blobs" / "sha256"
    index = json.loads((layout / "index.json").read_text())
    chosen = next(entry for entry in index["manifests"] if entry["annotations"]["org.opencontainers.image.ref.name"] == version)
    manifest = json.loads((blobs / chosen["digest"][7:]).read_text())
    for layer in manifest["layers"]:
        with tarfile.open(blobs / layer["digest"][7:]) as tar:
            # fully_trusted: setuid bits and owners are part of what an ordinary container has
            tar.extractall(target, filter="fully_trusted") if hasattr(tarfile, "data_filter") else tar.extractall(target)


@contextlib.contextmanager
def container(layout: Path, port: int, *, version: str = "v1", privileged: bool = False) -> Iterator[Path]:
    """Run the shop on 127.0.0.1:`port`; yields its root folder. Needs root and runc; leaves nothing behind."""
    work = Path(tempfile.mkdtemp(prefix="shop-ordinary-", dir="/var/tmp"))
    work.chmod(0o755)
    name = work.name
    runc = ["runc", "--root", str(work / "state")]
    try:
        root = work / "rootfs"
        root.mkdir()
        unpack(layout, version, root)
        conf = root / "etc/nginx/nginx.conf"
        conf.write_text("user root;\n" + conf.read_text().replace("listen 8080", f"listen 127.0.0.1:{port}"))
        (work / "config.json").write_text(json.dumps(_config(privileged=privileged)))
        with (work / "log").open("wb") as log:
            child = subprocess.Popen([*runc, "run", "-b", str(work), name], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield root
        finally:
            subprocess.run([*runc, "kill", name, "KILL"], capture_output=True, timeout=30, check=False)
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            subprocess.run([*runc, "delete", "-f", name], capture_output=True, timeout=30, check=False)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _config(*, privileged: bool) -> dict[str, Any]:
    caps = [f"CAP_{cap}" for cap in DOCKER_CAPS.split()] + (["CAP_SYS_ADMIN"] if privileged else [])
    tmpfs = {"type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]}
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", **tmpfs, "options": ["nosuid", "mode=755"]},
        *[{"destination": path, **tmpfs} for path in ("/tmp", "/run", "/var/lib/nginx")],
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/usr/local/bin/shop"],
            "env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), caps),
        },
        "root": {"path": "rootfs", "readonly": privileged},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "cgroupsPath": f"/shop-ordinary-{os.getpid()}",
        },
    }
