"""What packages say of their licences, as SPDX expressions where it is one (docs/spec/sbom.md, Licences). Pure."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import Any

MAX_COPYRIGHT = 512 << 10  # bytes of a Debian copyright file that are read
MAX_NAMES = 40  # licences of one package
MAX_NAME = 120  # characters
_TOKEN = re.compile(r"\s*([()]|[A-Za-z0-9.+-]+)")
_GNU = re.compile(r"(A|L)?GPL-?v?([123])(\.[0-9])?(?:\.0)*(\+|-only|-or-later)?\Z", re.IGNORECASE)
_GFDL = re.compile(r"GFDL(-NIV)?-(1\.[123])(\+)?\Z", re.IGNORECASE)
_COMMON, _COMMON_NAME = b"/usr/share/common-licenses/", re.compile(rb"[A-Za-z0-9.+-]{1,40}")
_STANZA, _STANZA_NAME = b"\nLicense:", re.compile(rb"[ \t]*([^\n]{1,300})$", re.MULTILINE)
# other names in wide use, lower case
_OTHER = {
    "apache": "Apache-2.0", "apache 2": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0", "apache license version 2.0": "Apache-2.0", "apache software license": "Apache-2.0",
    "apache-2": "Apache-2.0", "apache2": "Apache-2.0", "artistic": "Artistic-1.0-Perl", "boost": "BSL-1.0", "expat": "MIT",
    "mit license": "MIT", "mit licence": "MIT", "the mit license": "MIT", "mit/x11": "MIT", "mit/expat": "MIT",
    "isc license": "ISC", "isc license (iscl)": "ISC", "bsd-2": "BSD-2-Clause", "bsd-3": "BSD-3-Clause", "2-clause bsd": "BSD-2-Clause",
    "bsd 2-clause": "BSD-2-Clause", "bsd 3-clause": "BSD-3-Clause", "3-clause bsd": "BSD-3-Clause", "3-clause bsd license": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause", "new bsd": "BSD-3-Clause", "new bsd license": "BSD-3-Clause", "cc0": "CC0-1.0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0", "mpl 2.0": "MPL-2.0", "psf": "PSF-2.0", "psf-2": "PSF-2.0", "psfl": "PSF-2.0",
    "python software foundation license": "PSF-2.0", "the unlicense (unlicense)": "Unlicense", "zlib/libpng": "Zlib",
    "gnu general public license v2 (gplv2)": "GPL-2.0-only", "gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later",
    "gnu general public license v3 (gplv3)": "GPL-3.0-only", "gnu general public license v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only", "zope public license": "ZPL-2.1",
}  # fmt: skip


@cache
def _ids() -> tuple[dict[str, str], dict[str, str]]:
    """Licence and exception ids, by their lower-case spelling."""
    with open(os.path.join(os.path.dirname(__file__), "spdx-ids.txt"), encoding="ascii") as file:  # importlib.resources is a lot to load
        lines = file.readlines()
    licences, exceptions = ({name.lower(): name for name in line.split()} for line in lines)
    return licences, exceptions


@cache
def identify(name: str) -> str:
    """The SPDX id of one licence's name, "" where there is none."""
    name = name.strip()
    licences, _ = _ids()
    if name.lower() in licences:
        return licences[name.lower()]
    if found := _GNU.match(name):
        version = found[2] + (found[3] or ".0")
        later = found[4] in {"+", "-or-later"}
        guess = f"{(found[1] or '').upper()}GPL-{version}-{'or-later' if later else 'only'}"
        return licences.get(guess.lower(), "")
    if found := _GFDL.match(name):
        return f"GFDL-{found[2]}{'-no-invariants' if found[1] else ''}-{'or-later' if found[3] else 'only'}"
    return _OTHER.get(name.lower(), "")


def expression(text: str) -> str:
    """An SPDX expression for what a package says of its licence, "" where it cannot be mapped whole.

    Debian's and npm's spellings are understood: `GPL-2+ or Expat`, `(MIT OR Apache-2.0)`, `MIT/X11`.
    """
    text = text.strip()
    if single := identify(text):
        return single
    out: list[str] = []
    depth, wants = 0, True  # wants: a licence, not an operator
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or len(out) > 4 * MAX_NAMES:
            return ""
        at, word = found.end(), found[1]
        if word == "(" and wants:
            depth += 1
        elif word == ")" and not wants and depth:
            depth -= 1
        elif word.upper() in {"AND", "OR", "WITH"} and not wants:
            word, wants = word.upper(), True
        elif wants and word not in "()":
            word = _ids()[1].get(word.lower(), "") if out and out[-1] == "WITH" else identify(word)
            wants = False
        else:
            return ""
        if not word:
            return ""
        out.append(word)
    return "" if depth or wants else " ".join(out).replace("( ", "(").replace(" )", ")")


def of_copyright(data: bytes) -> tuple[str, ...]:
    """The licences that a Debian copyright file names, sorted: of its stanzas (DEP-5), else of common licences that it refers to."""
    data = b"\n" + data[:MAX_COPYRIGHT]
    before, name = (_STANZA, _STANZA_NAME) if b"\nFormat:" in data[:4097] else (_COMMON, _COMMON_NAME)
    found = [match[match.lastindex or 0] for match in map(name.match, data.split(before)[1:]) if match]
    names = {b" ".join(text.split()).strip(b" .,").decode("utf-8", "replace")[:MAX_NAME] for text in found}
    return tuple(sorted(name for name in names if name and name.isprintable()))[:MAX_NAMES]


def choices(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """CycloneDX's `licenses`: ids and names, or one expression where one of several is itself an expression. All of them hold."""
    mapped = {name: expression(name) for name in names if name}
    expressions = sorted(set(mapped.values()) - {""})
    if "" not in mapped.values() and any(" " in text for text in expressions):
        whole = expressions[0] if len(expressions) == 1 else " AND ".join(f"({t})" if " OR " in t else t for t in expressions)
        return [{"expression": whole}]
    ids = [{"license": {"id": text}} for text in expressions if " " not in text]
    others = sorted({text if " " in text else name for name, text in mapped.items() if not text or " " in text})
    return [*ids, *({"license": {"name": name[:MAX_NAME]}} for name in others)]
