"""Writes sealed.json anew: python -m tests.vectors.make_sealed. Only for a new version of the format."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).parent
SALT = bytes(range(32))


def row(fits: bool, why: str, field: str, salt: bytes, value: object, preimage: bytes) -> dict[str, object]:
    return {
        "fits": fits, "why": why, "field": field, "salt": salt.hex(), "value": value,
        "commitment": hashlib.sha256(preimage).hexdigest(),
    }  # fmt: skip


def main() -> None:
    """Spelled out by hand: what is written here is the format, whatever the code says."""
    label = b"stele-sealed-v1\n"
    other = bytes(range(1, 33))
    rows = [
        row(True, "text", "path", SALT, "/tmp/x", label + SALT + b'["path","/tmp/x"]'),
        row(True, "a list", "argv", SALT, ["sh", "-c", "id"], label + SALT + b'["argv",["sh","-c","id"]]'),
        row(True, "keys are sorted", "detail", SALT, {"b": "2", "a": "1"}, label + SALT + b'["detail",{"a":"1","b":"2"}]'),
        row(True, "beyond ASCII", "person", SALT, "Zoë", label + SALT + b'["person","Zo\\u00eb"]'),
        row(True, "nothing", "reason", SALT, "", label + SALT + b'["reason",""]'),
        row(True, "null", "reason", SALT, None, label + SALT + b'["reason",null]'),
        row(True, "another salt", "path", other, "/tmp/x", label + other + b'["path","/tmp/x"]'),
        row(False, "another value", "path", SALT, "/tmp/y", label + SALT + b'["path","/tmp/x"]'),
        row(False, "another field", "exe", SALT, "/tmp/x", label + SALT + b'["path","/tmp/x"]'),
        row(False, "the salt of another", "path", other, "/tmp/x", label + SALT + b'["path","/tmp/x"]'),
        row(False, "a short salt", "path", SALT[:31], "/tmp/x", label + SALT[:31] + b'["path","/tmp/x"]'),
        row(False, "a long salt", "path", SALT + b"[", "/tmp/x", label + SALT + b'[["path","/tmp/x"]'),
        row(False, "no label", "path", SALT, "/tmp/x", SALT + b'["path","/tmp/x"]'),
        row(False, "no salt in the hash", "path", SALT, "/tmp/x", label + b'["path","/tmp/x"]'),
        row(False, "not the name in the hash", "path", SALT, "/tmp/x", label + SALT + b'"/tmp/x"'),
        row(False, "with white space", "argv", SALT, ["a", "b"], label + SALT + b'["argv", ["a", "b"]]'),
        row(False, "1 is not true", "detail", SALT, 1, label + SALT + b'["detail",true]'),
        row(False, "a fraction", "detail", SALT, 1.5, label + SALT + b'["detail",1.5]'),
    ]
    (HERE / "sealed.json").write_text(json.dumps(rows, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
