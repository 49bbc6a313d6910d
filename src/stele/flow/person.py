"""Who acts. Private wherever it is recorded (docs/spec/sealed.md)."""

from __future__ import annotations

import os

_SAY_SO = ("LOGNAME", "USER", "LNAME", "USERNAME")  # as for `getpass.getuser`, which loads what hides typing along


def person() -> str:
    """The user who runs this, and through whom, as this process is told: nobody vouches for it."""
    name = os.environ.get("SUDO_USER") or ""
    user = next((found for variable in _SAY_SO if (found := os.environ.get(variable))), "") or _entry()
    return f"{name} as {user}" if name and name != user else user


def _entry() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except (KeyError, OSError):
        return str(os.geteuid())
