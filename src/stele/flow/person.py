"""Who acts. Private wherever it is recorded (docs/spec/sealed.md)."""

from __future__ import annotations

import getpass
import os


def person() -> str:
    """The user who runs this, and through whom, as this process is told: nobody vouches for it."""
    name = os.environ.get("SUDO_USER") or ""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.geteuid())
    return f"{name} as {user}" if name and name != user else user
