"""The ledger that proofs are made of, and a proof of every claim and form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proofs import FORMS, NOWHERE, built, everything, history, never, state, world


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return world(tmp_path_factory.mktemp("proof") / "ledger")


@pytest.fixture(scope="session")
def kinds(folder) -> dict[str, bytes]:
    """A proof of every claim and form."""
    claims = {
        "state": state(8.5),
        "newest": state(25),
        "absent": state(25, "nobody"),
        "history": history(3.5, 8.5),
        "never": never(NOWHERE, 25),
        "workloads": everything(8.5),
    }
    made = {(name, form): (claim, form) for name, claim in claims.items() for form in FORMS if (name, form) != ("workloads", "chain")}
    return {f"{name} {form}": built(folder, *args) for (name, form), args in made.items()}
