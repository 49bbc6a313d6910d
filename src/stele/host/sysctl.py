"""Host-wide kernel settings that instances need: what was there before is recorded first, and restored by the last user."""

from __future__ import annotations

import json
from pathlib import Path

from stele.host import slots

IP_FORWARD = "net/ipv4/ip_forward"


def _record(root: Path, key: str) -> Path:
    return root / "sysctl" / key.replace("/", ".")


def _unfinished(path: Path) -> Path:
    """What becomes a record."""
    return path.with_name(path.name + ".new")


def _users(path: Path) -> tuple[str, list[str]]:
    """The recorded previous value and the tags that want ours."""
    try:
        kept = json.loads(path.read_text(encoding="ascii"))
        return str(kept["previous"]), [str(tag) for tag in kept["users"]]
    except (OSError, ValueError, KeyError, TypeError):
        return "", []


def _write(path: Path, previous: str, users: list[str]) -> None:
    temp = _unfinished(path)
    temp.write_text(json.dumps({"previous": previous, "users": users}), encoding="ascii")
    temp.replace(path)


def want(root: Path, tag: str, key: str, value: str) -> None:
    """Set /proc/sys/`key` to `value` for `tag`, after recording what it was. Idempotent."""
    path, setting = _record(root, key), Path("/proc/sys") / key
    with slots.locked(root / "sysctl"):
        previous, users = _users(path)
        if not users:
            previous = setting.read_text(encoding="ascii").strip()
        if tag not in users:
            _write(path, previous, [*users, tag])
        if setting.read_text(encoding="ascii").strip() != value:
            setting.write_text(value, encoding="ascii")


def give_back(root: Path, tag: str, key: str) -> None:
    """`tag` needs `key` no longer; the last one to say so restores what was there before. Idempotent."""
    path, setting = _record(root, key), Path("/proc/sys") / key
    if not path.exists() and not _unfinished(path).exists():
        return
    with slots.locked(root / "sysctl"):
        _unfinished(path).unlink(missing_ok=True)  # of one that died: who writes has the lock
        previous, users = _users(path)
        if tag not in users:
            return
        rest = [user for user in users if user != tag]
        if rest:
            _write(path, previous, rest)
            return
        if setting.read_text(encoding="ascii").strip() != previous:
            setting.write_text(previous, encoding="ascii")
        path.unlink()
