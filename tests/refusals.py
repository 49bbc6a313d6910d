"""By which error code a call is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stele.trust.errors import SteleError


def code(call: Callable[..., Any], *args: Any, **more: Any) -> str:
    """The call has to be refused; the code."""
    with pytest.raises(SteleError) as raised:
        call(*args, **more)
    return raised.value.code
