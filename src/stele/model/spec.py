"""The spec: the declarative `stele.yaml` a release is sealed and deployed from (docs/spec/spec.md).

The same record, less the local paths of its settings' sources, is sealed into the release.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from typing import Any, Literal

import msgspec

from stele.model.units import parse_duration_ms, parse_size
from stele.trust.digest import parse_digest
from stele.trust.errors import SteleError

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z", re.ASCII)
DEFAULT_TIME = 315_532_800  # 1980-01-01T00:00:00Z: the earliest time that zip and its kin can express


_NOT_OURS = frozenset({"/", "/proc", "/sys", "/dev"})


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frozen; unknown fields are refused."""


class Port(_Record, frozen=True):
    """A TCP port of the instance; `host` publishes it on the host (0: not published)."""

    container: int
    host: int = 0
    name: str = "http"


class Writable(_Record, frozen=True):
    """A declared writable path: `tmpfs` (dies with the instance) or `volume` (named, kept)."""

    path: str
    kind: Literal["tmpfs", "volume"] = "tmpfs"
    volume: str = ""
    size: str = "16MiB"
    mode: str = "1777"
    owner: str = "0:0"


class Data(_Record, frozen=True):
    """A data set that is mounted read-only: `release`, its digest, at `path`."""

    path: str
    release: str


class Setting(_Record, frozen=True):
    """A settings file, sealed into the last stratum. `source` is relative to the spec's folder."""

    path: str
    source: str = ""
    content: str | None = None
    mode: str = "0644"
    owner: str = "0:0"


class Health(_Record, frozen=True):
    """When an instance is healthy: an HTTP path that answers 2xx/3xx, or (without `http`) a TCP connect."""

    port: int
    http: str = ""
    interval: str = "1s"
    timeout: str = "2s"
    start: str = "15s"
    retries: int = 3


class Stop(_Record, frozen=True):
    """How an instance is asked to finish, and how long it may take before it is killed."""

    signal: Literal["TERM", "QUIT", "INT", "HUP", "USR1", "USR2", "WINCH"] = "TERM"
    grace: str = "10s"


class Network(_Record, frozen=True):
    """What the instance may reach: `none` (it only answers) or `any` (masqueraded)."""

    egress: Literal["none", "any"] = "none"


class Watch(_Record, frozen=True):
    """What each kind of violation leads to: `freeze` (quarantine, replace) or `report` (record only)."""

    exec: Literal["freeze", "report"] = "freeze"
    forbidden: Literal["freeze", "report"] = "freeze"
    scripts: Literal["freeze", "report"] = "freeze"
    mounts: Literal["freeze", "report"] = "freeze"
    writes: Literal["freeze", "report"] = "report"
    changes: Literal["report", "ignore"] = "report"


class Respond(_Record, frozen=True):
    """Limits of the response: incidents within `window` before the release itself is quarantined."""

    max_incidents: int = 5
    window: str = "10m"
    evidence_budget: str = "2GiB"
    confirm: str = "5s"


class Resources(_Record, frozen=True):
    """cgroup limits of one instance."""

    memory: str = "512MiB"
    pids: int = 256


class Allowed(_Record, frozen=True):
    """A finding of the search for credentials that may be sealed: where, by which rule, and why it is no secret."""

    path: str
    rule: str
    reason: str


class Secrets(_Record, frozen=True):
    """What the search for credentials is told (docs/spec/secrets.md)."""

    allow: tuple[Allowed, ...] = ()


class Spec(_Record, frozen=True):
    """A workload's declaration. Field docs: docs/spec/spec.md."""

    stele: Literal[0]
    name: str
    kind: Literal["workload", "dataset"] = "workload"
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    user: str = "0:0"
    workdir: str = "/"
    hostname: str = ""
    ports: tuple[Port, ...] = ()
    writable: tuple[Writable, ...] = ()
    data: tuple[Data, ...] = ()
    settings: tuple[Setting, ...] = ()
    health: Health | None = None
    stop: Stop = Stop()
    network: Network = Network()
    watch: Watch = Watch()
    respond: Respond = Respond()
    resources: Resources = Resources()
    secrets: Secrets = Secrets()
    time: int = DEFAULT_TIME


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"the spec is not valid: {reason}",
        remedy="correct stele.yaml; `stele init` writes a commented starter and `stele init --schema` prints the JSON Schema",
        code="spec.invalid",
    )


def parse_yaml(data: bytes) -> Spec:
    """Parse and check a `stele.yaml`.

    Raises:
        SteleError: `spec.invalid`, `spec.bad-size`, `spec.bad-duration`.
    """
    return from_builtins(load_yaml(data))


def load_yaml(data: bytes) -> Any:
    """Plain data from YAML's safe subset: no key twice, no aliases, at most 1 MiB.

    Raises:
        SteleError: `spec.invalid`.
    """
    if len(data) > 1 << 20:
        raise _bad("it is larger than 1 MiB")
    if b"&" in data and re.search(rb"(^|[\s\[,{:-])[&*][A-Za-z0-9_]", data, re.MULTILINE):
        # aliases allow exponential expansion; no spec needs them
        raise _bad("YAML anchors and aliases are not accepted")
    from stele.model import plain_yaml  # whoever reads sealed specs needs no YAML

    try:
        return plain_yaml.load(data)
    except plain_yaml.BadYamlError as error:
        raise _bad(str(error)) from error


def from_builtins(raw: Any) -> Spec:
    """Build and check a Spec from plain data (see `parse_yaml` for errors)."""
    try:
        spec = msgspec.convert(raw, Spec)
    except msgspec.ValidationError as error:
        raise _bad(str(error)) from error
    check(spec)
    return spec


def clean_path(path: str, what: str) -> str:
    """Return an absolute, normal path inside the release.

    Raises:
        SteleError: `spec.invalid`.
    """
    if not path.startswith("/") or "\0" in path or posixpath.normpath(path) != path or path.startswith("//"):
        raise _bad(f"{what} {path!r} is not an absolute path without '.', '..', or trailing '/'")
    return path


def check(spec: Spec) -> None:
    """Everything that types cannot say.

    Raises:
        SteleError: `spec.invalid`, `spec.bad-size`, `spec.bad-duration`.
    """
    if not NAME.match(spec.name):
        raise _bad(f"name {spec.name!r}: lower-case letters, digits and inner hyphens, at most 40")
    if spec.kind == "dataset":
        _check_dataset(spec)
    elif not spec.command or not all(spec.command[:1]):
        raise _bad("command: at least the program is needed")
    elif not spec.command[0].startswith("/"):
        raise _bad(f"command: {spec.command[0]!r} must be an absolute path, so that what runs cannot depend on PATH")
    if any("\0" in part for part in (*spec.command, *spec.env.values())) or any("=" in key or not key or "\0" in key for key in spec.env):
        raise _bad("command or env holds a NUL byte, or an env name holds '='")
    parse_owner(spec.user)
    clean_path(spec.workdir, "workdir")
    if not 0 <= spec.time < 2**33:
        raise _bad("time: seconds since 1970, below 2^33")
    _check_ports(spec)
    _check_paths(spec)
    if any(not entry.path or not entry.rule or not entry.reason.strip() for entry in spec.secrets.allow):
        raise _bad("secrets: allow: path, rule and reason are all needed; the reason is sealed for whoever reads the release")
    for text in (spec.stop.grace, spec.respond.window, spec.respond.confirm):
        parse_duration_ms(text)
    for size in (spec.resources.memory, spec.respond.evidence_budget):
        parse_size(size)
    if spec.health is not None:
        for text in (spec.health.interval, spec.health.timeout, spec.health.start):
            parse_duration_ms(text)
        if spec.health.port not in {port.container for port in spec.ports}:
            raise _bad(f"health: port {spec.health.port} is not among ports")
        if spec.health.http and (not spec.health.http.startswith("/") or re.search(r"[\s\0]", spec.health.http)):
            raise _bad("health: http must be a path that starts with '/'")


def _check_dataset(spec: Spec) -> None:
    """A data set says what it is called, what it holds, and nothing of running."""
    own = {"stele", "name", "kind", "settings", "time", "secrets"}
    plain = Spec(stele=0, name=spec.name)
    if said := [name for name in Spec.__struct_fields__ if name not in own and getattr(spec, name) != getattr(plain, name)]:
        raise _bad(f"{said[0]}: a data set does not run; it has a name, settings, time and secrets only")


def _check_ports(spec: Spec) -> None:
    for port in spec.ports:
        if not 1 <= port.container <= 65535 or not 0 <= port.host <= 65535:
            raise _bad(f"ports: {port.container}/{port.host} is out of range")
    published = [port.host for port in spec.ports if port.host]
    if len(set(published)) != len(published) or len({p.container for p in spec.ports}) != len(spec.ports):
        raise _bad("ports: a port is named twice")


def _check_paths(spec: Spec) -> None:
    paths = [clean_path(item.path, "writable path") for item in spec.writable]
    for item in spec.writable:
        parse_size(item.size)
        _mode(item.mode)
        parse_owner(item.owner)
        if item.path in _NOT_OURS or item.path.startswith(("/proc/", "/sys/", "/dev/")):
            raise _bad(f"writable: {item.path} cannot be made writable")
        if (item.kind == "volume") != bool(item.volume) or (item.volume and not NAME.match(item.volume)):
            raise _bad(f"writable {item.path}: kind volume needs a volume name (and only it)")
    data = [clean_path(item.path, "data path") for item in spec.data]
    for held in spec.data:
        parse_digest(held.release)
        if held.path in _NOT_OURS or held.path.startswith(("/proc/", "/sys/", "/dev/")):
            raise _bad(f"data: nothing can be mounted at {held.path}")
    for one, other in itertools.permutations([*data, *paths], 2):
        if (one in data or other in data) and (one == other or one.startswith(other + "/")):
            raise _bad(f"data: {one} and {other} are mounted over each other")
    settings = [clean_path(item.path, "settings path") for item in spec.settings]
    for setting in spec.settings:
        _mode(setting.mode)
        parse_owner(setting.owner)
        for path in (*paths, *data):
            if setting.path == path or setting.path.startswith(path + "/"):
                raise _bad(f"settings {setting.path} lies on {path}, where something is mounted: it would be hidden")
    if len(set(paths)) != len(paths) or len(set(settings)) != len(settings):
        raise _bad("a writable or settings path is named twice")


def _mode(text: str) -> int:
    if not re.fullmatch(r"[0-7]{3,4}", text, re.ASCII):
        raise _bad(f"mode {text!r}: three or four octal digits")
    return int(text, 8)


def parse_mode(text: str) -> int:
    """Permission bits of an octal mode string such as `0644`."""
    return _mode(text)


def parse_owner(text: str) -> tuple[int, int]:
    """`uid:gid` as numbers.

    Raises:
        SteleError: `spec.invalid`.
    """
    match = re.fullmatch(r"(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,4})", text, re.ASCII)
    if not match or int(match[1]) > 65535 or int(match[2]) > 65535:
        raise _bad(f"owner {text!r}: two numbers 'uid:gid' below 65536")
    return int(match[1]), int(match[2])


def sealed(spec: Spec) -> dict[str, Any]:
    """The spec as it is sealed: plain data; settings' contents are in the tree, their local sources dropped."""
    settings = tuple(Setting(path=s.path, mode=s.mode, owner=s.owner) for s in spec.settings)
    plain = msgspec.to_builtins(msgspec.structs.replace(spec, settings=settings))
    assert isinstance(plain, dict)
    if spec.kind == "workload":
        del plain["kind"]
    if not spec.data:
        del plain["data"]
    if not spec.secrets.allow:
        del plain["secrets"]  # nothing was allowed, nothing is said: the label is as it was before there were secrets
    return plain


def json_schema() -> dict[str, Any]:
    """The published JSON Schema (2020-12) of `stele.yaml`."""
    schema = msgspec.json.schema(Spec)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "stele.yaml", **schema}
