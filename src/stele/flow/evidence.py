"""Evidence: collecting it from a frozen instance, listing it, and who looked at it."""

from __future__ import annotations

import json
import logging
import platform
from typing import TYPE_CHECKING

import msgspec

from stele import __version__
from stele.model.units import parse_size
from stele.respond import bundle, collect, decide
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.flow.world import World
    from stele.model.instance import Instance
    from stele.model.release import Release
    from stele.model.report import Report

log = logging.getLogger(__name__)
LOG_TAIL = 4 << 20
