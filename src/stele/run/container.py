"""Instances as runc containers: create (a spare), start, stop, remove, adopt; and what must never happen to evidence."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import secrets
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stele.host import durable, erofs_mount, mounts, netns, pidfd, slots, userns
from stele.host.freezer import Freezer
from stele.model.instance import Instance
from stele.model.spec import parse_mode, parse_owner
from stele.run import conmon, plan, teardown
from stele.run.record import Folder, Mark, Record, folders
from stele.trust.digest import digest_hex
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stele.host.slots import Slot
    from stele.host.ways import Ways
    from stele.model.release import Release
    from stele.model.spec import Writable
    from stele.run.network import Network

log = logging.getLogger(__name__)
CREATE_LIMIT_S = 60.0
START_LIMIT_S = 20.0
FREEZE_LIMIT_S = 5.0
KILL_LIMIT_S = 10.0
EXIT_FILE_LIMIT_S = 2.0
KILLED = 128 + signal.SIGKILL
FRESH = ".new-"
_one_volume = threading.Lock()


def _make_volume(folder: Path, item: Writable) -> None:
    """Make an empty volume with its declared owner and mode; one that is there already is left as it is.

    It appears under its name only when it is ready: whoever is killed half-way leaves a temporary name.
    """
    with _one_volume:  # a rename would replace an empty folder that another instance has just made
        if folder.exists():
            return
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.parent.glob(f"{FRESH}*"):
            left.rmdir()
        fresh = Path(tempfile.mkdtemp(prefix=FRESH, dir=folder.parent))
        os.chown(fresh, *parse_owner(item.owner))
        fresh.chmod(parse_mode(item.mode))
        fresh.rename(folder)
        durable.sync_dir(folder.parent)


def _images(release: Release, files: Sequence[Path]) -> list[erofs_mount.Image]:
    return [
        erofs_mount.Image(path, digest_hex(stratum.image), stratum.data_size, stratum.verity_root)
        for path, stratum in zip(files, release.strata, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Runs instances below one run folder. Thread-safe: different instances may be handled at the same time.

    `run_dir`: /run/stele/TAG. `logs`: folder of their output, kept after they are gone. `ways`: of this host.
    `listener`: the Unix socket that takes each instance's seccomp descriptor; whoever listens there must be up
    before `create`.
    """

    run_dir: Path
    logs: Path
    ways: Ways
    network: Network
    listener: Path

    # ---- coming into being --------------------------------------------------------------------

    def create(
        self, release: Release, images: Sequence[Path], volumes: Path, data: Mapping[str, tuple[Release, Sequence[Path]]] | None = None
    ) -> Instance:
        """Prepare an instance completely, up to its first instruction: a spare. Nothing of the release runs yet.

        Args:
            release: verified.
            images: the verified EROFS image of each of its strata, in their order.
            volumes: folder that holds `<workload>/<volume>/`.
            data: for each path of the spec's `data` the data set, verified, and its images as above.

        Raises:
            SteleError: `run.*`; nothing is left behind.
        """
        self._prepare_run_dir()
        folder = Folder(self.run_dir, f"{release.workload}-{secrets.token_hex(3)}")
        folder.path.mkdir()
        folder.path.chmod(0o711)
        try:
            return self._create(folder, release, images, volumes, data or {})
        except BaseException:
            with contextlib.suppress(SteleError):  # the sweep tries again; the reason for failing is what matters
                teardown.take_apart(folder, self.ways.cgroups, self.network)
            raise

    def _prepare_run_dir(self) -> None:
        for path, mode in (
            (self.run_dir.parent, 0o755),
            (self.run_dir, 0o711),  # user namespaces pass through on their way to their mounts
            (self.run_dir / "instances", 0o711),
            (self.run_dir / "strata", 0o700),
            (self.run_dir / "l", 0o700),
            (self.run_dir / "runc", 0o700),
            (self.run_dir / "quarantine", 0o700),
            (self.logs, 0o700),
        ):
            path.mkdir(mode=mode, parents=True, exist_ok=True)
            path.chmod(mode)  # whatever the umask, and whoever made it

    def _create(
        self,
        folder: Folder,
        release: Release,
        images: Sequence[Path],
        volumes: Path,
        data: Mapping[str, tuple[Release, Sequence[Path]]],
    ) -> Instance:
        strata = _images(release, images)
        sets = {path: _images(held, files) for path, (held, files) in data.items()}
        used = dict.fromkeys(image.digest for image in itertools.chain(strata, *sets.values()))
        made = Record(id=folder.id, workload=release.workload, release=release.digest, images=tuple(used))
        folder.write_record(made)
        slot = slots.take(self.run_dir.parent, folder.tag, folder.id)
        folder.write_record(msgspec.structs.replace(made, slot=slot.number, veth=slot.veth, address=slot.address))
        with ThreadPoolExecutor(1, "stele-network") as pool:
            network = pool.submit(self._make_network, folder, slot, release)
            verified = self._make_root(folder, slot, release, strata)
            bound = self._make_volumes(folder, slot, release, volumes)
            shown, data_verified = self._make_data(folder, slot, sets)
            network.result()
        place = plan.Place(
            id=folder.id,
            uid_base=slot.uid_base,
            rootfs=str(folder.rootfs),
            volumes=bound,
            data=shown,
            netns=str(netns.FOLDER / folder.netns),
            cgroup=folder.cgroup,
            listener=str(self.listener),
            machine=self.ways.machine,
            open_files=self.ways.open_files,
        )
        for path in (folder.bundle, folder.exit.parent):
            path.mkdir(mode=0o700)
        (folder.bundle / "config.json").write_bytes(msgspec.json.encode(plan.oci_config(release.spec, place)))
        log_path = self.logs / f"{folder.id}.log"
        pid = conmon.create(folder, log_path, CREATE_LIMIT_S)
        instance = self._describe(folder, slot, release, pid, kernel_verified=verified and data_verified, log_path=log_path)
        folder.write_instance(instance)
        return instance

    def _make_network(self, folder: Folder, slot: Slot, release: Release) -> None:
        netns.make(folder.netns, veth=slot.veth, address=slot.address, gateway=slot.gateway)
        self.network.admit(slot.veth, slot.address, release.spec.network.egress)

    def _make_root(self, folder: Folder, slot: Slot, release: Release, strata: list[erofs_mount.Image]) -> bool:
        """Mount the sealed root; True if the kernel verifies every block of it."""
        self._make_skeleton(folder, slot, release)
        return self._stack(folder, slot, strata, folder.skeleton, folder.rootfs)

    def _make_data(self, folder: Folder, slot: Slot, sets: Mapping[str, list[erofs_mount.Image]]) -> tuple[dict[str, str], bool]:
        """Mount data sets; path inside -> folder outside, and whether the kernel verifies every block of all."""
        shown: dict[str, str] = {}
        verified = True
        if sets:
            folder.data.mkdir()
            folder.data.chmod(0o711)
            empty = folder.data / "empty"  # an overlay of one layer needs another
            empty.mkdir(mode=0o755)
            for number, (path, strata) in enumerate(sorted(sets.items())):
                verified &= self._stack(folder, slot, strata, empty, folder.data / str(number))
                shown[path] = str(folder.data / str(number))
        return shown, verified

    def _stack(self, folder: Folder, slot: Slot, strata: list[erofs_mount.Image], lowest: Path, target: Path) -> bool:
        """Stack strata read-only at `target`, id-mapped, over `lowest`; True if the kernel verifies every block of them."""
        attached = erofs_mount.attach(
            self.run_dir / "strata", folder.tag, strata, verity=self.ways.verity, file_backed=self.ways.erofs == "file"
        )
        target.mkdir(mode=0o755)
        layers = self.run_dir / "l" / str(slot.number)
        layers.mkdir(mode=0o700)
        lowers = []
        with userns.mapped(slot.uid_base) as mapping:
            for number, stratum in enumerate(attached):
                (layers / str(number)).mkdir(mode=0o700)
                mounts.attach_mapped(stratum.folder, layers / str(number), mapping, mounts.RDONLY | mounts.NOSUID | mounts.NODEV)
                lowers.append(layers / str(number))
        # the last stratum is on top; the skeleton at the bottom only shows where the release has no mount point
        mounts.overlay([*reversed(lowers), lowest], target, way=self.ways.overlay, name=f"stele-{folder.tag}")
        for lower in lowers:  # the overlay holds clones of its own
            mounts.unmount(lower)
            lower.rmdir()
        layers.rmdir()
        return all(stratum.kernel_verified for stratum in attached)

    def _make_skeleton(self, folder: Folder, slot: Slot, release: Release) -> None:
        wanted = {folder.skeleton}
        for path in plan.mount_points(release.spec):
            inside = folder.skeleton / path.lstrip("/")
            wanted |= {inside, *(parent for parent in inside.parents if parent.is_relative_to(folder.skeleton))}
        for here in sorted(wanted):
            here.mkdir()
            here.chmod(0o755)  # whatever the umask
            os.chown(here, slot.uid_base, slot.uid_base)

    def _make_volumes(self, folder: Folder, slot: Slot, release: Release, volumes: Path) -> dict[str, str]:
        """Id-mapped clones of the volumes; path inside -> folder outside."""
        bound: dict[str, str] = {}
        named = [item for item in release.spec.writable if item.kind == "volume"]
        if not named:
            return bound
        folder.volumes.mkdir()
        folder.volumes.chmod(0o711)
        volumes.mkdir(mode=0o700, parents=True, exist_ok=True)
        with userns.mapped(slot.uid_base) as mapping:
            for number, item in enumerate(named):
                source = volumes / release.workload / item.volume
                _make_volume(source, item)
                target = folder.volumes / str(number)
                target.mkdir(mode=0o700)
                mounts.attach_mapped(source, target, mapping, mounts.NOSUID | mounts.NODEV | mounts.NOEXEC)
                bound[item.path] = str(target)
        return bound

    def _describe(self, folder: Folder, slot: Slot, release: Release, pid: int, *, kernel_verified: bool, log_path: Path) -> Instance:
        freezer = self.ways.cgroups.freezer(folder.cgroup, self.ways.freezer)
        return Instance(
            id=folder.id,
            workload=release.workload,
            release=release.digest,
            slot=slot.number,
            uid_base=slot.uid_base,
            address=slot.address,
            gateway=slot.gateway,
            netns=str(netns.FOLDER / folder.netns),
            veth=slot.veth,
            run_dir=str(self.run_dir),
            rootfs=str(folder.rootfs),
            root_dev=folder.rootfs.stat().st_dev,
            pid=pid,
            start_ticks=pidfd.start_ticks(pid),
            freezer=freezer.kind,
            freezer_dir=str(freezer.folder),
            cgroup_id=self.ways.cgroups.id_of(folder.cgroup),
            enforcement="kernel-verified" if kernel_verified else "verified at start, watched since",
            log=str(log_path),
        )

    # ---- living -------------------------------------------------------------------------------

    def start(self, instance: Instance) -> None:
        """Let a created instance run: its entry point is executed (and so asked about by the gate) from now on.

        Raises:
            SteleError: `run.start-failed`, `run.quarantined`.
        """
        folder = self._folder(instance)
        teardown.refuse_evidence(folder, self.ways.cgroups)
        pidfd.read_start_fifo(folder.state / "exec.fifo", instance.pid, instance.start_ticks, START_LIMIT_S)

    def ended(self, instance: Instance) -> str:
        """How an instance ended, in a few words; "" while it lives (created, running or frozen)."""
        if pidfd.is_alive(instance.pid, instance.start_ticks):
            return ""
        status = self._exit_status(instance)
        return f"killed by signal {status - 128}" if status > 128 else f"exit status {status}"

    def _exit_status(self, instance: Instance) -> int:
        """Exit status as conmon recorded it (128 + signal when killed); KILLED if it never did."""
        path = self._folder(instance).exit
        deadline = time.monotonic() + EXIT_FILE_LIMIT_S
        while True:
            with contextlib.suppress(OSError, ValueError):
                return int(path.read_text(encoding="ascii"))
            if time.monotonic() > deadline or not path.parent.exists():
                return KILLED
            time.sleep(0.002)

    def stop(self, instance: Instance, signal_name: str, grace_ms: int) -> int:
        """Ask an instance to end, kill it when it has not after `grace_ms`; returns its exit status.

        Raises:
            SteleError: `run.quarantined` (evidence is never stopped), `run.not-removed`.
        """
        teardown.refuse_evidence(self._folder(instance), self.ways.cgroups)
        number = signal.Signals[f"SIG{signal_name}"]
        if not pidfd.signal_and_wait(instance.pid, instance.start_ticks, number, grace_ms / 1000):
            # asked again: it may have been frozen as evidence while we waited
            teardown.refuse_evidence(self._folder(instance), self.ways.cgroups)
            if not pidfd.signal_and_wait(instance.pid, instance.start_ticks, signal.SIGKILL, KILL_LIMIT_S):
                raise SteleError(
                    f"{instance.id} did not end within {KILL_LIMIT_S:g} s of being killed",
                    remedy="it is stuck in the kernel; the next start of the agent tries again",
                    code="run.not-removed",
                    retryable=True,
                )
        return self._exit_status(instance)

    def remove(self, instance: Instance) -> None:
        """Remove every trace of an instance from the host, killing it if it lives. Idempotent; its log stays.

        Raises:
            SteleError: `run.quarantined` (evidence is never removed), `run.not-removed`.
        """
        folder = self._folder(instance)
        if folder.path.exists():
            teardown.refuse_evidence(folder, self.ways.cgroups)
            teardown.take_apart(folder, self.ways.cgroups, self.network)

    # ---- evidence -----------------------------------------------------------------------------

    def freezer(self, instance: Instance) -> Freezer:
        """The instance's freezer."""
        return Freezer(instance.freezer, Path(instance.freezer_dir))

    def is_frozen(self, instance: Instance) -> bool:
        """Whether it is frozen now; False if it is gone."""
        with contextlib.suppress(OSError):
            return self.freezer(instance).is_frozen()
        return False

    def freeze(self, instance: Instance) -> int:
        """Freeze an instance as it is; CLOCK_MONOTONIC nanoseconds of when it was.

        Raises:
            SteleError: `run.not-frozen`: the order stands and takes effect as soon as the kernel lets it.
        """
        freezer = self.freezer(instance)
        freezer.request()
        return freezer.await_frozen(FREEZE_LIMIT_S)

    def quarantine(self, instance: Instance, incident: str) -> None:
        """Make a frozen instance evidence: no command of ours or of runc can thaw, kill or remove it by accident.

        runc's state leaves runc's root, so that runc knows nothing of it; conmon, mounts and network stay. Idempotent.
        """
        folder = self._folder(instance)
        folder.write_mark(Mark(incident=incident))
        with contextlib.suppress(FileNotFoundError):  # moved already
            folder.state.rename(folder.kept_state)

    def quarantined(self) -> dict[str, Instance]:
        """The evidence on this host: incident -> instance."""
        out = {}
        for folder in folders(self.run_dir):
            mark, instance = folder.read_mark(), folder.read_instance()
            if mark is not None and instance is not None:
                out[mark.incident] = instance
        return out

    def release_quarantined(self, instance: Instance) -> None:
        """An operator's decision: the evidence is killed without running one more instruction, and removed.

        In v2 a killed task is reaped while it is frozen. In v1 the kill waits for the thaw, and is then the first
        thing that happens to each task. Idempotent.

        Raises:
            SteleError: `run.not-removed`.
        """
        folder = self._folder(instance)
        if not folder.path.exists():
            return
        freezer = self.freezer(instance)
        with contextlib.suppress(OSError):  # the cgroup is gone: so are the tasks
            for pid in freezer.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if freezer.kind == "v1":
                freezer.thaw()
        if not pidfd.signal_and_wait(instance.pid, instance.start_ticks, None, KILL_LIMIT_S):
            raise SteleError(
                f"{instance.id} did not end within {KILL_LIMIT_S:g} s of being killed",
                remedy="try again; it is stuck in the kernel",
                code="run.not-removed",
                retryable=True,
            )
        teardown.take_apart(folder, self.ways.cgroups, self.network)

    # ---- after a restart ----------------------------------------------------------------------

    def adopt(self) -> list[Instance]:
        """Every complete instance that is not evidence, living or ended. Call `sweep.sweep` first."""
        complete = [(folder.read_mark(), folder.read_instance()) for folder in folders(self.run_dir)]
        return [instance for mark, instance in complete if mark is None and instance is not None]

    def _folder(self, instance: Instance) -> Folder:
        return Folder(self.run_dir, instance.id)
