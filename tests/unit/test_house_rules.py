"""Habits that no linter checks: sizes, error pages, purity, doorways, help with examples."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

from stele.cli.app import cli
from stele.cli.table import COMMANDS

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MODULE_LINES = 450
FUNCTION_LINES = 75
# module or function -> why it is longer than the rule
LONGER: dict[str, str] = {}
PURE = ("trust/", "model/", "run/plan.py", "watch/detect.py", "respond/decide.py", "prove/")
IMPURE_CALLS = {
    "open",
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "datetime.now",
    "os.environ",
    "os.urandom",
    "random.random",
    "secrets.token_hex",
}


def _trees() -> list[tuple[str, ast.Module, str]]:
    out = []
    for path in SOURCES:
        text = path.read_text("utf-8")
        out.append((str(path.relative_to(ROOT / "src" / "stele")), ast.parse(text), text))
    return out


def test_modules_and_functions_stay_small() -> None:
    long = []
    for name, tree, text in _trees():
        lines = text.count("\n")
        if lines > MODULE_LINES and name not in LONGER:
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno
                if length > FUNCTION_LINES and f"{name}:{node.name}" not in LONGER:
                    long.append(f"{name}:{node.name}: {length} lines")
    assert not long


def test_every_error_code_has_a_page_and_every_page_a_code() -> None:
    used = set()
    for _, tree, _ in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                used.add(node.value.value)
    constants = {value for _, _, text in _trees() for value in re.findall(r'"([a-z]+\.[a-z][a-z0-9-]+)"', text)}
    pages = {path.stem for path in (ROOT / "docs" / "errors").glob("*.md")}
    assert not sorted(used - pages), "codes without a page"
    assert not sorted(pages - used - constants), "pages without a code"


def test_error_pages_say_what_to_do() -> None:
    for page in (ROOT / "docs" / "errors").glob("*.md"):
        text = page.read_text("utf-8")
        assert text.startswith(f"# {page.stem}\n"), page
        assert re.search(r"what to do|remedy", text, re.IGNORECASE), page


@pytest.mark.parametrize("name", PURE)
def test_pure_rooms_touch_neither_clock_nor_files(name: str) -> None:
    offences = []
    for path, tree, _ in _trees():
        if not path.startswith(name) or path.startswith("prove/standalone/"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in IMPURE_CALLS:
                offences.append(f"{path}:{node.lineno}: {ast.unparse(node.func)}")
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                offences += [
                    f"{path}:{node.lineno}: {n}"
                    for n in names
                    if n.split(".")[0] in {"os", "time", "random", "secrets", "pathlib"} and n != "os.path"
                ]
    assert not offences


def test_every_room_has_a_charter() -> None:
    for path in (ROOT / "src" / "stele").glob("*/__init__.py"):
        doc = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        assert doc, path


def _commands(group: click.Group, prefix: str) -> list[tuple[str, click.Command]]:
    context = click.Context(group)
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((f"{prefix} {name}", command))
        if isinstance(command, click.Group):
            found += _commands(command, f"{prefix} {name}")
    return found


def test_every_command_has_help_and_an_example() -> None:
    for name, command in _commands(cli, "stele"):
        assert command.help, name
        if not isinstance(command, click.Group):
            assert "Example:" in (command.epilog or ""), name


def test_the_readme_names_only_commands_that_exist() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in re.findall(r"^(?:sudo )?stele ([a-z]+)", readme, re.MULTILINE):
        assert name in COMMANDS, name


def test_no_path_of_a_workplace_is_committed() -> None:
    for path in [*SOURCES, *(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "Makefile", *(ROOT / "scripts").iterdir()]:
        if path.is_file():
            assert "/work/" not in path.read_text("utf-8", "replace").replace("/network/", ""), path
