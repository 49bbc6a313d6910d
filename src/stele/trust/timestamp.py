"""RFC 3161 timestamps of checkpoints: the request, and the verification of an answer offline. Pure.

What is stamped is the checkpoint's text with the ledger's own signatures, without what witnesses add later. A timestamp shows that the
ledger had signed this checkpoint by then. It does not show that there is no other one: an authority stamps whatever it is given.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from stele.trust import der, note
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from rfc3161_client.tsp import SignedData

MAX_TOKEN = 64 << 10  # bytes of an answer
REQUEST_TYPE, ANSWER_TYPE = "application/timestamp-query", "application/timestamp-reply"
_SHA256 = bytes.fromhex("300d06096086480165030402010500")  # AlgorithmIdentifier, DER
_SHA256_OID = "2.16.840.1.101.3.4.2.1"
MAX_CERTIFICATES = 16


class Stamp(NamedTuple):
    """What an authority says. `time_ns`: UTC since 1970; `accuracy_ns`: 0 where it does not say; `authority`: its certificate's subject."""

    time_ns: int
    accuracy_ns: int
    authority: str
    policy: str
    serial: int


def bad(reason: str) -> SteleError:
    """The error for a timestamp that is not believed."""
    return SteleError(
        f"the timestamp is not believed: {reason}",
        remedy="it was altered, is of another checkpoint, or is by an authority that you do not trust: compare with your trust.keys",
        code="trust.bad-timestamp",
    )


def message_of(signed: bytes) -> bytes:
    """What is stamped of a checkpoint's signed note: its text and the signature lines under the ledger's own name, as they stand there.

    Raises:
        SteleError: `trust.bad-note`.
    """
    text, _ = note.split_note(signed)
    origin = note.parse_body(text).origin
    return text + b"\n" + note.lines_of(signed, lambda name, _: name == origin)


def request(message: bytes, nonce: int) -> bytes:
    """A request (RFC 3161 section 2.4.1) for the SHA-256 of a message, with the authority's certificate asked for.

    Args:
        message: what shall be stamped.
        nonce: 64 random bits, so that the answer is one to this request.
    """
    imprint = der.element(0x30, _SHA256, der.element(0x04, hashlib.sha256(message).digest()))
    return der.element(0x30, der.integer(1), imprint, der.integer(nonce), b"\x01\x01\xff")


def _element(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Tag of the DER element at `at`, and where its content begins and ends."""
    if at + 2 > end:
        raise ValueError("it is cut off")
    tag, first = data[at], data[at + 1]
    begin = at + 2
    if first >= 0x80:
        count = first & 0x7F
        begin += count
        if not 1 <= count <= 3 or begin > end:
            raise ValueError("it has a length that is none")
        first = int.from_bytes(data[at + 2 : begin], "big")
    if begin + first > end:
        raise ValueError("it is cut off")
    return tag, begin, begin + first


def _children(data: bytes, begin: int, end: int) -> list[tuple[int, int, int, int]]:
    """Tag, start, and content's begin and end of the elements in a constructed one."""
    found = []
    while begin < end:
        tag, inner, after = _element(data, begin, end)
        found.append((tag, begin, inner, after))
        begin = after
    return found


def _ordered(token: bytes) -> bytes:
    """The answer with its certificates in DER's order: OpenSSL's authority leaves them as configured, and no signature covers that."""
    at = (0, len(token))
    for tag, number in ((0x30, 0), (0x30, 1), (0xA0, 1), (0x30, 0), (0xA0, 3)):  # response, ContentInfo, [0], SignedData, certificates
        children = _children(token, *at)
        if number >= len(children) or children[number][0] != tag:
            return token  # refused, or by an authority that sent no certificate: the parser says so
        at = children[number][2:]
    certificates = sorted(token[start:after] for _, start, _, after in _children(token, *at))
    return token[: at[0]] + b"".join(certificates) + token[at[1] :]


def verify(token: bytes, message: bytes, authorities: Sequence[bytes], *, nonce: int | None = None) -> Stamp:
    """What an authority's answer says, if it is one of a trusted authority about this message.

    The signature, the chain up to one of the given certificates as of the stamped time, and the key's purpose (a critical
    extended key usage of time stamping alone) are checked. Revocation is not: that needs a network.

    Args:
        token: the TimeStampResp, DER.
        message: what was stamped.
        authorities: DER certificates that the verifier trusts for this.
        nonce: what was sent, if this is the answer to a request just made.

    Raises:
        SteleError: `trust.bad-timestamp`.
    """
    # imported only here: it is compiled code of its own, and most verifications meet no timestamp
    from rfc3161_client import VerifierBuilder, decode_timestamp_response

    if not authorities:
        raise bad("no authority's certificate is trusted")
    if len(token) > MAX_TOKEN:
        raise bad(f"it is longer than {MAX_TOKEN} bytes")
    try:
        ordered = _ordered(token)
        answer = decode_timestamp_response(ordered)
        if answer.as_bytes() != ordered:
            raise bad("it is not DER in its one encoding")
        if answer.status != 0:
            raise bad(f"the authority refused it: status {answer.status} {' '.join(answer.status_string)[:200]}")
        info = answer.tst_info
        if info.message_imprint.hash_algorithm.dotted_string != _SHA256_OID or len(answer.signed_data.certificates) > MAX_CERTIFICATES:
            raise bad("it is not over SHA-256, or has too many certificates")
        builder = VerifierBuilder(roots=[x509.load_der_x509_certificate(der) for der in authorities], nonce=nonce)
        builder.build().verify(answer, hashlib.sha256(message).digest())
        return Stamp(
            _nanoseconds(info.gen_time),
            _accuracy(info.accuracy),
            _authority(answer.signed_data),
            info.policy.dotted_string,
            info.serial_number,
        )
    except SteleError:
        raise
    except Exception as error:  # the libraries have many words for what is not right
        raise bad(str(error)[:300] or type(error).__name__) from error


def _authority(signed: SignedData) -> str:
    """Subject of the certificate that signed, whose key must be for timestamps alone.

    It is known by issuer and serial number only, so there must be one of these: else the library may verify the signature with one
    certificate and the purpose with another.
    """
    (signer,) = signed.signer_infos
    found = [x509.load_der_x509_certificate(der) for der in signed.certificates]
    mine = [each for each in found if (each.issuer, each.serial_number) == (signer.issuer, signer.serial_number)]
    if len(mine) != 1:
        raise bad("it is not plain which certificate signed it")
    usage = mine[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if list(usage) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise bad("the authority's key is not for timestamps alone")
    return mine[0].subject.rfc4514_string()


def _nanoseconds(moment: dt.datetime) -> int:
    since = moment - moment.replace(year=1970, month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def _accuracy(found: object) -> int:
    if found is None:
        return 0
    parts = [getattr(found, name, None) or 0 for name in ("seconds", "millis", "micros")]
    return int(parts[0]) * 1_000_000_000 + int(parts[1]) * 1_000_000 + int(parts[2]) * 1000
