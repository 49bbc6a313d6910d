"""Canonical JSON: one spelling, everything else refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.trust import canonical
from stele.trust.errors import SteleError

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_decoding_gives_back_what_was_encoded(value: Any) -> None:
    assert canonical.decode(canonical.encode(value)) == value


@given(st.binary(max_size=64))
def test_bytes_are_refused_or_are_the_only_spelling(data: bytes) -> None:
    try:
        value = canonical.decode(data)
    except SteleError as error:
        assert error.code == "trust.not-canonical"
    else:
        assert canonical.encode(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b"1.0",
        b"1e3",
        b"NaN",
        b'"\xc3\xa9"',
        b'"\\u00E9"',
        b"9223372036854775808",
        b"[" * 100 + b"]" * 100,
        b"[" * 100_000,
        b"01",
        b"-0",
        b" 1",
        b"1\n",
        b"",
    ],
)
def test_other_spellings_are_refused(data: bytes) -> None:
    with pytest.raises(SteleError, match="canonical"):
        canonical.decode(data)


@pytest.mark.parametrize("value", [1.5, b"x", {1: 2}, object(), 2**63])
def test_values_without_a_spelling_are_refused(value: Any) -> None:
    with pytest.raises(SteleError, match="canonical"):
        canonical.encode(value)


@given(plain)
def test_the_spelling_is_that_of_the_standard_library(value: Any) -> None:
    """Two encoders stand behind it; nobody may see which."""
    assert canonical.encode(value) == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


@pytest.mark.parametrize("text", ["\x7f", "\x00\x1f\b\f\n\r\t", '"\\/', "\ud800", "\U0001f600", "\udfff\ud800", "a" * 70_000, "é"])
def test_every_kind_of_character_has_one_spelling(text: str) -> None:
    data = canonical.encode({text: [text]})
    assert data == json.dumps({text: [text]}, separators=(",", ":")).encode()
    assert canonical.decode(data) == {text: [text]}
