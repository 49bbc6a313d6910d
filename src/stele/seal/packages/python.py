"""Python's records: `*.dist-info/METADATA` and `RECORD` (PyPA: core metadata, recording installed projects)."""

from __future__ import annotations

import csv
import posixpath
import re
from typing import TYPE_CHECKING

from stele.model.tree import parent
from stele.seal.packages.package import Package
from stele.seal.packages.records import text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

    from stele.seal.packages.records import Records

_END = b".dist-info/METADATA"
_MAX_LICENCE = 200  # characters: some projects put the whole text into the field


def find(records: Records) -> Iterator[Package]:
    """The distributions that Python finds installed."""
    for node in records.tree.nodes if records.is_in_a_path(_END) else ():
        if node.path.endswith(_END) and node.kind == "file":
            folder = parent(node.path)
            # the body is the description, as long as a book and of no interest
            from email.parser import HeaderParser  # much, and needed by few trees

            head = HeaderParser().parsestr(records.read(node.path).partition(b"\n\n")[0].decode("utf-8", "replace").replace("\r", ""))
            name, version = head.get("Name"), head.get("Version")
            if name and version:
                yield Package(
                    ecosystem="python",
                    name=re.sub(r"[-_.]+", "-", text(str(name).encode("utf-8", "replace"))).lower(),
                    version=text(str(version).encode("utf-8", "replace")),
                    licence=_licence(head),
                    paths=_paths(records, folder),
                    database=tuple(below.path for below in records.tree.below(folder) if below.kind == "file"),
                )


def _paths(records: Records, folder: bytes) -> tuple[bytes, ...]:
    """What RECORD lists, which is relative to the folder that the `.dist-info` lies in."""
    site = parent(folder)
    names = [below.path for below in records.tree.below(folder)]
    for line in _rows(records.read(folder + b"/RECORD")):
        listed = line.encode("utf-8", "surrogateescape")
        path = posixpath.normpath(posixpath.join(b"/" + site, listed))[1:]
        names.append(path)
    return records.owned(names)


def _rows(data: bytes) -> Iterator[str]:
    try:
        for row in csv.reader(data.decode("utf-8", "surrogateescape").splitlines()):
            if row and row[0] and "\0" not in row[0]:
                yield row[0]
    except csv.Error:
        return  # the rest cannot be told apart


def _licence(head: Message) -> str:
    """The SPDX expression where there is one, else the short field, else the classifiers."""
    for key in ("License-Expression", "License"):
        value = text(str(head.get(key, "")).encode("utf-8", "replace"), 2 * _MAX_LICENCE)
        if value and value.upper() != "UNKNOWN" and len(value) <= _MAX_LICENCE:
            return value
    classes = [str(value).rpartition("::")[2].strip() for value in head.get_all("Classifier", []) if str(value).startswith("License ::")]
    return text(" AND ".join(name for name in classes if name != "OSI Approved").encode("utf-8", "replace"))
