"""Loggers of modules that most commands load and in which hardly anything is ever logged: `logging` is loaded when something is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

FORMAT = "%(levelname)s %(name)s: %(message)s"


def of(name: str) -> logging.Logger:
    """The logger of a module. Where nobody has said how things are logged, warnings go to standard error as the command line has them."""
    import logging

    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.WARNING, format=FORMAT)
    return logging.getLogger(name)
