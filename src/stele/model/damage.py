"""The one way to say that a ledger is not what was signed. Pure."""

from __future__ import annotations

from stele.trust.errors import SteleError


def damaged(reason: str) -> SteleError:
    """The error for whatever does not fit."""
    return SteleError(
        f"the ledger is damaged or was altered: {reason}",
        remedy="it is read-only from now on and nothing is healed by signing again; compare with another copy and with kept checkpoints",
        code="ledger.damaged",
    )
