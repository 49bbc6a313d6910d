"""Opening a data folder's store and ledger."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stele.flow.authority import Authority
from stele.flow.unpacking import Unpacking
from stele.ledger.sequencer import Ledger
from stele.seal.rebuild import LayerRebuilder
from stele.store.layout import Layout
from stele.trust import note

if TYPE_CHECKING:
    from stele.flow.places import Places


def open_ledger(places: Places) -> Ledger:
    """Open the ledger for writing.

    Raises:
        SteleError: `ledger.locked`, `ledger.damaged`, `trust.bad-key`.
    """
    return Ledger.open(places.ledger, signer=note.Signer.from_pem(places.ledger_key.read_bytes()), clock=time.time_ns)


def open_store(places: Places) -> Layout:
    """Open the store; releases are believed only with the signatures that this data folder's trust policy asks for."""
    store = Layout(places.store, judge=Authority(places), rebuild=LayerRebuilder())
    store.unpack = Unpacking(store)
    return store
