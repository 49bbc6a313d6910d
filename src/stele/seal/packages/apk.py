"""apk's record `installed` (Alpine's apk-tools: one letter, colon, value; paragraphs; `F:` directory, `R:` file in it)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stele.seal.packages.package import Package
from stele.seal.packages.records import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stele.seal.packages.records import Records

DATABASES = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")


def find(records: Records) -> Iterator[Package]:
    """The packages that apk has installed."""
    for database in DATABASES:
        for paragraph in records.read(database).split(b"\n\n"):
            fields: dict[bytes, bytes] = {}
            folder, files = b"", []
            for line in paragraph.split(b"\n"):
                key, value = line[:2], line[2:]
                if key == b"F:":
                    folder = value
                elif key == b"R:":
                    files.append(folder + b"/" + value)
                elif key[1:] == b":":
                    fields.setdefault(key[:1], value)
            if fields.get(b"P") and fields.get(b"V"):
                version = text(fields[b"V"])
                yield Package(
                    ecosystem="apk",
                    name=text(fields[b"P"]),
                    version=version,
                    architecture=text(fields.get(b"A", b"")),
                    licence=text(fields.get(b"L", b"")),
                    source=f"{text(fields[b'o'])} {version}" if fields.get(b"o") else "",
                    paths=records.owned(files),
                )
