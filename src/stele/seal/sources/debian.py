"""A list of Debian packages as source: mmdebstrap makes the root file system, and what it resolved is recorded."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import yaml

from stele.host import proc
from stele.seal.sources import root_tar
from stele.seal.sources.source import Input
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.seal.sources.source import Limits, Source

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?\Z", re.ASCII)
_WORD = re.compile(r"[a-z0-9][a-z0-9.-]*\Z", re.ASCII)
_MIRROR = re.compile(r"(https?|file)://[!-~]+\Z", re.ASCII)
_SNAPSHOT = re.compile(r"[0-9]{8}T[0-9]{6}Z\Z", re.ASCII)
_TIMEOUT = 3600.0  # seconds
# made by installing, different each time or on each machine, and of no use to an application
_REMOVE = (
    "etc/resolv.conf", "etc/hostname", "etc/machine-id", "var/lib/dbus/machine-id", "var/cache/ldconfig/aux-cache", "var/log/apt/*",
    "var/log/dpkg.log", "var/log/alternatives.log", "var/log/bootstrap.log", "var/cache/apt/*.bin", "var/lib/apt/lists/*",
    "var/lib/systemd/catalog/database",
)  # fmt: skip


# asks apt what the installed versions are in the archive, before its lists are removed
_RESOLVED = (
    'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-cache show --no-all-versions '
    '$(dpkg-query --admindir="$1/var/lib/dpkg" -W -f "\\${Package}:\\${Architecture}=\\${Version} ") > "$1/stele-resolved"'
)


class _List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file. `snapshot`: an instant of snapshot.debian.org, in place of a mirror."""

    debian: Literal[0]
    suite: str
    packages: tuple[str, ...] = ()
    variant: Literal["essential", "apt", "minbase", "custom"] = "minbase"
    components: tuple[str, ...] = ("main",)
    mirror: str = ""
    snapshot: str = ""
    architecture: str = ""


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"the package list is not valid: {reason}",
        remedy="see docs/spec/sources.md, Debian package lists, for what it may say",
        code="seal.bad-package-list",
    )


def parse(data: bytes) -> _List:
    """Check a package list.

    Raises:
        SteleError: `seal.bad-package-list`.
    """
    try:
        found = msgspec.convert(yaml.safe_load(data) if len(data) <= 1 << 20 else None, _List)
    except (yaml.YAMLError, msgspec.ValidationError, RecursionError, ValueError) as error:
        raise _bad(str(error)) from error
    if wrong := [name for name in found.packages if not _NAME.match(name)]:
        raise _bad(f"{wrong[0][:80]!r} is not a package's name, or name=version")
    if not all(_WORD.match(word) for word in (found.suite, *found.components, *filter(None, [found.architecture]))):
        raise _bad("suite, components and architecture are single words")
    if (found.mirror and not _MIRROR.match(found.mirror)) or (found.snapshot and not _SNAPSHOT.match(found.snapshot)):
        raise _bad("the mirror must be an http, https or file URL, a snapshot an instant as 20260101T000000Z")
    if found.mirror and found.snapshot:
        raise _bad("a snapshot is a mirror: give one of them")
    return found


def load(path: Path, *, time: int, limits: Limits) -> Source:
    """Make and read the root file system of a package list. Needs the network, and root or user namespaces.

    Raises:
        SteleError: `seal.bad-package-list`, `host.program-*`, and those of `root_tar.load`.
    """
    wanted = parse(path.read_bytes())
    with tempfile.TemporaryDirectory(prefix="stele-debian-") as name:
        work = Path(name)
        work.chmod(0o755)  # in a user namespace the root file system is made by another id, which must get there
        argv = ["mmdebstrap", f"--variant={wanted.variant}", "--format=tar", f"--components={','.join(wanted.components)}"]
        argv += [f"--include={','.join(wanted.packages)}"] if wanted.packages else []
        argv += [f"--architectures={wanted.architecture}"] if wanted.architecture else []
        argv += ["--aptopt=Acquire::Check-Valid-Until false"] if wanted.snapshot else []
        # the hook writes into the root file system: in a user namespace it may write nowhere else
        argv += [f"--customize-hook={_RESOLVED}", f"--customize-hook=download /stele-resolved {work}/resolved"]
        argv += ['--customize-hook=cd "$1" && rm -rf stele-resolved ' + " ".join(_REMOVE) + " && touch etc/machine-id"]
        argv += [wanted.suite, str(work / "root.tar")]
        mirror = wanted.mirror or (f"http://snapshot.debian.org/archive/debian/{wanted.snapshot}/" if wanted.snapshot else "")
        env = {**proc.CLEAN_ENV, "SOURCE_DATE_EPOCH": str(time), "TMPDIR": str(work)}
        env |= {key: os.environ[key] for key in ("http_proxy", "https_proxy", "no_proxy") if key in os.environ}
        proc.run(argv + ([mirror] if mirror else []), timeout=_TIMEOUT, env=env)
        source = root_tar.load(work / "root.tar", kind="debian", time=time, limits=limits)
        resolved = tuple(_resolved((work / "resolved").read_bytes(), wanted.suite))
    note = f"{wanted.suite}: {len(resolved)} packages resolved"
    # the archive's own digest says nothing: it holds times. What identifies the input is what was resolved
    return msgspec.structs.replace(source, inputs=resolved, notes=(*source.notes, note), input_digest="")


def _resolved(data: bytes, suite: str) -> Iterator[Input]:
    for paragraph in data.decode("utf-8", "replace").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.split("\n") if ": " in line and not line.startswith(" "))
        name, version, architecture = (fields.get(key, "") for key in ("Package", "Version", "Architecture"))
        digest = fields.get("SHA256", "")
        if name and version and re.fullmatch(r"[0-9a-f]{64}", digest):
            yield Input(uri=f"pkg:deb/debian/{name}@{version}?arch={architecture}&distro={suite}", digest="sha256:" + digest)
