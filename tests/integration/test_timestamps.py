"""RFC 3161 timestamps, by OpenSSL's authority, with `openssl ts -verify` as judge."""

from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stele.flow import cosigning, stamping
from stele.flow.initialise import make_keys
from stele.flow.opening import open_ledger
from stele.flow.places import Places
from stele.trust import timestamp
from stele.trust.errors import SteleError
from tests.ledgers import event
from tests.tsa import Authority, openssl

MESSAGE = b"stamped"


def refused(call) -> str:
    with pytest.raises(SteleError) as raised:
        call()
    return raised.value.reason


@pytest.mark.parametrize("options", [{}, {"chain": False}, {"curve": False}])
@pytest.mark.parametrize("nonce", [1, 0x80, 0xFF00000000000000])
def test_both_believe_it_of_this_message_alone(tmp_path, options, nonce):
    authority = Authority(tmp_path / "tsa", **options)
    token = authority.stamp(timestamp.request(MESSAGE, nonce))
    assert authority.judge(MESSAGE, token)
    assert not authority.judge(b"other", token)
    found = timestamp.verify(token, MESSAGE, [authority.root], nonce=nonce)
    assert abs(found.time_ns - time.time_ns()) < 60 * 10**9
    assert (found.accuracy_ns, found.authority, found.policy) == (1_500_000_000, "CN=tsa", "1.2.3.4.1")
    refused(lambda: timestamp.verify(token, b"other", [authority.root]))
    refused(lambda: timestamp.verify(token, MESSAGE, [authority.root], nonce=nonce + 1))
    refused(lambda: timestamp.verify(token, MESSAGE, []))


def test_an_authority_that_is_not_trusted(tmp_path):
    authority, other = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    token = authority.stamp(timestamp.request(MESSAGE, 1))
    refused(lambda: timestamp.verify(token, MESSAGE, [other.root]))
    assert timestamp.verify(token, MESSAGE, [other.root, authority.root]).authority == "CN=one"


def test_a_key_that_is_for_more_than_timestamps(tmp_path):
    authority = Authority(tmp_path / "tsa", usage="critical,timeStamping,codeSigning")
    with pytest.raises(Exception, match=r"ts|certificate|non-zero"):  # OpenSSL's authority does not even sign with it
        authority.stamp(timestamp.request(MESSAGE, 1))


def test_any_altered_byte_is_noticed(tmp_path):
    authority = Authority(tmp_path / "tsa")
    token = authority.stamp(timestamp.request(MESSAGE, 7))
    believed = []
    for at in range(len(token)):
        altered = bytearray(token)
        altered[at] ^= 0x01
        try:
            timestamp.verify(bytes(altered), MESSAGE, [authority.root], nonce=7)
        except SteleError as error:
            assert error.code == "trust.bad-timestamp"
        else:
            believed.append(at)
    # what no signature covers: the copy of the root in it, which nobody believes for being there
    assert len(believed) < len(authority.root) + 40
    for cut in (0, 1, 20, len(token) // 2, len(token) - 1):
        refused(lambda cut=cut: timestamp.verify(token[:cut], MESSAGE, [authority.root]))
    refused(lambda: timestamp.verify(token + b"\0", MESSAGE, [authority.root]))


@pytest.fixture
def places(tmp_path):
    made = Places(tmp_path / "data")
    make_keys(made)
    ledger = open_ledger(made)
    ledger.append([event(1)])
    ledger.close()
    return made


def test_the_newest_checkpoint_is_stamped_and_found_again(tmp_path, places):
    authority = Authority(tmp_path / "tsa")
    with authority.serving() as url:
        cosigning.set_timestamps(places, [url], [authority.pem], every_ms=1000)
        size, stamp = stamping.stamp(places)
        assert size == 2
        token = cosigning.stamp_path(places.ledger, 2).read_bytes()
        assert authority.judge(timestamp.message_of((places.ledger / "checkpoint").read_bytes()), token)
        assert stamping.stamp(places) == (2, stamp)  # not asked again
    found = cosigning.standing(places)["timestamp"]
    assert (found["size"], found["time_ns"], found["authority"]) == (2, stamp.time_ns, "CN=tsa")
    make_keys(places)  # a second `stele init` keeps the authority in trust.keys
    assert cosigning.standing(places)["timestamp"] == found


def test_the_second_authority_is_asked_where_the_first_is_down(tmp_path, places):
    one, two = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    with one.serving(lambda reply: reply._replace(status=500)) as broken, two.serving() as well:
        cosigning.set_timestamps(places, [broken, well], [one.pem, two.pem], every_ms=1000)
        assert stamping.stamp(places)[1].authority == "CN=two"


@pytest.mark.parametrize(
    "twist",
    [
        lambda reply: reply._replace(status=500),
        lambda reply: reply._replace(content_type="text/html"),
        lambda reply: reply._replace(body=b""),
        lambda reply: reply._replace(body=reply.body[:-1]),
        lambda reply: reply._replace(body=b"x" * (1 << 17)),
        lambda reply: reply._replace(body=bytes.fromhex("30053003020102")),  # rejection
    ],
)
def test_answers_that_are_none_are_not_kept(tmp_path, places, twist):
    authority = Authority(tmp_path / "tsa")
    with authority.serving(twist) as url:
        cosigning.set_timestamps(places, [url], [authority.pem], every_ms=1000)
        with pytest.raises(SteleError) as raised:
            stamping.stamp(places)
    assert raised.value.code == "timestamp.unavailable"
    assert not cosigning.stamp_path(places.ledger, 2).exists()


def test_an_old_answer_is_not_taken_for_a_new_one(tmp_path, places):
    authority = Authority(tmp_path / "tsa")
    old = authority.stamp(timestamp.request(timestamp.message_of((places.ledger / "checkpoint").read_bytes()), 1))
    with authority.serving(lambda reply: reply._replace(body=old)) as url:
        cosigning.set_timestamps(places, [url], [authority.pem], every_ms=1000)
        with pytest.raises(SteleError) as raised:
            stamping.stamp(places)
    assert "once" in raised.value.reason


def test_a_certificate_that_only_looks_like_the_signers_is_not_taken_for_it(tmp_path):
    """Same issuer and serial number, made by somebody else: which of the two has the right purpose would be a matter of luck."""
    authority = Authority(tmp_path / "tsa", chain=False)
    token = authority.stamp(timestamp.request(MESSAGE, 7))
    folder = authority.folder
    serial = openssl(folder, "x509", "-in", "tsa.crt", "-noout", "-serial").stdout.decode().strip().partition("=")[2]
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "x.key", "-out", "x.ca", "-subj", "/CN=tsa root")
    openssl(
        folder, "x509", "-req", "-in", "tsa.csr", "-CA", "x.ca", "-CAkey", "x.key", "-set_serial", f"0x{serial}", "-extfile", "ext",
        "-out", "x.crt", "-days", "3650",
    )  # fmt: skip
    double = x509.load_pem_x509_certificate((folder / "x.crt").read_bytes()).public_bytes(Encoding.DER)
    mine = x509.load_pem_x509_certificate((folder / "tsa.crt").read_bytes()).public_bytes(Encoding.DER)
    assert timestamp.verify(token, MESSAGE, [authority.root]).authority == "CN=tsa"
    forged = _with_certificate(token, mine, double)
    assert "not plain" in refused(lambda: timestamp.verify(forged, MESSAGE, [authority.root]))


def _with_certificate(token: bytes, mine: bytes, more: bytes) -> bytes:
    """The token with one more certificate: every length around it grows."""
    at = token.index(mine) + len(mine)
    out = bytearray(token[:at] + more + token[at:])
    position = 0
    for skip in (0, 1, 1, 0, 3):  # into: response, ContentInfo, [0], SignedData, certificates
        for _ in range(skip):
            _, _, position = timestamp._element(out, position, len(out))
        size = int.from_bytes(out[position + 2 : position + 4], "big")
        assert out[position + 1] == 0x82
        out[position + 2 : position + 4] = (size + len(more)).to_bytes(2, "big")
        position += 4
    return bytes(out)
