"""Whatever is changed in a proof, it does not hold, and both verifiers say the same."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.flow import proving
from stele.prove import shape
from stele.prove.standalone import stele_verify
from stele.prove.verify import verify
from stele.trust import trust_keys
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey
from tests.ledgers import OTHER, SIGNER, TRUST
from tests.proofs import ONE, check, of, resum
from tests.refusals import code


def test_no_keys_and_other_keys(kinds):
    data = kinds["state light"]
    assert code(verify, data, None) == "prove.no-keys"
    assert code(verify, data, TRUST._replace(ledgers=())) == "prove.no-keys"
    assert code(check, data, TRUST._replace(ledgers=OTHER.verifiers)) == "trust.unknown-signer"
    assert code(check, data, TRUST._replace(ledgers=(SIGNER.verifier, OTHER.verifiers[1]))) == "trust.missing-signature"
    assert code(check, data, TRUST._replace(releases=())) == "prove.invalid"
    assert code(check, data, TRUST._replace(releases=(PrivateKey.generate().public,))) == "prove.invalid"
    assert check(data, TRUST._replace(ledgers=(*OTHER.verifiers[:1], *SIGNER.verifiers)))
    assert check(data, TRUST._replace(ledgers=(SIGNER.verifier,)))  # without a post-quantum key, its line means nothing


def test_every_byte_matters(kinds):
    """Each byte flipped, deleted, doubled: the proof does not hold, and nothing but a refusal comes out."""
    data = kinds["absent light"]
    for at in range(len(data)):
        for changed in (
            data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :],
            data[:at] + data[at + 1 :],
            data[: at + 1] + data[at:],
        ):
            if changed != data:
                with pytest.raises(SteleError):
                    verify(changed, TRUST)
    for at in range(0, len(data), 5):
        assert code(check, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]) in {"prove.invalid", "trust.not-canonical"}


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in paths(item, (*path, key)))]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def changed_at(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    at(value, path[:-1])[path[-1]] = new
    return value


def agrees(data: bytes) -> shape.Claim | None:
    """Both verifiers say the same; returns the claim if it holds."""
    try:
        return check(data).claim
    except SteleError:
        return None


SMALL_CHANGES = [
    lambda old: old + 1 if isinstance(old, int) else old[:-1] + ("0" if old[-1:] != "0" else "1") if isinstance(old, str) else None,
    lambda old: -old if isinstance(old, int) and old else [old],
    lambda old: old.upper() if isinstance(old, str) and old.upper() != old else old[1:] if isinstance(old, (str, list)) else True,
]


@pytest.mark.parametrize("change", SMALL_CHANGES)
@pytest.mark.parametrize("name", ["state light", "history light", "never chain", "workloads light", "newest log"])
def test_every_field_matters_even_where_the_sum_is_made_to_fit(kinds, name, change):
    """A forger can compute the sum anew. Only the question may change then, and is truly answered."""
    value = of(kinds, name)
    for path in paths(value)[1:]:
        old = at(value, path)
        new = change(old)
        if path[0] == "sum" or (type(new) is type(old) and new == old):
            continue
        claim = agrees(resum(changed_at(value, path, new)))
        assert claim is None or path[0] == "claim", path


NAMES = ["workload", "release", "\ud800"]
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.text(max_size=8)
    | st.sampled_from(["a" * 64, ONE, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_both_verifiers_say_the_same_of_anything(kinds, data):
    """Parts of one proof in place of those of another, removed, doubled, or replaced by anything."""
    names = sorted(kinds)
    value = of(kinds, data.draw(st.sampled_from(names)))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(value)[1:]))
        other = of(kinds, data.draw(st.sampled_from(names)))
        how = data.draw(st.sampled_from(["plain", "same", "any", "drop", "double"]))
        holder = at(value, path[:-1])
        if how == "plain":
            holder[path[-1]] = data.draw(PLAIN)
        elif how == "same":
            try:
                holder[path[-1]] = copy.deepcopy(at(other, path))
            except (KeyError, IndexError, TypeError):
                continue
        elif how == "any":
            holder[path[-1]] = copy.deepcopy(at(other, data.draw(st.sampled_from(paths(other)[1:]))))
        elif isinstance(holder, list):
            holder[path[-1] : path[-1] + 1] = [] if how == "drop" else [holder[path[-1]]] * 2
        else:
            del holder[path[-1]]
    agrees(resum(value))


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace") + b"\n"))
def test_anything_else_is_refused(data):
    assert code(check, data) in {"prove.invalid", "trust.not-canonical"}


def test_hostile_shapes_cost_little():
    for data in (
        b"[" * 200_000 + b"\n",
        b'{"a":' * 50_000 + b"\n",
        b"9" * 100_000 + b"\n",
        b'"' + b"x" * (65 << 20) + b'"\n',
        b'{"a":1,"a":1}\n',
        b'"' + b'\\"' * 500_000 + b"\n",  # a string that does not end
        b'"' + b'\\"' * 500_000 + b'"\n',
        b"[" + b"[]," * 200_000 + b"[]]\n",
        b"[" + b"[1" * 66 + b"]" * 66 + b"]\n",
        b'["' + b"[" * 1_000_000 + b'"]\n',
    ):
        assert code(check, data + b"\n") in {"prove.invalid", "trust.not-canonical"}


def test_a_file_of_any_size_is_refused_by_both(tmp_path):
    """Who was sent it may have less memory than it claims to need."""
    for size in (shape.MAX_PROOF + 1, 1 << 40):
        (tmp_path / "huge.proof").touch()
        os.truncate(tmp_path / "huge.proof", size)
        (tmp_path / "trust.keys").write_bytes(trust_keys.encode(TRUST))
        assert code(proving.verify_file, tmp_path / "huge.proof", tmp_path / "trust.keys") == "prove.invalid"
        argv = [sys.executable, "-I", stele_verify.__file__, "huge.proof", "trust.keys"]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=250)
        assert (done.returncode, "prove.invalid" in done.stderr + done.stdout) == (1, True)


def test_a_proof_that_takes_more_memory_than_there_is(tmp_path):
    """Refused, and by no other error."""
    (tmp_path / "many.proof").write_bytes(b"[" + b"[]," * (10 << 20) + b"[]]\n")
    (tmp_path / "trust.keys").write_bytes(trust_keys.encode(TRUST))
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29)); sys.argv = sys.argv[1:]; "
    alone = ["-c", limited + "runpy.run_path(sys.argv[0], run_name='__main__')", stele_verify.__file__, "many.proof", "trust.keys"]
    ours = ["-c", limited + "from stele.cli.main import main; main()", "stele", "verify", "many.proof", "--trust", "trust.keys"]
    for argv in (alone, ours):
        done = subprocess.run([sys.executable, *argv], cwd=tmp_path, capture_output=True, text=True, timeout=250)
        assert (done.returncode, "Traceback" in done.stderr, "internal error" in done.stderr) == (1, False, False), done.stderr
