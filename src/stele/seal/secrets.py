"""Finding credentials in what is about to be sealed (docs/spec/secrets.md). Names where they are, never what they are.

Content is judged by `secret_rules`, and once: contents that were clean are remembered by digest. Names of files that hold
credentials by their purpose, and the spec's environment, are judged anew each time, because they are few.
"""

from __future__ import annotations

import posixpath
import re
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stele.model.tree import quote
from stele.seal import secret_rules
from stele.seal.secret_rules import Late
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from stele.model.ports import ContentReader
    from stele.model.spec import Allowed, Spec
    from stele.model.tree import Node, Tree

BATCH = 1 << 20  # bytes that are searched at a time
WHOLE = 16 << 20  # bytes: of a larger file, only the first HEAD are looked at
HEAD = 1 << 20
PROBE = 4096  # bytes in which a NUL makes a file binary
BINARY = 64 << 10  # bytes: a larger binary file is not looked at
SMALL = 1 << 20  # bytes: a file that its name singles out is read up to here
SHOWN = 10  # findings that an error names

_OPEN_PLACES = (b"etc", b"root", b"home", b"srv", b"var/www", b"opt")  # below which packaged files are there to be edited
_RECORDS = (
    b"var/lib/dpkg/", b"var/lib/apt/lists/", b"lib/apk/db/", b"usr/lib/apk/db/", b"var/lib/rpm/", b"usr/lib/sysimage/rpm/",
    b"var/cache/debconf/templates.dat",
)  # fmt: skip
_TEST = Late(
    rb"(?:^|/)(?:[^/]*[._-])?(?:tests?|testing|selftest|__tests__|testdata|fixtures?|examples?|samples?|demos?|docs?|mocks?|specs?)"
    rb"(?:[._-][^/]*)?(?:/|$)|\.(?:md|rst|adoc)$|(?:^|/)(?:README|CHANGELOG|CHANGES|HISTORY)[^/]*$",
    re.IGNORECASE,
)
_THIRD_PARTY = Late(rb"(?:^|/)(?:site-packages|dist-packages|node_modules)/")
_PUBLIC = Late(rb"(?:^|/)ssl-cert-snakeoil\.(?:key|pem)$")  # Debian's own, for a host that talks to itself
_ASSIGNED = Late(
    rb"^[ \t,{]*(?:export[ \t]+)?[\"']?([A-Za-z_][A-Za-z0-9_.-]{0,100})[\"']?[ \t]*[=:][ \t]*[\"']?([^\s\"'#]{6,500})", re.MULTILINE
)
_SECRET_NAME = Late(
    rb"(?:^|[_.-])(?:password|passwd|passphrase|pwd|pass|secret|token|api_?key|access_?key|secret_?key|private_?key|credentials?)$",
    re.IGNORECASE,
)
_LOGIN = Late(rb"\b(?:password|passwd)[ \t\r\n]+([^\s]{3,200})")
_NAMED: tuple[tuple[Late, str, Late], ...] = (
    (Late(rb"(?:^|/)[._]netrc$"), "netrc", _LOGIN),
    (Late(rb"(?:^|/)\.pypirc$"), "pypirc", Late(rb"^[ \t]*password[ \t]*[=:][ \t]*([^\s]{3,500})", re.MULTILINE)),
    (Late(rb"(?:^|/)\.git-credentials$"), "git-credentials", Late(rb"://([^\s:@/]+:[^\s@/]+)@")),
    (
        Late(rb"(?:^|/)(?:\.docker/config\.json|\.dockercfg|\.dockerconfigjson|containers/auth\.json)$"),
        "docker-credentials",
        Late(rb'"(?:auth|password|identitytoken|registrytoken)"\s*:\s*"([A-Za-z0-9+/=_.-]{8,})"'),
    ),
    (Late(rb"(?:^|/)\.pgpass$"), "pgpass", Late(rb"^[^#\n][^:\n]*:[^:\n]*:[^:\n]*:[^:\n]*:([^\s]{3,200})", re.MULTILINE)),
    (Late(rb"(?:^|/)\.npmrc$"), "npm-token", Late(rb"_(?:auth|password)[ \t]*=[ \t]*[\"']?([A-Za-z0-9+/=]{8,})")),
    (Late(rb"(?:^|/)[^/]+\.keytab$"), "kerberos-keytab", Late(rb"\A\x05[\x01\x02]\x00\x00")),
    (Late(rb"(?:^|/)[^/]+\.(?:p12|pfx)$", re.IGNORECASE), "pkcs12-file", Late(rb"\A\x30[\x80-\x84]")),
    (Late(rb"^etc/shadow-?$"), "password-hash", Late(rb"^[^:\n]+:(\$[^:\n]{8,}):", re.MULTILINE)),
)
_ENV_FILE = Late(rb"(?:^|/)(?:\.env(?:\.[A-Za-z0-9_-]+)?|[^/]+\.env)$")
_TEMPLATE = Late(rb"\.(?:example|sample|template|dist)$")
_ONLY_TOLD = frozenset({"pkcs12-file", "password-hash"})  # a file of certificates looks the same; a hash is not the password
_ENDINGS = (
    b"netrc", b".pypirc", b".git-credentials", b"config.json", b".dockercfg", b".dockerconfigjson", b"auth.json", b".pgpass",
    b".npmrc", b".keytab", b".p12", b".pfx", b".P12", b".PFX", b"etc/shadow", b"etc/shadow-", b".env",
)  # fmt: skip


class Finding(NamedTuple):
    """A credential that was found: in which file (or `spec: env NAME`), at which line (1 is the first), by which rule."""

    place: str
    line: int
    rule: str


class Report(msgspec.Struct, frozen=True):
    """What was found. `refused` forbids the seal; `told` does not; `allowed` is what the spec allows.

    `unused`: what the spec allows and is not there. `clean`: digests (64 hex digits) of contents that were looked at now, and hold
    nothing. `files`, `size`: how many were looked at, and how many bytes of them.
    """

    refused: tuple[Finding, ...]
    told: tuple[Finding, ...]
    allowed: tuple[Finding, ...]
    unused: tuple[Allowed, ...]
    clean: tuple[str, ...]
    files: int
    size: int

    def check(self) -> None:
        """Refuse what must not be sealed.

        Raises:
            SteleError: `seal.secret-found`.
        """
        if not self.refused:
            return
        shown = "; ".join(f"{item.place}, line {item.line} ({item.rule})" for item in self.refused[:SHOWN])
        more = len(self.refused) - SHOWN
        raise SteleError(
            f"this would seal credentials into the release: {shown}" + (f"; and {more} more" if more > 0 else ""),
            remedy="take them out and give them to the instance in a volume, and replace what was already passed on; what is no secret is "
            "named in the spec under `secrets: allow:` with path, rule and reason (docs/spec/secrets.md)",
            code="seal.secret-found",
        )


def scan(tree: Tree, contents: ContentReader, spec: Spec, packaged: Iterable[bytes] = (), known: Collection[str] = frozenset()) -> Report:
    """Look for credentials in a tree and its spec.

    Args:
        tree: the whole tree, settings included.
        contents: the bytes of its files.
        spec: its `env` and `command` are looked at, and its `secrets.allow` heeded.
        packaged: paths that belong to the distribution's packages; they are left out, except where packaged files are edited.
        known: digests (64 hex digits) of contents that these rules found clean before.

    Raises:
        SteleError: those of `contents`.
    """
    left_out = set(packaged).difference(*([node.path for node in tree.below(place)] for place in _OPEN_PLACES))
    files = [
        node
        for node in tree.nodes
        if node.kind == "file" and node.size and node.path not in left_out and not node.path.startswith(_RECORDS)
    ]
    search = _Search(contents)
    search.run({node.sha256: node for node in files if node.sha256 not in known and not _is_derived(node.path)})
    found = [(node, line, rule) for node in files if node.sha256 in search.found for line, rule in search.found[node.sha256]]
    settings = {setting.path.encode("utf-8", "surrogateescape")[1:] for setting in spec.settings}
    for node in files:
        if node.path.endswith(_ENDINGS) or b"/.env" in node.path or node.path in settings:
            found += [(node, line, rule) for line, rule in _by_name(node, contents, setting=node.path in settings)]
    items = {Finding(_place(node), line, rule): _is_told(node.path, rule) for node, line, rule in found}
    items |= dict.fromkeys(_of_spec(spec), False)
    used: set[Allowed] = set()
    sides: tuple[list[Finding], list[Finding], list[Finding]] = ([], [], [])
    for item, told in sorted(items.items()):
        by = next((entry for entry in spec.secrets.allow if _covers(entry, item)), None)
        used |= {by} if by else set()
        sides[2 if by else int(told)].append(item)
    return Report(
        refused=tuple(sides[0]),
        told=tuple(sides[1]),
        allowed=tuple(sides[2]),
        unused=tuple(entry for entry in spec.secrets.allow if entry not in used),
        clean=tuple(digest for digest in search.read if digest not in search.found),
        files=len(search.read),
        size=search.size,
    )


class _Search:
    """Reads contents in batches, so that each rule's pass is over many small files at once.

    `found`: line and rule of what each content holds. `read`: the digests of all that were looked at. `size`: bytes.
    """

    def __init__(self, contents: ContentReader) -> None:
        self._contents = contents
        self._parts: list[bytes] = []
        self._digests: list[str] = []
        self._starts: list[int] = []
        self._held = 0
        self.found: dict[str, list[tuple[int, str]]] = {}
        self.read: list[str] = []
        self.size = 0

    def run(self, nodes: Mapping[str, Node]) -> None:
        """Look at these contents, each named by its digest."""
        for digest, node in nodes.items():
            self.read.append(digest)
            data = self._data(node)
            if data:
                self._starts.append(self._held)
                self._digests.append(digest)
                self._parts.append(data)
                self._held += len(data) + 1
                if self._held >= BATCH:
                    self._flush()
        self._flush()

    def _data(self, node: Node) -> bytes:
        """What is looked at of a content; nothing of a large binary one."""
        parts: list[bytes] = []
        for piece in self._contents.chunks(node.sha256, BINARY):
            if not parts and node.size > BINARY and b"\0" in piece[:PROBE]:
                return b""
            parts.append(piece)
            if node.size > WHOLE and len(parts) * BINARY >= HEAD:
                break
        data = b"".join(parts)
        self.size += len(data)
        return data

    def _flush(self) -> None:
        data = b"\0".join(self._parts)  # no rule matches across it
        for match in secret_rules.matches(data):
            at = bisect_right(self._starts, match.start) - 1
            begin = self._starts[at]
            if match.end <= begin + len(self._parts[at]):
                line = data.count(b"\n", begin, match.start) + 1
                self.found.setdefault(self._digests[at], []).append((line, match.rule))
        self._parts, self._digests, self._starts, self._held = [], [], [], 0


def _by_name(node: Node, contents: ContentReader, *, setting: bool) -> Iterator[tuple[int, str]]:
    """Line and rule of credentials in a file that its name or its place among the settings singles out."""
    if node.size > SMALL:
        return
    data = contents.read(node.sha256)
    for pattern, rule, value in _NAMED:
        if pattern().search(node.path):
            for found in value().finditer(data):
                if not value().groups or not secret_rules.is_placeholder(found[1]):
                    yield data.count(b"\n", 0, found.start()) + 1, rule
    if setting or (_ENV_FILE().search(node.path) and not _TEMPLATE().search(node.path)):
        for found in _ASSIGNED().finditer(data):
            if is_secret_value(found[1], found[2]):
                yield data.count(b"\n", 0, found.start(1)) + 1, "env-secret"


def is_secret_value(name: bytes, value: bytes) -> bool:
    """Whether `name=value` is a credential by its name, and by a value that is none of the usual stand-ins."""
    return _SECRET_NAME().search(name) is not None and secret_rules.is_password(name, value) and secret_rules.entropy(value) >= 2.5


def _of_spec(spec: Spec) -> Iterator[Finding]:
    for name, value in sorted(spec.env.items()):
        key, raw = name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")
        place = f"spec: env {quote(key)[:100]}"
        for match in secret_rules.matches(raw):
            yield Finding(place, 1, match.rule)
        if is_secret_value(key, raw):
            yield Finding(place, 1, "env-secret")
    for at, argument in enumerate(spec.command):
        for match in secret_rules.matches(argument.encode("utf-8", "surrogateescape")):
            yield Finding(f"spec: command[{at}]", 1, match.rule)


def _is_told(path: bytes, rule: str) -> bool:
    """Whether a finding is only told: what others published in their packages' tests and texts is no secret of ours."""
    if rule in _ONLY_TOLD or _PUBLIC().search(path) or path.startswith((b"usr/share/doc/", b"usr/share/man/")):
        return True
    third = _THIRD_PARTY().search(path)
    return third is not None and _TEST().search(path, third.end()) is not None


def _is_derived(path: bytes) -> bool:
    """Whether it only repeats what is looked at elsewhere: source maps and type declarations of published packages."""
    return path.endswith((b".map", b".d.ts", b".d.mts", b".d.cts")) and _THIRD_PARTY().search(path) is not None


def _covers(entry: Allowed, item: Finding) -> bool:
    folder = entry.path.endswith("/*") and posixpath.dirname(item.place) == entry.path[:-2]
    return entry.rule == item.rule and (entry.path == item.place or folder)


def _place(node: Node) -> str:
    return "/" + quote(node.path)[:500]
