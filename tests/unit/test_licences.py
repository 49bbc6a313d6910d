"""What packages say of their licences, and the URLs by which packages are looked up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.seal import licences, sbom
from stele.seal.packages import Package

BOOKWORM = sbom.System("debian", "12", "Debian GNU/Linux")
NONE = sbom.System("", "", "")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("MIT", "MIT"),
        ("mit", "MIT"),
        ("Expat", "MIT"),
        ("MIT/X11", "MIT"),
        ("Apache 2.0", "Apache-2.0"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPLv3", "GPL-3.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("AGPL-3.0-only", "AGPL-3.0-only"),
        ("GPL-2.0.0+", "GPL-2.0-or-later"),
        ("GFDL-1.3+", "GFDL-1.3-or-later"),
        ("GFDL-NIV-1.3", "GFDL-1.3-no-invariants-only"),
        ("GPL-2+ or Expat", "GPL-2.0-or-later OR MIT"),
        ("(MIT OR Apache-2.0)", "(MIT OR Apache-2.0)"),
        ("MIT and (BSD-2-clause or ISC)", "MIT AND (BSD-2-Clause OR ISC)"),
        ("GPL-3.0-only WITH GCC-exception-3.1", "GPL-3.0-only WITH GCC-exception-3.1"),
    ],
)
def test_names_in_use_become_expressions(said: str, meant: str) -> None:
    assert licences.expression(said) == meant
    assert licences.expression(f"  {said} ") == meant


@pytest.mark.parametrize(
    "said",
    [
        "",
        "see LICENSE",
        "MIT OR",
        "OR MIT",
        "(MIT",
        "MIT)",
        "MIT MIT",
        "MIT OR whatever-they-like",
        "GPL-2 WITH nothing",
        "GPL-9+",
        "(" * 500,
    ],
)
def test_what_is_no_expression_is_none(said: str) -> None:
    assert licences.expression(said) == ""


@given(st.text())
def test_any_text_gives_an_expression_of_known_names_or_none(text: str) -> None:
    found = licences.expression(text)
    words = found.replace("(", " ").replace(")", " ").split()
    ids, exceptions = licences._ids()
    known = {*ids.values(), *exceptions.values(), "AND", "OR", "WITH"}
    assert all(word in known or licences.identify(word) == word for word in words)
    assert licences.expression(found) == found


def test_a_copyright_file_by_stanzas_and_one_in_prose() -> None:
    dep5 = b"Format: https://www.debian.org/doc/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+\n\nLicense: Expat.\n text\n"
    assert licences.of_copyright(dep5) == ("Expat", "GPL-2+")
    prose = b"It is under the GPL, see /usr/share/common-licenses/GPL-3 and /usr/share/common-licenses/LGPL-2.1.\nLicense: nonsense\n"
    assert licences.of_copyright(prose) == ("GPL-3", "LGPL-2.1")
    assert licences.of_copyright(b"") == ()
    assert len(licences.of_copyright(b"Format: x\n" + b"".join(b"License: L%d\n" % number for number in range(999)))) == licences.MAX_NAMES


@given(st.binary(max_size=2000))
def test_any_copyright_file_gives_printable_names(data: bytes) -> None:
    for name in (*licences.of_copyright(data), *licences.of_copyright(b"Format: 1\n" + data)):
        assert 0 < len(name) <= licences.MAX_NAME
        assert name.isprintable()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), []),
        (("",), []),
        (("MIT",), [{"license": {"id": "MIT"}}]),
        (("Expat", "MIT", "GPL-2+"), [{"license": {"id": "GPL-2.0-or-later"}}, {"license": {"id": "MIT"}}]),
        (("MIT OR ISC",), [{"expression": "MIT OR ISC"}]),
        (("MIT OR ISC", "GPL-2"), [{"expression": "GPL-2.0-only AND (MIT OR ISC)"}]),
        (("mine", "MIT"), [{"license": {"id": "MIT"}}, {"license": {"name": "mine"}}]),
        (("mine", "MIT OR ISC"), [{"license": {"name": "MIT OR ISC"}}, {"license": {"name": "mine"}}]),
    ],
)
def test_choices_are_ids_names_or_one_expression(names: tuple[str, ...], found: list[object]) -> None:
    assert licences.choices(names) == found


def package(ecosystem: Any, name: str, version: str, architecture: str = "", source: str = "") -> Package:
    return Package(ecosystem=ecosystem, name=name, version=version, architecture=architecture, source=source, paths=())


@pytest.mark.parametrize(
    ("found", "system", "url"),
    [
        (
            package("deb", "libc6", "2.36-9", "amd64", "glibc"),
            BOOKWORM,
            "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12&upstream=glibc",
        ),
        (
            package("deb", "bash", "5.2.15-2+b2", "amd64", "bash 5.2.15-2"),
            NONE,
            "pkg:deb/debian/bash@5.2.15-2%2Bb2?arch=amd64&upstream=bash%405.2.15-2",
        ),
        (
            package("deb", "gcc-12-base", "1:12~x", "all", "gcc-12 12.2"),
            BOOKWORM,
            "pkg:deb/debian/gcc-12-base@1:12~x?arch=all&distro=debian-12&upstream=gcc-12%4012.2",
        ),
        (
            package("apk", "musl", "1.2.4-r2", "x86_64"),
            sbom.System("alpine", "3.19", ""),
            "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.19",
        ),
        (
            package("rpm", "Zlib", "1:1.2-3", "x86_64"),
            sbom.System("fedora", "40", ""),
            "pkg:rpm/fedora/Zlib@1.2-3?arch=x86_64&distro=fedora-40&epoch=1",
        ),
        (package("python", "django", "5.1.2"), BOOKWORM, "pkg:pypi/django@5.1.2"),
        (package("npm", "@scope/Name", "1.0.0"), BOOKWORM, "pkg:npm/%40scope/name@1.0.0"),
        (package("npm", "left-pad", "1.0.0"), NONE, "pkg:npm/left-pad@1.0.0"),
        (package("python", "a b", "1/2?3#4"), NONE, "pkg:pypi/a%20b@1%2F2%3F3%234"),
    ],
)
def test_package_urls(found: Package, system: sbom.System, url: str) -> None:
    assert sbom.purl(found, system) == url
