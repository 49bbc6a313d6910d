"""Changes of the trust policy by several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from stele.flow import initialise, keyring
from stele.flow.places import Places
from stele.trust import policy as policies
from stele.trust.errors import SteleError
from stele.trust.release_key import PrivateKey


def test_no_change_of_the_policy_is_lost_where_several_change_it_at_once(tmp_path):
    places = Places(tmp_path / "data")
    initialise.make_keys(places)
    recorded: list[str] = []
    ring = keyring.Ring(places, lambda _workload, kind, **_facts: recorded.append(kind))
    names = [f"signer{number}" for number in range(8)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: keyring.add(ring, name, PrivateKey.generate().public), names))
        list(pool.map(lambda name: keyring.require(ring, f"of-{name}", 1, (name,)), names))
    policy = policies.parse(places.policy.read_bytes())
    assert {key.signer for key in policy.keys} == {"release", *names}
    assert {rule.pattern for rule in policy.rules} == {"*", *(f"of-{name}" for name in names)}
    assert sorted(recorded) == ["key.added"] * len(names) + ["key.required"] * len(names)


@pytest.mark.parametrize(("threshold", "names"), [(2, ("release",)), (1, ("nobody",))])
def test_a_rule_that_is_not_possible_changes_nothing_and_that_is_said(tmp_path, threshold, names):
    places = Places(tmp_path / "data")
    initialise.make_keys(places)
    before = places.policy.read_bytes()
    ring = keyring.Ring(places, lambda *_, **__: pytest.fail("it was recorded"))
    with pytest.raises(SteleError, match="nothing was changed") as raised:
        keyring.require(ring, "shop", threshold, names)
    assert raised.value.code == "trust.bad-policy"
    assert "until then no release is accepted" not in raised.value.remedy
    assert places.policy.read_bytes() == before
