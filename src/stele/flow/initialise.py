"""Making the keys of a data folder, and the starter files of a project."""

from __future__ import annotations

ORIGIN_SUFFIX = "ledger"
