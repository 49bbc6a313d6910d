"""DSSE envelopes (secure-systems-lab/dsse): PAE, encoding, strict decoding. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

import msgspec

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: `DSSEv1 len type len body`."""
    kind = payload_type.encode("utf-8", "surrogatepass")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


class Envelope(msgspec.Struct, frozen=True):
    """A decoded envelope with its one signature."""

    payload_type: str
    payload: bytes
    key_id: str
    signature: bytes


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"not a valid DSSE envelope: {reason}",
        remedy="the file is damaged or forged; get it again from its source",
        code="trust.bad-envelope",
    )


def sign(payload_type: str, payload: bytes, key_id: str, signer: Callable[[bytes], bytes]) -> dict[str, Any]:
    """An envelope as plain data; `signer` signs the PAE. Without a `key_id` there is no such field."""
    signature = {"sig": base64.b64encode(signer(pae(payload_type, payload))).decode()}
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key_id, **signature} if key_id else signature],
    }


def _unbase64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise _bad("a field is not text")
    try:
        standard = text.replace("-", "+").replace("_", "/") if "+" not in text and "/" not in text else text
        raw = base64.b64decode(standard.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _bad("bad base64") from error
    if base64.b64encode(raw).decode() != standard:
        raise _bad("another spelling of base64")
    return raw


def decode(value: Any) -> Envelope:
    """Decode plain data; exactly one signature is expected.

    Raises:
        SteleError: `trust.bad-envelope`.
    """
    if not isinstance(value, dict) or not {"payload", "payloadType", "signatures"} == set(value):
        raise _bad("its fields are not payload, payloadType, signatures")
    signatures = value["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise _bad("exactly one signature is expected")
    if not isinstance(value["payloadType"], str) or not isinstance(signatures[0].get("keyid", ""), str):
        raise _bad("a field is not text")
    return Envelope(value["payloadType"], _unbase64(value["payload"]), signatures[0].get("keyid", ""), _unbase64(signatures[0].get("sig")))


def loads(data: bytes) -> Envelope:
    """Decode JSON bytes (see `decode`); a key that appears twice is refused.

    Raises:
        SteleError: `trust.bad-envelope`.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) != len(items):
            raise _bad("a key appears twice")
        return out

    try:
        return decode(json.loads(data, object_pairs_hook=pairs))
    except (ValueError, RecursionError) as error:
        raise _bad("not JSON") from error
