"""What is kept of an instance in the run folder, and where (docs/spec/instance.md).

The record is written before anything of the instance is made, so that whoever comes after a kill finds all of it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TypeVar

import msgspec

from stele.host import durable
from stele.model.instance import Instance
from stele.trust.errors import SteleError

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to be made. `images`: hex digests of the strata. `slot`: -1 until one is taken."""

    id: str
    workload: str
    release: str
    images: tuple[str, ...]
    slot: int = -1
    veth: str = ""
    address: str = ""


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says that an instance is evidence: nobody but its release by an operator may thaw, kill or remove it."""

    incident: str


class Folder:
    """The paths of one instance within the run folder."""

    def __init__(self, run_dir: Path, instance: str) -> None:
        self.id = instance
        self.run_dir = run_dir
        self.tag = run_dir.name
        self.path = run_dir / "instances" / instance
        self.record = self.path / "record.json"
        self.instance = self.path / "instance.json"
        self.mark = self.path / "quarantined.json"
        self.rootfs = self.path / "rootfs"
        self.skeleton = self.path / "skeleton"
        self.volumes = self.path / "vol"
        self.data = self.path / "data"
        self.bundle = self.path / "bundle"
        self.conmon_pid = self.path / "conmon.pid"
        self.exit = self.path / "exit" / instance
        self.state = run_dir / "runc" / instance
        self.kept_state = run_dir / "quarantine" / instance
        self.netns = f"stele-{self.tag}-{instance}"
        self.cgroup = f"stele-{self.tag}/{instance}"

    def write_record(self, record: Record) -> None:
        """Replace the record."""
        durable.write(self.record, msgspec.json.encode(record), mode=0o600)

    def read_record(self) -> Record | None:
        """The record; None if the maker was killed before it was written: then nothing else was made."""
        return _read(self.record, Record)

    def write_instance(self, instance: Instance) -> None:
        """From here on the instance is complete."""
        durable.write(self.instance, msgspec.json.encode(instance), mode=0o600)

    def read_instance(self) -> Instance | None:
        """The instance; None if it was never completed."""
        return _read(self.instance, Instance)

    def write_mark(self, mark: Mark) -> None:
        """Mark as evidence."""
        durable.write(self.mark, msgspec.json.encode(mark), mode=0o600)

    def read_mark(self) -> Mark | None:
        """The mark; None if it is not evidence."""
        return _read(self.mark, Mark)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise SteleError(
            f"{path} cannot be read: {error}",
            remedy="it was altered by somebody else; stop the agent, look at the instance, and remove the folder",
            code="run.bad-record",
        ) from error


def folders(run_dir: Path) -> list[Folder]:
    """Every instance folder, complete or not, by id."""
    with contextlib.suppress(FileNotFoundError):
        return [Folder(run_dir, path.name) for path in sorted((run_dir / "instances").iterdir()) if path.is_dir()]
    return []


def images_in_use(run_dir: Path) -> set[str]:
    """Hex digests of every stratum that an instance, complete or not, was recorded with."""
    records = [folder.read_record() for folder in folders(run_dir)]
    return {digest for record in records if record is not None for digest in record.images}
