"""What a log and a witness say to each other (C2SP tlog-witness). One spelling; bytes in, verdict out. Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from stele.trust import merkle, note
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PROOF = 63  # hashes
MAX_BODY = note.MAX_NOTE + 64 * 45 + 32  # bytes of a request
MAX_ANSWER = note.MAX_NOTE  # bytes of an answer
SIZE_TYPE = "text/x.tlog.size"
_OLD = re.compile(r"old (0|[1-9][0-9]{0,17})\Z", re.ASCII)
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,17})\n\Z")


class Submission(NamedTuple):
    """A checkpoint that shall be cosigned. `old`: size from which `proof` leads to it. `note`: as it was signed."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes


def _bad(reason: str) -> SteleError:
    return SteleError(
        f"this is no request for a cosignature: {reason}", remedy="C2SP tlog-witness says how it is spelled", code="witness.bad-request"
    )


def encode(submission: Submission) -> bytes:
    """The body of `POST add-checkpoint`."""
    proof = "".join(base64.b64encode(item).decode() + "\n" for item in submission.proof)
    return f"old {submission.old}\n{proof}\n".encode() + submission.note


def parse(body: bytes) -> Submission:
    """Parse the body of `POST add-checkpoint`; the note in it is not looked at.

    Raises:
        SteleError: `witness.bad-request`, `trust.bad-note`.
    """
    head, gap, signed = body.partition(b"\n\n")
    if len(body) > MAX_BODY or not gap or not signed:
        raise _bad("there is no checkpoint, or it is too long")
    try:
        first, *rest = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise _bad("not ASCII") from error
    old = _OLD.match(first)
    if not old:
        raise _bad("the first line is not `old` and a size")
    if len(rest) > MAX_PROOF:
        raise _bad(f"there are more than {MAX_PROOF} hashes")
    proof = tuple(note.strict_base64(line) for line in rest)
    if any(len(item) != 32 for item in proof):
        raise _bad("a hash is not 32 bytes")
    return Submission(int(old[1]), proof, signed)


def parse_size(body: bytes) -> int:
    """The size that a witness answers with where it knows another than the log thought.

    Raises:
        SteleError: `witness.bad-answer`.
    """
    found = _SIZE.match(body)
    if not found:
        raise bad_answer("it conflicts, but does not say which size it knows")
    return int(found[1])


def bad_answer(reason: str) -> SteleError:
    """The error for a witness that does not keep to the protocol."""
    return SteleError(
        f"the witness's answer is refused: {reason}",
        remedy="nothing of it was believed; ask who runs it, and compare its vkey with that in your policy",
        code="witness.bad-answer",
    )


def origin_hash(origin: str) -> str:
    """By which a witness names a log in paths: hex SHA-256 of its origin."""
    return hashlib.sha256(origin.encode()).hexdigest()


def follows(old: int, old_root: bytes, head: note.Checkpoint, proof: Sequence[bytes]) -> bool:
    """Whether a checkpoint is an earlier one's tree, grown (or as it was). `old_root` counts only if `old` is not 0."""
    if head.size == 0 and head.root != merkle.EMPTY_ROOT:
        return False
    return merkle.is_consistent(old, head.size, old_root if old else merkle.EMPTY_ROOT, head.root, proof)


def take_lines(answer: bytes, signed: bytes, ledgers: Sequence[note.Verifier], witnesses: Sequence[note.Verifier]) -> bytes:
    """The lines of a witness's answer that are cosignatures of a note by known keys, each checked. Others are dropped.

    Args:
        answer: signature lines.
        signed: the note that was sent.
        ledgers: the log's keys.
        witnesses: the keys of the witness that was asked.

    Raises:
        SteleError: `witness.bad-answer` if no line is such a one, or one by a known key does not hold.
    """
    known = {(key.name, key.key_id) for key in witnesses}
    body = signed.partition(b"\n\n")[0] + b"\n"
    if answer.startswith(b"\n") or b"\n\n" in answer or len(answer) > MAX_ANSWER:
        raise bad_answer("it is not lines of signatures")
    try:
        kept = note.lines_of(body + b"\n" + answer, lambda *key: key in known)
    except SteleError as error:
        raise bad_answer(error.reason) from error
    if not kept:
        raise bad_answer("it is not signed by any of the keys that you know of it")
    try:
        opened = note.open_note(signed + kept, ledgers, witnesses)
    except SteleError as error:
        raise bad_answer(error.reason) from error
    if any(each.seconds == 0 for each in opened.signatures if each.verifier in witnesses):
        raise bad_answer("it does not say when it was made")
    return kept
