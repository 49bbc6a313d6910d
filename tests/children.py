"""The processes that this one has forked and not waited for."""

from __future__ import annotations

from pathlib import Path


def children() -> set[str]:
    """Their numbers, of all threads."""
    return {child for path in Path("/proc/self/task").glob("*/children") for child in path.read_text().split()}
