"""What a credential looks like (docs/spec/secrets.md, Rules). Pure: bytes in, matches out.

Every pattern begins with a literal, and is compiled when that is met: one pass costs about 0.4 ms per MB. Patterns of tokens
follow those of gitleaks v8.28.0 (MIT License, Copyright (c) 2019 Zachary Rice; its notice is in docs/spec/secrets.md).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION = "1"  # of the rules: a content that was clean under others is looked at again
REACH = 8192  # bytes around a match that its check may look at
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


class Late:
    """A pattern that is compiled when it is first asked for: most seals need few of these, and compiling all takes as long as they do."""

    def __init__(self, pattern: bytes, flags: int = 0) -> None:
        self._pattern, self._flags = pattern, flags
        self._compiled: re.Pattern[bytes] | None = None

    def __call__(self) -> re.Pattern[bytes]:
        """Compiled."""
        if self._compiled is None:
            self._compiled = re.compile(self._pattern, self._flags)
        return self._compiled


_PLACEHOLDERS = Late(
    rb"example|x{5}|\*{3}|\.{3}|0{8}|1234567|abcdefg|changeme|change[-_]me|replace[-_]?(?:me|with)|your[-_ ]?|placeholder|dummy|"
    rb"redacted|insert|<[^>]*>|\$\{|\$\(|\{\{|%\(|%s",
    re.IGNORECASE,
)


class Rule(msgspec.Struct, frozen=True):
    """A pattern. Group 1, else the whole match, is the value.

    `entropy`: the least of the value, bits per byte. `holds`: a last check, of the data and where the value begins and ends; without
    one, a value that is a placeholder does not count. `starts`: what stands before must not be a letter, a digit or '_'.
    """

    name: str
    pattern: bytes
    entropy: float = 0.0
    holds: Callable[[bytes, int, int], bool] | None = None
    starts: bool = True


def entropy(value: bytes) -> float:
    """Shannon entropy, bits per byte."""
    size = len(value)
    return -sum(count / size * math.log2(count / size) for count in Counter(value).values()) if size else 0.0


def is_placeholder(value: bytes) -> bool:
    """Whether a value only stands where a credential would."""
    return _PLACEHOLDERS().search(value) is not None or len(set(value)) < 4


def _is_key(data: bytes, _start: int, end: int) -> bool:
    """Whether what follows a PEM header is a key, and not a placeholder in a text about keys."""
    armoured = data[end : end + REACH].partition(b"-----END")[0].partition(b"\0")[0].replace(b"\\n", b"\n").replace(b"\\r", b"")
    lines = [line.strip(b"\"'+, \t\r#*/;") for line in armoured.split(b"\n")]
    body = b"".join(line for line in lines if b":" not in line)
    head = re.match(rb"[A-Za-z0-9+/]*", body)
    if head is None or head.end() < 60:
        return False
    raw = base64.b64decode(head[0][: head.end() // 4 * 4])
    # a DER sequence, OpenSSH's own form, an OpenPGP packet; one that is encrypted the old way looks like noise
    return raw[0] == 0x30 or raw[0] >= 0xC0 or raw[0] >> 2 == 0x25 or raw.startswith(b"openssh-key-v1") or b"ENCRYPTED" in armoured


def _is_private_jwk(data: bytes, start: int, end: int) -> bool:
    """Whether the JSON Web Key around a `kty` holds its private part."""
    before = data[max(0, start - REACH) : start].rpartition(b"\0")[2].rpartition(b"{")[2]
    after = data[end : end + REACH].partition(b"\0")[0].partition(b"}")[0]
    return re.search(rb'"(?:d|k)"\s*:\s*"[A-Za-z0-9_-]{16,}"', before + b" " + after) is not None


def _is_jwt(data: bytes, start: int, end: int) -> bool:
    """Whether the first two parts are JSON objects, and the third is not a placeholder."""
    parts = data[start:end].split(b".")
    for part in parts[:2]:
        try:
            if not base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)).lstrip().startswith(b'{"'):
                return False
        except binascii.Error:
            return False
    return entropy(parts[2]) >= 3.0


def is_password(name: bytes, value: bytes) -> bool:
    """Whether the value of a password, token or secret called `name` is one, and not a word that stands for it."""
    plain = value.lower()
    return not (
        len(value) < 6
        or is_placeholder(value)
        or plain in {b"password", b"passwd", b"secret", b"example", b"disabled", b"enabled", b"optional", b"required", name.lower()}
        or value[:1] in b"$%{<:[/"
        or plain.endswith((b"_password", b"_secret", b"_token", b".txt", b".pem"))
    )


def _in_url(data: bytes, start: int, end: int) -> bool:
    name, _, password = data[start:end].partition(b":")
    return is_password(name, password)


_LITERAL = re.compile(rb"(?:[^\\.^$*+?{}\[\]|()]|\\\.)*(?![*?{])")


def literal(pattern: bytes) -> bytes:
    """The bytes with which every match of a pattern begins."""
    found = _LITERAL.match(pattern)
    return found[0].replace(rb"\.", b".") if found else b""


RULES: tuple[Rule, ...] = (
    Rule(
        "private-key",
        rb"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----",
        holds=_is_key,
        starts=False,
    ),
    Rule("private-key", rb"PuTTY-User-Key-File-[123]: [a-z0-9-]+\s[^\0]{0,2000}?Private-Lines: [1-9]"),
    Rule("private-key", rb"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    Rule("json-web-key", rb'"kty"\s*:\s*"(?:RSA|EC|OKP|oct)"', holds=_is_private_jwk, starts=False),
    Rule("json-web-token", rb"eyJ[A-Za-z0-9_-]{14,}\.eyJ[A-Za-z0-9_-]{14,}\.[A-Za-z0-9_-]{20,}", holds=_is_jwt),
    Rule("aws-access-key", rb"AKIA[A-Z2-7]{16}(?![A-Za-z0-9])", 3.0),
    Rule("aws-access-key", rb"ASIA[A-Z2-7]{16}(?![A-Za-z0-9])", 3.0),
    Rule("aws-secret-key", rb"aws_secret_access_key[\"']?\s{0,3}[=:]\s{0,3}[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])", 3.5),
    Rule("google-api-key", rb"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])", 4.0),
    Rule("google-oauth-secret", rb"GOCSPX-[A-Za-z0-9_-]{28}", 3.5),
    Rule("azure-storage-key", rb"AccountKey=([A-Za-z0-9+/]{86}==)", 4.0),
    Rule("azure-shared-access-key", rb"SharedAccessKey=([A-Za-z0-9+/]{43}=)", 4.0),
    Rule("github-token", rb"gh[pousr]_[0-9A-Za-z]{36}", 3.0),
    Rule("github-token", rb"github_pat_[0-9A-Za-z_]{82}", 3.0),
    Rule("gitlab-token", rb"gl(?:pat|rt|dt|ptt|cbt|ft|soat|oas|agent|imt|ffct)-[0-9A-Za-z_.-]{20,300}", 3.0),
    Rule("gitlab-token", rb"GR1348941[0-9A-Za-z_-]{20}", 3.0),
    Rule("slack-token", rb"xox[abeoprs](?:\.xox[bp])?-[0-9A-Za-z]{1,13}-[0-9A-Za-z-]{8,250}", 3.0),
    Rule("slack-token", rb"xapp-[0-9]-[A-Z0-9]{6,20}-[0-9]{6,20}-[a-z0-9]{20,}", 3.0),
    Rule("slack-webhook", rb"hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9+/]{43,56})", 3.5, starts=False),
    Rule("teams-webhook", rb"\.webhook\.office\.com/webhookb2/([a-z0-9@-]{60,90}/IncomingWebhook/[a-z0-9]{32})", starts=False),
    Rule("stripe-key", rb"sk_(?:live|prod|test)_[0-9A-Za-z]{16,99}", 3.0),
    Rule("stripe-key", rb"rk_(?:live|prod|test)_[0-9A-Za-z]{16,99}", 3.0),
    Rule("npm-token", rb"npm_[0-9A-Za-z]{36}(?![0-9A-Za-z])", 3.0),
    Rule("npm-token", rb"_authToken\s{0,3}=\s{0,3}[\"']?([0-9A-Za-z_=./+-]{16,})", 2.5, starts=False),
    Rule("pypi-token", rb"pypi-AgE[0-9A-Za-z_-]{50,1000}", 3.0),
    Rule("rubygems-token", rb"rubygems_[a-f0-9]{48}", 3.0),
    Rule("docker-token", rb"dckr_(?:pat|oat)_[0-9A-Za-z_-]{27,}", 3.0),
    Rule("anthropic-key", rb"sk-ant-(?:api|admin|oat)[0-9]{2}-[0-9A-Za-z_-]{80,120}", 3.5),
    Rule("openai-key", rb"sk-(?:proj-|svcacct-|admin-)?[0-9A-Za-z_-]{20,74}T3BlbkFJ[0-9A-Za-z_-]{20,74}", 3.0),
    Rule("hugging-face-token", rb"hf_[A-Za-z]{34}(?![A-Za-z])", 3.0),
    Rule("sendgrid-key", rb"SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{43}", 3.5),
    Rule("twilio-key", rb"SK[0-9a-f]{32}(?![0-9A-Za-z])", 3.0),
    Rule("digitalocean-token", rb"do[opr]_v1_[a-f0-9]{64}", 3.0),
    Rule("shopify-token", rb"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}", 3.0),
    Rule("vault-token", rb"hv[sbr]\.[0-9A-Za-z_-]{90,300}", 3.5),
    Rule("grafana-token", rb"glsa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}", 3.0),
    Rule("grafana-token", rb"glc_eyJ[A-Za-z0-9+/=]{40,400}", 3.0),
    Rule("databricks-token", rb"dapi[a-f0-9]{32}(?![0-9A-Za-z])", 3.0),
    Rule("linear-key", rb"lin_api_[0-9A-Za-z]{40}", 3.0),
    Rule("postman-key", rb"PMAK-[a-fA-F0-9]{24}-[a-fA-F0-9]{34}", 3.0),
    Rule("kubernetes-client-key", rb"client-key-data:\s{0,4}([A-Za-z0-9+/=]{80,})", 4.0),
    Rule(
        "url-password",
        rb"://([A-Za-z0-9._%+~-]{1,100}:[^\s:@/\"'`<>(){}|\\^\[\],]{6,200})@(?=[A-Za-z0-9\[])",
        holds=_in_url,
        starts=False,
    ),
)
_BEGINNINGS = tuple((rule, literal(rule.pattern), Late(rule.pattern)) for rule in RULES)
NAMES = frozenset(rule.name for rule in RULES)


class Match(msgspec.Struct, frozen=True, gc=False):
    """Where a rule matched: offset of its value, and of what follows it. The value itself goes no further."""

    rule: str
    start: int
    end: int


def matches(data: bytes) -> Iterator[Match]:
    """Everything in `data` that looks like a credential, rule by rule."""
    for rule, begins, late in _BEGINNINGS:
        if begins not in data:
            continue
        pattern = late()
        group = 1 if pattern.groups else 0
        for found in pattern.finditer(data):
            start, end = found.span(group)
            if rule.starts and found.start() and data[found.start() - 1] in _WORD:
                continue
            if rule.entropy and entropy(data[start:end]) < rule.entropy:
                continue
            if not is_placeholder(data[start:end]) if rule.holds is None else rule.holds(data, start, end):
                yield Match(rule.name, start, end)
