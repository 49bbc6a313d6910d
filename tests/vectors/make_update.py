"""Writes update.json: updates (docs/spec/update.md) and what is said of them. Run from the project's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stele.model.tree import Tree
from stele.seal.delta import codec, short
from stele.seal.delta.short import Edit, Row, Short
from stele.trust.digest import sha256
from tests.trees import Held, file, folder

BASE = "sha256:" + "11" * 32
HELD = Held()
TREE = Tree.build([folder(b""), file(b"a", b"old\n", HELD)]).encode()
FRAME = codec.pack(b"new\n", b"old\n")
PLAIN = Short(
    base=short.short_of(BASE),
    names=(),
    rows=(),
    edits=(Edit(1, 4, sha256(b"new\n")[7:]),),
    lines=b"",
    bundles=(),
    older=(),
    frames=(len(FRAME),),
    starts=(),
    content=FRAME,
)
ROW = Row(0, 300, 8192, *(f"sha256:{name * 32}" for name in ("22", "33", "44")), "55" * 32, "")
FULL = PLAIN._replace(rows=(ROW,), bundles=(b"\x66" * 64,), older=(b"\x77" * 64,))
LINES = FULL._replace(
    names=("files", "more"), lines=b"-b\n", edits=(), rows=(ROW._replace(nodes="sha256:" + "88" * 32),), starts=(5,)
)  # fmt: skip


def main() -> None:
    """Write the vectors."""
    found: list[dict[str, Any]] = []
    for name, update in (("empty table", PLAIN), ("one stratum, signed", FULL), ("further lines", LINES)):
        data = short.encode(update, TREE)
        found.append({"name": name, "update": data.hex(), "expect": plain(update)})
    good = short.encode(FULL, TREE)
    twice = short.encode(PLAIN._replace(edits=PLAIN.edits * 2), TREE)
    numbers = 8  # where the first number stands
    bad = {
        "empty": (b"", "delta.damaged"),
        "another beginning": (b"stv" + good[3:], "delta.damaged"),
        "another base": (good[:4] + b"\0" + good[5:], "delta.wrong-base"),
        "cut short": (good[:-1], "delta.damaged"),
        "something follows": (good + b"\0", "delta.damaged"),
        "a number in two spellings": (good[:numbers] + b"\x80\0" + good[numbers + 1 :], "delta.damaged"),
        "a number without end": (good[:numbers] + b"\xff" * 12, "delta.damaged"),
        "too many strata": (good[: numbers + 2] + b"\x29" + good[numbers + 3 :], "delta.damaged"),
        "a line changes twice": (twice, "delta.damaged"),
        "lines of 128 MiB": (good[: numbers + 1] + bytes.fromhex("80808040") + good[numbers + 2 :], "delta.damaged"),
    }
    found += [{"name": name, "update": data.hex(), "code": code} for name, (data, code) in bad.items()]
    text = json.dumps({"base": BASE, "base_tree": TREE.decode("ascii"), "updates": found}, indent=1)
    (Path(__file__).parent / "update.json").write_text(text + "\n")


def plain(update: Short) -> dict[str, Any]:
    """An update's fields as JSON has them."""
    return {
        **update._asdict(),
        "base": update.base.hex(),
        "rows": [row._asdict() for row in update.rows],
        "edits": [edit._asdict() for edit in update.edits],
        "lines": update.lines.decode("ascii"),
        "names": list(update.names),
        "bundles": [item.hex() for item in update.bundles],
        "older": [item.hex() for item in update.older],
        "frames": list(update.frames),
        "starts": list(update.starts),
        "content": update.content.hex(),
    }


if __name__ == "__main__":
    main()
