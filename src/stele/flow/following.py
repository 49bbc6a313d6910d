"""Following a ledger: what is published is read as soon as it is, from a folder without polling, from a server every few seconds."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from stele.host.inotify import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stele.flow.log_view import LogView
    from stele.model.event import Entry
    from stele.model.selection import Selection

LOOK_S = 30.0  # how often a watched folder is looked at all the same: a network file system tells nothing
POLL_S = 5.0


def follow(view: LogView, selection: Selection, *, wait: Callable[[float], object] = time.sleep) -> Iterator[tuple[int, Entry]]:
    """What is selected of all that is published from now on; never ends by itself.

    Raises:
        SteleError: `ledger.damaged`: the ledger no longer continues what was read; `http.*`.
    """
    with contextlib.ExitStack() as opened:
        pause, seconds = wait, POLL_S
        if view.folder is not None:
            with contextlib.suppress(OSError):
                pause, seconds = opened.enter_context(Watch(view.folder)).wait, LOOK_S
        while True:
            begin = view.size
            if view.refresh():
                yield from view.entries(selection, begin=begin)
            else:
                pause(seconds)
