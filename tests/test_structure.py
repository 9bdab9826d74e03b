"""The house stays as it is drawn: who imports whom, what lies at the top, and how long a function may be."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = ROOT / "npser"
LEAVES = ("networks", "experiment", "explain", "live", "commands")  # folders that the core does not know
FACES = ("__init__.py", "__main__.py")  # of the package: they hand names on, late
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
SCREEN, PARAMETERS = 60, 8


def imported(path: Path) -> Iterator[str]:
    """The modules of npser that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{name}" if f"{node.module}.{name}" in MODULES else node.module for name in names]
        yield from (name for name in names if name in MODULES)


GRAPH = {name: set(imported(path)) - {name, "npser"} for name, path in MODULES.items()}


def test_no_two_files_import_each_other() -> None:
    floors: dict[str, int] = {}
    inside = {name: {other for other in GRAPH[name] if MODULES[other].name != "__init__.py"} for name in GRAPH}
    waiting = {name for name in GRAPH if MODULES[name].name != "__init__.py"}
    while waiting:
        free = {name for name in waiting if not inside[name] & waiting}
        assert free, f"in a circle, or above one: {', '.join(sorted(waiting))}"
        floors |= dict.fromkeys(free, len(floors))
        waiting -= free
    assert floors["npser.config"] < floors["npser.model"] < floors["npser.train"] < floors["npser.commands.train"]


def test_the_core_knows_nothing_of_the_leaves_but_the_networks_that_model_names() -> None:
    for name, path in MODULES.items():
        if path.parent == PACKAGE and path.name not in FACES:
            leaves = {other for other in GRAPH[name] if other.split(".")[1] in LEAVES}
            assert not leaves or name == "npser.model", f"{name} imports {leaves}"
    assert {other.split(".")[1] for other in GRAPH["npser.model"]} == {"config", "networks"}


@pytest.mark.parametrize("leaf", ["networks", "experiment", "explain", "live"])
def test_leaves_do_not_know_each_other_nor_the_commands(leaf: str) -> None:
    for name in MODULES:
        if name.startswith(f"npser.{leaf}."):
            others = {other for other in GRAPH[name] if other.split(".")[1] in set(LEAVES) - {leaf}}
            assert not others, f"{name} imports {others}"


def test_the_top_of_the_package_can_be_taken_in() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 34
    commands = {path.stem for path in (PACKAGE / "commands").glob("*.py")} - {"__init__", "cli", "launched", "terminal"}
    assert commands == {
        *(
            "train",
            "crossval",
            "compare",
            "evaluate",
            "predict",
            "explain",
            "live",
            "serve",
            "export",
            "info",
            "gradcheck",
            "bench",
            "data",
            "cache",
        ),
    }


@pytest.mark.parametrize("name", MODULES)
def test_a_function_fits_on_a_screen_and_has_few_parameters(name: str) -> None:
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where, arguments = f"{name}.{node.name}", node.args
            docstring = ast.get_docstring(node, clean=False) or ""
            lines = (node.end_lineno or 0) - node.lineno + 1 - docstring.count("\n")
            assert lines <= SCREEN, f"{where} has {lines} lines"
            given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            count = len([argument for argument in given if argument.arg not in ("self", "cls")])
            assert count <= PARAMETERS, f"{where} has {count} parameters"


def test_the_oldest_versions_that_are_proved_are_the_oldest_that_are_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors: dict[str, set[str]] = {}
    for part in ("", "plot", "cluster", "onnx", "serve", "test"):
        for wanted in project["optional-dependencies"][part] if part else project["dependencies"]:
            name, version = re.sub(r"\[.*\]", "", wanted).split(">=")
            floors.setdefault(name, set()).add(version)
    proved = [line.split("==") for line in (ROOT / "tests" / "oldest.txt").read_text().splitlines() if not line.startswith("#")]
    assert {name for name, _ in proved} == floors.keys() | {"distributed"}  # of dask
    for name, version in proved:
        for floor in floors.get(name, set()):
            assert [int(n) for n in version.split(".")] == [int(n) for n in f"{floor}.0.0".split(".")][:3], name
