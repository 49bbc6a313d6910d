"""The runtime configuration: a snapshot, and what no spec whatsoever can talk it into."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.model import spec as specs
from stele.run import plan, syscall_policy
from stele.trust.errors import SteleError

VECTOR = Path(__file__).parents[1] / "vectors" / "run" / "config.json"
PLACE = plan.Place(
    id="shop-0a1b2c",
    uid_base=0x7000_0000,
    rootfs="/run/stele/0123abcd/instances/shop-0a1b2c/rootfs",
    data={"/srv/data": "/run/stele/t/instances/i/data/0"},
    volumes={"/var/lib/shop": "/run/stele/0123abcd/instances/shop-0a1b2c/vol/0"},
    netns="/run/netns/stele-0123abcd-shop-0a1b2c",
    cgroup="stele-0123abcd/shop-0a1b2c",
    listener="/run/stele/0123abcd/seccomp.sock",
    machine="x86_64",
    open_files=65536,
)
PLAIN = {
    "stele": 0,
    "name": "shop",
    "command": ["/usr/sbin/nginx", "-g", "daemon off;"],
    "env": {"LANG": "C.UTF-8"},
    "user": "33:33",
    "workdir": "/srv",
    "ports": [{"container": 8080, "host": 8080}],
    "writable": [
        {"path": "/var/cache/nginx", "size": "8MiB", "mode": "0700", "owner": "33:33"},
        {"path": "/var/lib/shop", "kind": "volume", "volume": "state"},
        {"path": "/var/cache"},
    ],
    "resources": {"memory": "64MiB", "pids": 64},
}


def test_snapshot() -> None:
    """Regenerate deliberately: python tests/unit/test_run_plan.py."""
    made = plan.oci_config(specs.from_builtins(PLAIN), PLACE)
    assert made == json.loads(VECTOR.read_text("utf-8"))


NAMES = st.sampled_from(["a", "b", "lib", "tmp", "proc", "dev", "sys", "bin", "etc"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
WRITABLE = st.fixed_dictionaries(
    {
        "path": PATHS,
        "kind": st.sampled_from(["tmpfs", "volume"]),
        "size": st.sampled_from(["1", "64KiB", "1TiB", "16MiB"]),
        "mode": st.from_regex(r"\A[0-7]{3,4}\Z"),
        "owner": st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda pair: f"{pair[0]}:{pair[1]}"),
    }
).map(lambda item: {**item, "volume": "v" if item["kind"] == "volume" else ""})
SPECS = st.fixed_dictionaries(
    {
        "stele": st.just(0),
        "name": st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z"),
        "command": st.lists(TEXT, max_size=3).map(lambda rest: ["/bin/x", *rest]),
        "env": st.dictionaries(TEXT.filter(lambda key: bool(key) and "=" not in key), TEXT, max_size=3),
        "user": st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda pair: f"{pair[0]}:{pair[1]}"),
        "writable": st.lists(WRITABLE, max_size=4),
        "hostname": TEXT,
        "network": st.fixed_dictionaries({"egress": st.sampled_from(["none", "any"])}),
    }
)


@given(SPECS)
def test_no_spec_gets_a_capability_a_writable_executable_mount_or_more_of_the_host(plain) -> None:
    try:
        spec = specs.from_builtins(plain)
    except SteleError:
        return
    volumes = {item.path: f"/prepared/{number}" for number, item in enumerate(spec.writable) if item.kind == "volume"}
    made = plan.oci_config(spec, msgspec.structs.replace(PLACE, volumes=volumes))
    assert set(made["process"]["capabilities"]) == set(plan.CAPABILITY_SETS)
    assert not any(made["process"]["capabilities"].values())
    assert made["process"]["noNewPrivileges"] is True
    assert made["root"] == {"path": PLACE.rootfs, "readonly": True}
    for mount in made["mounts"]:
        assert {"noexec", "nosuid"} <= set(mount["options"]), mount
        assert "exec" not in mount["options"]
        assert "dev" not in mount["options"]
        assert mount["type"] in {"proc", "tmpfs", "devpts", "mqueue", "bind"}
        if mount["type"] == "bind":
            assert mount["source"] in volumes.values()
        if mount["type"] == "tmpfs":
            assert any(option.startswith("size=") for option in mount["options"])
    assert {item["type"] for item in made["linux"]["namespaces"]} == {"pid", "ipc", "uts", "mount", "user", "cgroup", "network"}
    assert made["linux"]["uidMappings"] == made["linux"]["gidMappings"] == [{"containerID": 0, "hostID": PLACE.uid_base, "size": 65536}]
    assert made["linux"]["seccomp"] == syscall_policy.oci_seccomp("x86_64", PLACE.listener, PLACE.id)
    assert made["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]


def test_a_nested_writable_path_is_mounted_after_its_parent() -> None:
    paths = [mount["destination"] for mount in plan.oci_config(specs.from_builtins(PLAIN), PLACE)["mounts"]]
    assert paths.index("/var/cache") < paths.index("/var/cache/nginx")


def test_policy_names_each_call_once_and_allows_nothing_forbidden() -> None:
    allowed, forbidden = set(syscall_policy.ALLOWED), set(syscall_policy.FORBIDDEN)
    conditional = {"socket", "clone", "clone3", "memfd_create"}
    assert len(allowed) == len(syscall_policy.ALLOWED)
    assert not allowed & (forbidden | conditional | set(syscall_policy.WATCHED))
    assert not forbidden & conditional


@pytest.mark.parametrize("machine", sorted(syscall_policy.ARCHITECTURES))
def test_policy_denies_by_default_and_notifies_of_every_namespace_bit(machine) -> None:
    made = syscall_policy.oci_seccomp(machine, "/l", "id")
    assert made["defaultAction"] == "SCMP_ACT_ERRNO"
    assert len(made["architectures"]) == 1
    notified = {rule["args"][0]["value"] for rule in made["syscalls"] if rule["names"] == ["clone"] and rule["action"] == "SCMP_ACT_NOTIFY"}
    assert notified == {1 << bit for bit in (17, 25, 26, 27, 28, 29, 30)}
    (clone3,) = [rule for rule in made["syscalls"] if rule["names"] == ["clone3"]]
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


if __name__ == "__main__":
    VECTOR.parent.mkdir(parents=True, exist_ok=True)
    VECTOR.write_text(json.dumps(plan.oci_config(specs.from_builtins(PLAIN), PLACE), indent=1) + "\n", "utf-8")
