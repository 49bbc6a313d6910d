"""stele.yaml: what is accepted, and that everything else is refused with a reason."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stele.model import spec
from stele.trust.errors import SteleError

GOOD: dict[str, Any] = {
    "stele": 0,
    "name": "shop",
    "command": ["/usr/sbin/nginx", "-g", "daemon off;"],
    "env": {"TZ": "UTC"},
    "user": "33:33",
    "ports": [{"container": 8080, "host": 18080}],
    "writable": [{"path": "/tmp", "size": "16MiB"}, {"path": "/data", "kind": "volume", "volume": "data"}],
    "settings": [{"path": "/etc/nginx/nginx.conf", "source": "nginx.conf"}],
    "health": {"port": 8080, "http": "/healthz"},
}


def _yaml(**changes: Any) -> bytes:
    return yaml.safe_dump({**GOOD, **changes}).encode()


def test_a_full_spec_is_read() -> None:
    found = spec.parse_yaml(_yaml())
    assert found.ports[0].host == 18080
    assert found.writable[1].volume == "data"


def test_the_sealed_spec_reads_back_and_names_no_local_source() -> None:
    plain = spec.sealed(spec.parse_yaml(_yaml()))
    assert "nginx.conf" not in str(plain["settings"][0]["source"])
    assert spec.from_builtins(plain).name == "shop"


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": "red"},
        {"stele": 1},
        {"name": "Shop"},
        {"name": "../x"},
        {"name": "a" * 41},
        {"command": []},
        {"command": ["nginx"]},
        {"command": ["/bin/a\0b"]},
        {"env": {"A=B": "x"}},
        {"user": "root"},
        {"user": "1:99999"},
        {"ports": [{"container": 0}]},
        {"ports": [{"container": 80, "host": 1}, {"container": 81, "host": 1}]},
        {"health": {"port": 1}},
        {"health": {"port": 8080, "http": "healthz"}},
        {"writable": [{"path": "/"}]},
        {"writable": [{"path": "/proc/x"}]},
        {"writable": [{"path": "/a/../b"}]},
        {"writable": [{"path": "/a/"}]},
        {"writable": [{"path": "tmp"}]},
        {"writable": [{"path": "/a"}, {"path": "/a"}]},
        {"writable": [{"path": "/a", "kind": "volume"}]},
        {"writable": [{"path": "/a", "size": "1e3"}]},
        {"writable": [{"path": "/a", "size": "-5"}]},
        {"writable": [{"path": "/a", "size": "٣"}]},
        {"writable": [{"path": "/a", "mode": "rwx"}]},
        {"writable": [{"path": "/etc"}], "settings": [{"path": "/etc/x"}]},
        {"stop": {"signal": "KILL"}},
        {"stop": {"grace": "10"}},
        {"time": -1},
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SteleError) as caught:
        spec.parse_yaml(_yaml(**changes))
    assert caught.value.code.startswith("spec.")
    assert caught.value.remedy


@pytest.mark.parametrize(
    "data",
    [
        b"stele: 0\nstele: 0\nname: x\ncommand: [/a]\n",
        b"a: &x [1]\nb: *x\n",
        b"!!python/object/apply:os.system [id]",
        b"[1, 2",
        b"\xff\xfe",
        b"1: 2",
        b"",
        b"- 1",
        b"[" * 5000,
        b"a: 2024-01-01",
    ],
)
def test_yaml_tricks_are_refused(data: bytes) -> None:
    with pytest.raises(SteleError):
        spec.parse_yaml(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_a_code(data: bytes) -> None:
    try:
        spec.parse_yaml(data)
    except SteleError as error:
        assert error.code.startswith("spec.")


def test_the_published_schema_agrees_with_the_reader() -> None:
    judge = jsonschema_rs.validator_for(spec.json_schema())
    judge.validate(msgspec.to_builtins(spec.parse_yaml(_yaml())))
    for wrong in ({"colour": 1}, {"stele": 1}, {"command": "x"}, {"health": {"prot": 1}}):
        assert not judge.is_valid({**GOOD, **wrong})
