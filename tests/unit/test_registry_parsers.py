"""What comes from outside and is parsed: references, challenges, Retry-After, addresses, credentials files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.host import registry_login
from stele.host.http_registry import origin_of, retry_after
from stele.host.registry import parse_tags
from stele.host.registry_tokens import Challenge, parse_challenges
from stele.model import reference as references
from stele.trust.errors import SteleError

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("registry.example.com/team/shop", "registry.example.com/team/shop:latest"),
        ("localhost:5000/shop:1.4", "localhost:5000/shop:1.4"),
        ("[::1]:5000/shop:v1", "[::1]:5000/shop:v1"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        (f"r.example/a@{DIGEST}", f"r.example/a@{DIGEST}"),
        (f"r.example/a:t@{DIGEST}", f"r.example/a:t@{DIGEST}"),
    ],
)
def test_references(text, said):
    found = references.parse(text)
    assert str(found) == said
    assert references.parse(said) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shop",
        "team/shop",
        "https://r.example/shop",
        "r.example/Shop",
        "r.example/../shop",
        "r.example//shop",
        "r.example/shop:",
        "r.example/shop@sha256:ab",
        "r.example:99999/shop",
        "r.example/shop?x=1",
        "user:pw@r.example/shop",
        "r.example/shop\n",
        "r.example/sh op",
        "r.example/" + "a" * 300,
    ],
)
def test_what_is_no_reference(text):
    with pytest.raises(SteleError) as raised:
        references.parse(text)
    assert raised.value.code == "registry.bad-reference"


@given(st.text(max_size=80) | st.from_regex(r"[a-z.]{1,8}(:[0-9]{1,6})?/[a-z/._-]{1,12}(:[a-z.]{1,4})?", fullmatch=True))
def test_any_text_is_a_reference_of_one_spelling_or_refused(text):
    try:
        found = references.parse(text)
    except SteleError as error:
        assert error.code == "registry.bad-reference"
    else:
        assert references.parse(str(found)) == found
        assert not set("?#% \n\\") & set(found.host + found.repository + found.name)


def test_challenges():
    text = 'Basic realm="a, b", Bearer realm="https://auth.example/token",service="x",scope="repository:a:pull,push"'
    basic, bearer = parse_challenges(text)
    assert basic == Challenge("basic", {"realm": "a, b"})
    assert bearer.parameters == {"realm": "https://auth.example/token", "service": "x", "scope": "repository:a:pull,push"}
    assert parse_challenges(r'BEARER realm="a\"b"') == [Challenge("bearer", {"realm": 'a"b'})]


@given(st.text(max_size=200) | st.text('Bearealm="\\, =', max_size=200))
def test_any_challenge_is_read_or_passed_over(text):
    assert all(item.scheme == item.scheme.lower() for item in parse_challenges(text))


def test_pauses_that_are_asked_for():
    assert retry_after("17") == 17.0
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", now=40.0) == 60.0
    assert retry_after("Thu, 01 Jan 1970 00:00:10 GMT", now=40.0) == 0.0
    assert retry_after("soon") is None


@given(st.text(max_size=60))
def test_any_pause_is_a_time_or_nothing(text):
    found = retry_after(text, now=0.0)
    assert found is None or found >= 0


@given(st.text(max_size=60) | st.from_regex(r"https?://[^ ]{0,30}", fullmatch=True))
def test_any_address_has_an_origin_or_is_refused(text):
    try:
        origin = origin_of(text)
    except SteleError as error:
        assert error.code == "registry.bad-answer"
    else:
        assert origin.scheme in {"http", "https"}
        assert origin.host
        assert 0 < origin.port < 65536


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda x: (
        st.lists(x, max_size=3)
        | st.dictionaries(st.sampled_from(["auths", "r.example", "auth", "username", "password", "identitytoken"]), x, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON | st.binary(max_size=20))
def test_any_credentials_file_is_read_or_refused_without_its_words(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("login") / "auth.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGISTRY_AUTH_FILE", str(path))
        patch.setenv("HOME", str(path.parent))
        patch.delenv("DOCKER_CONFIG", raising=False)
        patch.delenv("XDG_RUNTIME_DIR", raising=False)
        try:
            found = registry_login.find("r.example", "team/app")
        except SteleError as error:
            assert error.code == "registry.bad-credentials"
        else:
            assert found is None or repr(found) == "Login(…)"


def test_the_narrower_login_of_podmans_file_wins(tmp_path, monkeypatch):
    def auth(name: str) -> dict[str, str]:
        return {"username": name, "password": "x"}

    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {"r.example": auth("wide"), "r.example/team": auth("narrow")}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(path))
    for repository, name in (("team/app", "narrow"), ("other/app", "wide")):
        found = registry_login.find("r.example", repository)
        assert found is not None
        assert found.name == name


ANY = st.recursive(
    st.none() | st.integers() | st.text(max_size=9), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner)
)


@given(
    st.binary(max_size=99) | ANY.map(lambda tags: json.dumps({"tags": tags}).encode()) | ANY.map(lambda value: json.dumps(value).encode())
)
def test_any_list_of_tags_is_read_or_refused(data):
    try:
        found = parse_tags(data)
    except SteleError as error:
        assert error.code == "registry.bad-answer"
    else:
        assert all(references.parse(f"r.example/shop:{tag}").tag == tag for tag in found)


def test_a_list_of_tags():
    assert parse_tags(b'{"name":"shop","tags":["v1","../v2","update-1","a b",""]}') == ["v1", "update-1"]
    assert parse_tags(b'{"name":"shop","tags":null}') == []
