"""Where a ledger of these tests lies."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "ledger"
