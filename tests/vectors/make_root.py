"""Makes root.json: chains of root documents, from which one begins, and what must come out. Run from the root of the project."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stele.trust import root
from stele.trust.note import Key
from stele.trust.root import LogKey, Pin, Stolen
from tests.unit.test_root import ALICE, BOB, CAROL, DAVE, NEW, OLD, ROOT1, V1, chain, head, signed, text

# two keys of one name and one key id, which is 32 bits long: found by trying some 70,000
LIKE, UNLIKE = (
    Key("one.example/holder", Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"holder %d" % number).digest()))
    for number in (60085, 74152)
)


def made() -> list[dict[str, object]]:
    """The cases."""
    one, two, three = chain()
    theft = signed(
        text(2, logs=[*(LogKey(0, None, key) for key in OLD), *(LogKey(41, None, key) for key in NEW)],
             stolen=[Stolen(40, head(40).root, key) for key in OLD]), ALICE, BOB,
    )  # fmt: skip
    lone = signed(text(1, 1, [LIKE]), LIKE)
    taken = text(2, 1, [UNLIKE], logs=[LogKey(0, None, key) for key in NEW])
    pin = root.parse(lone).pin
    cases = {
        "the first": ([V1], ROOT1.pin, ""),
        "two changes of holders": ([one, two, three], ROOT1.pin, ""),
        "a stolen ledger key": ([V1, theft], ROOT1.pin, ""),
        "a version left out": ([one, three], ROOT1.pin, "trust.root-order"),
        "out of order": ([two, one], ROOT1.pin, "trust.root-order"),
        "another document than the one that is trusted": ([V1], Pin(ROOT1.origin, 1, "sha256:" + "0" * 64), "trust.root-order"),
        "signed by one of two": ([signed(text(), ALICE)], ROOT1.pin, "trust.root-unsigned"),
        "signed twice by one": ([signed(text(), ALICE, ALICE)], ROOT1.pin, "trust.bad-root"),
        "by the new holders only": ([V1, signed(text(2, holders=(CAROL, DAVE)), CAROL, DAVE)], ROOT1.pin, "trust.root-unsigned"),
        "a signature altered": ([V1.replace(b"\xe2\x80\x94 bob ", b"\xe2\x80\x94 bob A", 1)[:-6] + b"A=\n"], ROOT1.pin, "trust.bad-root"),
        "by a new holder with the name and key id of the old one": ([lone, signed(taken, UNLIKE)], pin, "trust.bad-root"),
        "by the old holder with the name and key id of the new one": ([lone, signed(taken, LIKE)], pin, "trust.bad-root"),
        "the theft taken back": ([V1, theft, signed(text(3), ALICE, BOB)], ROOT1.pin, "trust.bad-root"),
    }
    return [
        {"name": name, "trusted": list(pin), "documents": [item.decode() for item in documents], "expect": expect}
        for name, (documents, pin, expect) in cases.items()
    ]


if __name__ == "__main__":
    Path(__file__).with_name("root.json").write_text(json.dumps(made(), indent=1, ensure_ascii=True) + "\n")
