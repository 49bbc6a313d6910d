"""Opening a data folder's store and ledger.

What most commands do not need is imported when it is: this is on the way of all of them.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeVar

import msgspec

from stele.flow import rooted
from stele.flow.authority import Authority
from stele.host import locks
from stele.store.layout import Layout
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from stele.flow.places import Places
    from stele.ledger.read_only import ReadOnlyLedger
    from stele.ledger.sequencer import Ledger, Terms
    from stele.model.release import Release, Stratum
    from stele.model.tree import Node, Tree
    from stele.witness.ask import Behind
    from stele.witness.collect import Collector

_Held = TypeVar("_Held", bound="Ledger | ReadOnlyLedger")
_Done = TypeVar("_Done")
TURN_S = 60.0  # another command holds the ledger for some milliseconds, unless the disk is slow
LOOK_S = 0.01


def prepare() -> None:
    """Load what opening a ledger needs, while there is time."""
    from stele.ledger import recorded, sequencer  # noqa: F401


def open_ledger(places: Places) -> Ledger:
    """Open the ledger for writing.

    Raises:
        SteleError: `ledger.locked`, `ledger.damaged`, `trust.bad-key`, `trust.bad-root`, `trust.root-order`, `trust.root-missing`,
            `trust.no-ledger-key`, `witness.bad-policy`, `witness.bad-settings`.
    """
    from stele.ledger.sequencer import Ledger

    return _witnessed(places, lambda terms: Ledger.open(places.ledger, **msgspec.structs.asdict(terms)))


def in_turn(here: Callable[[], _Done], through_agent: Callable[[], _Done]) -> _Done:
    """Do what needs the ledger here, or through the agent where one holds it; while another command does, wait for that to end.

    Args:
        here: opens the ledger before it does anything.
        through_agent: asks the agent for the same.

    Raises:
        SteleError: what either of them raises; `ledger.locked`: after TURN_S another process that is no agent still held it.
        GivenUpError: Ctrl-C, while it waited.
    """
    deadline = time.monotonic() + TURN_S
    while True:
        try:
            return here()
        except SteleError as error:
            if error.code != "ledger.locked":
                raise
            locked = error
        try:
            return through_agent()
        except SteleError as error:
            if error.code != "agent.not-running":
                raise
        if time.monotonic() > deadline:
            raise locked
        try:
            time.sleep(LOOK_S)
        except KeyboardInterrupt as interrupt:
            raise locks.GivenUpError from interrupt


def hold_ledger(places: Places) -> Ledger | ReadOnlyLedger:
    """Open the ledger for writing, or hold it read-only where it does not fit.

    Raises:
        SteleError: `ledger.locked`, and as `open_ledger` where it is the keys or the policy that do not fit.
    """
    from stele.ledger.sequencer import Ledger

    return _witnessed(places, lambda terms: Ledger.open_or_hold(places.ledger, terms))


def _witnessed(places: Places, begin: Callable[[Terms], _Held]) -> _Held:
    """What `begin` opens, with the witnesses that are asked: what comes late goes into the ledger, their threads end with it."""
    from stele.ledger.sequencer import Ledger

    terms = _terms(places)
    collector = _collector(places, terms)
    try:
        held = begin(msgspec.structs.replace(terms, cosign=collector))
    except BaseException:
        if collector is not None:
            collector.close()
        raise
    if collector is not None:
        if isinstance(held, Ledger):
            collector.late = held.add_cosignatures
            held.witnesses = lambda: [each._asdict() for each in collector.standings()]
            collector.alarm = lambda behind: _tell(held, behind)
            held.at_close.append(collector.close)
        else:
            collector.close()  # nothing is published any more
    return held


def _tell(ledger: Ledger, behind: Behind) -> None:
    """Record that a witness knows less than it cosigned."""
    from stele.model.event import HOST_WORKLOAD, Event

    facts = {"witness": behind.name, "url": behind.url, "cosigned": behind.cosigned, "named": behind.named}
    event = Event(workload=HOST_WORKLOAD, kind="witness.behind", time_ns=time.time_ns(), actor="ledger", data=facts)
    try:
        ledger.append([event])
    except SteleError as error:
        if error.code != "ledger.closed":  # whoever opens it next asks the witness again
            raise


def _collector(places: Places, terms: Terms) -> Collector | None:
    """Who asks witnesses, with all that HTTP needs; None where no policy was set, which is what most seals find."""
    if not os.path.lexists(places.cosigning / "policy"):
        return None
    from stele.flow import cosigning
    from stele.trust import root as roots

    trusted = terms.trusted or terms.signer.verifiers
    return cosigning.collector(places, terms.signer.verifiers, lambda signed: roots.open_newest(signed, trusted).checkpoint)


def _terms(places: Places) -> Terms:
    from stele.ledger import recorded
    from stele.ledger.sequencer import Terms
    from stele.trust import note

    root = rooted.present(places)
    if root is None:
        return Terms(note.Signer.from_pem(places.ledger_key.read_bytes()), time.time_ns)
    signer = rooted.RootedSigner(root, rooted.own_signers(places))
    reader = recorded.open_reader(places.ledger)
    signer.at((reader.size if reader else 0) + 1)  # what could be committed and never published is refused now
    return Terms(signer, time.time_ns, trusted=root)


def open_store(places: Places) -> Layout:
    """Open the store; releases are believed only with the signatures that this data folder's trust policy asks for."""
    store = Layout(places.store, judge=Authority(places), rebuild=_Rebuilder())
    store.unpack = _Unpacker(store)
    return store


class _Rebuilder:
    """Adapter of the port `Rebuilder`."""

    def image(self, layer: BinaryIO, stratum: Stratum, fd: int) -> None:
        """See the port."""
        from stele.seal.rebuild import LayerRebuilder

        LayerRebuilder().image(layer, stratum, fd)

    def nodes(self, layer: BinaryIO, stratum: Stratum) -> tuple[Node, ...]:
        """See the port."""
        from stele.seal.rebuild import LayerRebuilder

        return LayerRebuilder().nodes(layer, stratum)


class _Unpacker:
    """Adapter of the port `Unpacker`."""

    def __init__(self, store: Layout) -> None:
        self._store = store

    def tree(self, release: Release) -> Tree:
        """See the port."""
        from stele.flow.unpacking import Unpacking

        return Unpacking(self._store).tree(release)

    def strata(self, release: Release) -> None:
        """See the port."""
        from stele.flow.unpacking import Unpacking

        Unpacking(self._store).strata(release)
