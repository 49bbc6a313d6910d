"""The demo's application and attacks hold together before anything runs."""

import io
import struct
import tarfile
from pathlib import Path

import pytest

from examples.demo import attacks, elf, ports
from examples.demo.screen import printable, took
from examples.shop import build
from stele.model import spec


@pytest.mark.parametrize("version", build.VERSIONS)
def test_specs_are_valid_and_publish_the_documented_port(version: str) -> None:
    found = spec.parse_yaml((build.HERE / version / "stele.yaml").read_bytes())
    assert [(port.container, port.host) for port in found.ports] == [(8080, 18080)]
    assert found.user == "33:33"
    assert all((build.HERE / version / setting.source).is_file() for setting in found.settings if setting.source)


def test_page_shows_its_version() -> None:
    for version in build.VERSIONS:
        assert f"shop version {version[1:]}" in (build.HERE / version / "site" / "index.html").read_text()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_attack_fits_one_request_line(machine: str) -> None:
    for attack in attacks.catalogue(machine):
        request = attacks.target(attack.line)
        assert len(request) < 4096, attack.key
        assert " " not in request
        assert "&" not in request.partition("name=")[2]


def test_prize_is_not_in_what_the_attacker_sends_by_itself() -> None:
    """A shell that only echoed its input back must not count as a success: drop, memory and loader print from a program."""
    for attack in attacks.catalogue("x86_64"):
        if attack.key in {"drop", "memory"}:
            assert attack.prize not in attack.line


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_tiny_program_is_an_elf_file_whose_segment_is_the_whole_file(machine: str, number: int) -> None:
    data = elf.tiny("hello\n", machine)
    assert data[:5] == b"\x7fELF\x02"
    assert struct.unpack_from("<H", data, 18)[0] == number
    assert struct.unpack_from("<QQ", data, 64 + 32) == (len(data), len(data))
    assert data.endswith(b"hello\n")


def test_filter_drops_device_nodes_and_traces_of_the_building_host() -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, kind in (("./dev", tarfile.DIRTYPE), ("./dev/null", tarfile.CHRTYPE), ("./etc/passwd", tarfile.REGTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type = kind
            tar.addfile(entry)
        traces = "etc/apt/apt.conf.d/99mmdebstrap etc/apt/sources.list var/log/dpkg.log etc/hostname run/lock etc/passwd-"
        for name in traces.split():
            tar.addfile(tarfile.TarInfo(f"./{name}"))
    raw.seek(0)
    out = io.BytesIO()
    build._filter(raw, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert tar.getnames() == ["./dev", "./etc/passwd"]


def test_layer_of_the_shop_is_the_same_each_time_and_differs_by_version() -> None:
    assert build._shop_layer("v1") == build._shop_layer("v1")
    assert build._shop_layer("v1") != build._shop_layer("v2")


def test_holder_of_a_busy_port_is_named() -> None:
    import os
    import socket

    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert not ports.is_free(port)
        assert f"(process {os.getpid()})" in ports.holder(port)
        assert ports.next_free(port) > port
    assert ports.is_free(port)


def test_attackers_bytes_cannot_drive_the_terminal() -> None:
    assert printable("\x1b[2Jok\r") == "\\x1b[2Jok\\x0d"


def test_durations_are_readable() -> None:
    assert [took(0.000_05), took(0.0123), took(2.5)] == ["50 µs", "12.3 ms", "2.50 s"]


def test_layout_holds_both_images_with_digests_that_match(tmp_path: Path) -> None:
    import hashlib
    import json

    base = tmp_path / "shop-base-x.tar"
    with tarfile.open(base, "w") as tar:
        tar.addfile(tarfile.TarInfo("etc/passwd"))
    layout = tmp_path / "shop-y"
    build._build_layout(layout, base, lambda _: None)
    index = json.loads((layout / "index.json").read_text())
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]] == ["v1", "v2"]
    for blob in (layout / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    assert len(list((layout / "blobs" / "sha256").iterdir())) == 1 + 2 * 3
