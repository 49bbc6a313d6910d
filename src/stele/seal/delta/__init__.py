"""Deltas between the contents of two releases (docs/spec/delta.md): what an update carries, and how old releases are kept."""

from __future__ import annotations
