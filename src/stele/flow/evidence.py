"""Evidence: collecting it from a frozen instance, listing it, and who looked at it."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)
LOG_TAIL = 4 << 20
