"""How often something is asked, without changing what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """What a function of one argument is asked from here on, an item each time."""
    asked: list[Any] = []
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda argument: asked.append(argument) or real(argument))
    return asked
