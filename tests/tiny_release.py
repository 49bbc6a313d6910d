"""A tiny release of busybox for tests of `run`: two EROFS strata made by mkfs.erofs, so that no code of `seal` is needed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from stele.model import spec as specs
from stele.model.release import Descriptor, Release, Stratum

NAMES = "sh ls cat id touch mkdir mount umount stat httpd nc sleep echo cp chmod wget test grep env hostname kill sync dd true wc"
APPLETS = NAMES.split()
NO_LAYER = Descriptor(media_type="application/vnd.oci.image.layer.v1.tar+zstd", digest="sha256:" + "0" * 64, size=0)


def _image(folder: Path, target: Path, *, verity: bool) -> tuple[Path, Stratum]:
    subprocess.run(
        ["mkfs.erofs", "-T0", "-U", "00000000-0000-0000-0000-000000000000", str(target), str(folder)],
        check=True,
        capture_output=True,
    )
    data_size, root = target.stat().st_size, "0" * 64
    if verity:
        said = subprocess.run(
            [
                "veritysetup",
                "format",
                str(target),
                str(target),
                f"--hash-offset={data_size}",
                "--salt=-",
                "--uuid=" + "0" * 8 + "-0000-4000-8000-" + "0" * 12,
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        root = next(line.split()[-1] for line in said.splitlines() if line.startswith("Root hash:"))
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    path = target.parent / f"{digest}.erofs"
    if path.exists():
        target.unlink()
    else:
        target.rename(path)
    size = path.stat().st_size
    stratum = Stratum(
        name=folder.name,
        diff_id="sha256:" + "0" * 64,
        layer=NO_LAYER,
        image=f"sha256:{digest}",
        image_size=size,
        data_size=data_size,
        verity_root=root,
    )
    return path, stratum


def build(folder: Path, *, page: str = "one", verity: bool = False, **declared: Any) -> tuple[Release, tuple[Path, ...]]:
    """Build a release below `folder`; returns it with its images in order. `declared` are fields of the spec."""
    base, settings = folder / f"base-{page}", folder / f"settings-{page}"
    for tree in (base, settings):
        shutil.rmtree(tree, ignore_errors=True)
    for name in ("bin", "proc", "dev", "tmp", "data", "etc", "www", "home"):
        (base / name).mkdir(parents=True)
    os.chown(base / "home", 33, 33)
    shutil.copy("/bin/busybox", base / "bin" / "busybox")
    for applet in APPLETS:
        (base / "bin" / applet).symlink_to("busybox")
    (base / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (base / "etc" / "group").write_text("root:x:0:\n")
    (settings / "www").mkdir(parents=True)
    (settings / "www" / "index.html").write_text(page + "\n")
    (settings / "etc").mkdir()
    (settings / "etc" / "settings").write_text(page + "\n")
    for tree in (base, settings):
        for path, _, _ in os.walk(tree):
            os.chmod(path, 0o755)
    made = [_image(tree, folder / f"{tree.name}.tmp", verity=verity) for tree in (base, settings)]
    plain = {"stele": 0, "name": "tiny", "command": ["/bin/httpd", "-f", "-p", "80", "-h", "/www"], **declared}
    spec = specs.from_builtins(plain)
    manifest = hashlib.sha256(repr((plain, [stratum.image for _, stratum in made])).encode()).hexdigest()
    release = Release(
        digest=f"sha256:{manifest}",
        workload=spec.name,
        spec=spec,
        tree_digest="sha256:" + "0" * 64,
        strata=tuple(stratum for _, stratum in made),
        config_digest="sha256:" + "0" * 64,
        manifest_size=0,
    )
    return release, tuple(path for path, _ in made)
