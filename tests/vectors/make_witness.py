"""Writes tests/vectors/witness.json: requests to a witness, what it had cosigned before them, and the status that must come out.

Usage: python -m tests.vectors.make_witness. Signatures by ML-DSA-44 differ from run to run; all else is the same.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from stele.trust import note, witnessing
from tests.witnesses import Log


def signer(name: str, seed: int) -> note.Signer:
    return note.Signer(
        name, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32), MLDSA44PrivateKey.from_seed_bytes(bytes([seed]) * 32)
    )


def main() -> None:
    mine = signer("log.example/one", 1)
    log, fork = Log(mine), Log(mine, tag="other")
    stranger, forged = Log(signer("log.example/two", 2)), Log(signer("log.example/one", 3))
    good = log.submission(5, 9)
    bare = witnessing.encode(witnessing.Submission(5, log.prove(5, 9), b"\n".join(log.note(9).split(b"\n")[:5]) + b"\n"))
    cases = [
        ("the first checkpoint", 0, log.submission(0, 5), 200),
        ("a proof from nothing", 0, witnessing.encode(witnessing.Submission(0, (bytes(32),), log.note(5))), 422),
        ("it continues", 5, good, 200),
        ("the same again", 5, log.submission(5, 5), 200),
        ("another old size", 5, log.submission(3, 9), 409),
        ("an old checkpoint, replayed", 5, log.submission(0, 4), 409),
        ("an old size beyond the checkpoint", 9, witnessing.encode(witnessing.Submission(9, (), log.note(5))), 400),
        ("another root at the same size", 5, fork.submission(5, 5), 422),
        ("another history", 5, fork.submission(5, 9), 422),
        ("no proof", 5, witnessing.encode(witnessing.Submission(5, (), log.note(9))), 422),
        ("an unknown log", 5, stranger.submission(0, 5), 404),
        ("another key of the same name", 5, forged.submission(5, 9), 403),
        ("without the ML-DSA-44 signature", 5, bare, 403),
        ("a size in another spelling", 5, good.replace(b"\n9\n", b"\n09\n"), 400),
        ("an old size in another spelling", 5, good.replace(b"old 5", b"old 05"), 400),
        ("an extension line", 5, good.replace(b"\n9\n", b"\n9\nmore\n"), 400),
        ("64 hashes", 5, good.replace(b"old 5\n", b"old 5\n" + 64 * (b"A" * 43 + b"=\n")), 400),
        ("no newline at the end", 5, good[:-1], 400),
        ("nothing", 5, b"", 400),
    ]
    found = {
        "log": [key.encode() for key in mine.verifiers],
        "before": {str(size): log.submission(0, size).decode() for size in (5, 9)},
        "cases": [
            {"name": name, "cosigned": size, "request": base64.b64encode(body).decode(), "status": status}
            for name, size, body, status in cases
        ],
    }
    Path(__file__).with_name("witness.json").write_text(json.dumps(found, indent=1) + "\n", "ascii")


if __name__ == "__main__":
    main()
