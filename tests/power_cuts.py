"""What a power cut may leave of a folder, from the system calls of whoever wrote it: only what was synced is sure to be there.

POSIX at its worst: data that no fsync, fdatasync or syncfs covered is there or not by sectors of 512 bytes, and names are there only
once their folder was synced; before that, the first few changes of each folder may be.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

from tests import traced

SECTOR = 512
MARK = "/stele-test/"  # no such path: asking for one is a word in the trace
CALLS = (
    *("openat", "close", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "syncfs", "rename", "unlink", "mkdir", "rmdir"),
    "access",  # by which the process says something
)
_LINE = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)", re.DOTALL)
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
STRACE = ("-xx", "-s", "33554432", "-e", f"trace={','.join(CALLS)}")


class Node:
    """A file, or a folder: what is durable, and what was done to it since."""

    def __init__(self, *, is_folder: bool, data: bytes = b"") -> None:
        self.is_folder, self.data, self.now = is_folder, data, bytearray(data)
        self.versions: list[bytes] = []  # since it was synced
        self.dirty: set[int] = set()  # sectors
        self.names: dict[str, Node] = {}
        self.seen: dict[str, Node] = {}  # as whoever runs sees them
        self.changes: list[dict[str, Node | None]] = []

    def wrote(self, data: bytes, at: int) -> None:
        begin = min(at, len(self.now))
        if len(self.now) < at:
            self.now.extend(bytes(at - len(self.now)))
        self.now[at : at + len(data)] = data
        self.versions.append(bytes(self.now))
        self.dirty.update(range(begin // SECTOR, -(-(at + len(data)) // SECTOR)))

    def cut(self, size: int) -> None:
        self.dirty.update(range(min(size, len(self.now)) // SECTOR, -(-size // SECTOR)))
        self.now = bytearray(self.now[:size].ljust(size, b"\0"))
        self.versions.append(bytes(self.now))

    def change(self, **names: Node | None) -> None:
        for name, node in names.items():
            if node is None:
                self.seen.pop(name, None)
            else:
                self.seen[name] = node
        self.changes.append(names)

    def sync(self) -> None:
        found = bytearray(self.data[: len(self.now)].ljust(len(self.now), b"\0"))
        for sector in self.dirty:
            found[sector * SECTOR : (sector + 1) * SECTOR] = self.now[sector * SECTOR : (sector + 1) * SECTOR]
        self.data, self.versions, self.dirty = bytes(found), [], set()
        self.names, self.changes = dict(self.seen), []

    def lose(self) -> None:
        """A sync failed: what was to be written is not on disk, and no later sync writes it, for memory calls it clean."""
        self.versions, self.dirty = [], set()

    def after(self, chance: random.Random | None) -> tuple[bytes, dict[str, Node]]:
        """Data and names after a power cut: nothing that is not synced, or what chance keeps of it."""
        names = dict(self.names)
        if chance is None:
            return self.data, names
        for change in self.changes[: chance.randint(0, len(self.changes))]:
            for name, node in change.items():
                if node is None:
                    names.pop(name, None)
                else:
                    names[name] = node
        if not self.versions:
            return self.data, names
        found = [self.data, *self.versions]
        size = len(chance.choice(found))
        parts = []
        for at in range(0, size, SECTOR):
            was = chance.choice(found) if at // SECTOR in self.dirty else self.data
            parts.append(was[at : at + SECTOR].ljust(SECTOR, b"\0"))
        return b"".join(parts)[:size], names


class Disk:
    """A folder that is durable at first, and then what the calls of a strace do to it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.top = self._of(folder)
        self._open: dict[int, tuple[Node, list[int]]] = {}

    def _of(self, path: Path) -> Node:
        node = Node(is_folder=path.is_dir(), data=b"" if path.is_dir() else path.read_bytes())
        if node.is_folder:
            node.names = {each.name: self._of(each) for each in path.iterdir() if not each.name.startswith("projection")}
            node.seen = dict(node.names)
        return node

    def _place(self, path: str) -> tuple[Node, str] | None:
        """The folder of a path and its name in there; None: it is elsewhere, or a cache that nobody needs."""
        try:
            parts = Path(path).relative_to(self.root).parts
        except ValueError:
            return None
        if not parts or parts[0].startswith("projection"):
            return None
        node = self.top
        for part in parts[:-1]:
            node = node.seen[part]
        return node, parts[-1]

    def _node(self, path: str) -> Node | None:
        if Path(path) == self.root:
            return self.top
        place = self._place(path)
        return place[0].seen.get(place[1]) if place else None

    def all(self, node: Node | None = None) -> list[Node]:
        node = node or self.top
        return [node, *(each for child in {*node.names.values(), *node.seen.values()} for each in self.all(child))]

    def play(self, call: str, texts: list[bytes], rest: str, result: int) -> None:
        """Do what one call did. `rest`: its arguments without `texts`."""
        numbers = [int(each) for each in re.findall(r"(?<![\w|])\d+(?![\w|])", rest)]
        if result < 0:
            if call in {"syncfs", "fsync", "fdatasync"}:
                for node in self.all() if call == "syncfs" else [self._open[numbers[0]][0]] if numbers[0] in self._open else []:
                    node.lose()
            return
        if call in {"openat", "mkdir", "rename", "unlink", "rmdir"}:
            self._play_name(call, [each.decode() for each in texts], rest, result)
        elif call == "syncfs":
            for node in self.all():
                node.sync()
        elif numbers[0] in self._open:
            self._play_file(call, numbers, texts[0][:result] if texts else b"")

    def _play_file(self, call: str, numbers: list[int], data: bytes) -> None:
        node, position = self._open[numbers[0]]
        if call == "close":
            del self._open[numbers[0]]
        elif call == "write":
            node.wrote(data, position[0])
            position[0] += len(data)
        elif call == "pwrite64":
            node.wrote(data, numbers[-1])
        elif call == "ftruncate":
            node.cut(numbers[-1])
        else:
            node.sync()

    def _play_name(self, call: str, paths: list[str], rest: str, result: int) -> None:
        if call == "openat":
            place, node = self._place(paths[0]), self._node(paths[0])
            if node is None and place is not None and "O_CREAT" in rest:
                node = Node(is_folder=False)
                place[0].change(**{place[1]: node})
            self._open.pop(result, None)
            if node is not None:
                if "O_TRUNC" in rest and node.now:
                    node.cut(0)
                self._open[result] = node, [0]
            return
        place = self._place(paths[0])
        if place is None:
            return
        folder, name = place
        if call == "mkdir":
            folder.change(**{name: Node(is_folder=True)})
        elif call == "rename":
            target = self._place(paths[1])
            assert target is not None
            assert target[0] is folder
            folder.change(**{name: None, target[1]: folder.seen[name]})
        else:
            folder.change(**{name: None})

    def leave(self, folder: Path, chance: random.Random | None) -> None:
        """Write what a power cut now leaves."""
        self._leave(self.top, folder, chance)

    def _leave(self, node: Node, path: Path, chance: random.Random | None) -> None:
        data, names = node.after(chance)
        if not node.is_folder:
            path.write_bytes(data)
            return
        path.mkdir()
        for name, child in names.items():
            self._leave(child, path / name, chance)


def calls(log: Path) -> list[tuple[str, list[bytes], str, int]]:
    """The calls of a strace with `STRACE`: name, texts, other arguments, result."""
    found = []
    for line in log.read_text("ascii").splitlines():
        if match := _LINE.match(line):
            call, arguments, result = match.groups()
            texts = _TEXT.findall(arguments)
            assert not any(cut for _, cut in texts)
            found.append((call, [bytes.fromhex(text.replace("\\x", "")) for text, _ in texts], _TEXT.sub("", arguments), int(result)))
    return found


def tell(*words: object) -> None:
    """Say something in the trace."""
    os.access(MARK + "/".join(map(str, words)), os.F_OK)


def record(work: Callable[[], None], log: Path, *strace: str) -> None:
    """Have a child do the work, under strace: all that its first thread does is in the log."""
    assert traced.run(work, log, *STRACE, *strace, limit_s=60) == 0
