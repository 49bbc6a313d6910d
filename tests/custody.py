"""Holding and redacting in tests, and what is seen of it."""

from __future__ import annotations

from click.testing import CliRunner
from hypothesis import strategies as st

from stele.cli.app import cli
from stele.flow import custody, reading
from stele.flow.places import Places
from stele.model.event import Entry
from stele.model.hold import On
from stele.model.redaction import Selection
from stele.trust.errors import SteleError

RELEASE, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SECRET = b"hunter2"
JSON = st.recursive(st.none() | st.booleans() | st.integers(-3, 5) | st.sampled_from(["argv", "", "A", "path"]), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["entries", "fields", "erased", "hold", "on", "workload", "release"]), inner, max_size=3)
), max_leaves=12)  # fmt: skip


def redact(places: Places, reason: str = "a password", **selection) -> dict:
    if "indexes" in selection:
        selection["indexes"] = frozenset(selection["indexes"])
    with custody.alone(places) as mine:
        return mine.redact(Selection(**selection), reason, "bob as root")


def place(places: Places, **on) -> str:
    with custody.alone(places) as mine:
        return mine.place(On(**on), "case 17", "carol")["hold"]


def end(places: Places, name: str) -> None:
    with custody.alone(places) as mine:
        mine.release(name, "case closed", "carol")


def shown(places: Places) -> dict[int, Entry]:
    return dict(reading.entries(places))


def holding(places: Places, text: bytes) -> set[str]:
    return {str(path.relative_to(places.data)) for path in places.data.rglob("*") if path.is_file() and text in path.read_bytes()}


def problems(places: Places) -> list[str]:
    return reading.check(places, None, None)["problems"]


def run(places: Places, *argv: str, status: int = 0) -> str:
    made = CliRunner().invoke(cli, ["--data", str(places.data), *argv])
    if isinstance(made.exception, SteleError):
        assert status, made.exception
        return made.exception.code
    assert made.exit_code == status, made.output
    return made.stdout
