"""The import arrows go one way, and every third-party library has its place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVICE, TRIAL = sorted((ROOT / "tune_srgan").glob("*.py")), sorted((ROOT / "trainables").glob("*.py"))
LIGHT = (
    *("__init__", "commands", "study", "records", "live", "report", "review", "tracking", "sweeps"),
    *("confirmation", "jobs"),
)


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: all but functions' bodies and what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not (typing_only or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            yield node
            yield from at_import(node)


def imported(file: Path, everywhere: bool = True) -> set[str]:
    """Top-level names of what a file imports: in functions too, or only when it is imported itself."""
    tree, names = ast.parse(file.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree) if everywhere else at_import(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level else str(node.module).split(".")[0])
    return names


@pytest.mark.parametrize("file", TRIAL, ids=lambda file: file.stem)
def test_the_training_knows_nothing_of_the_service(file):
    assert not imported(file) & {".", "tune_srgan", "ray", "optuna", "wandb"}


@pytest.mark.parametrize(
    ("library", "places"),
    [
        ("optuna", {"searcher", "dashboard"}),
        ("wandb", {"tracking", "sweeps"}),
        ("ray", {"cluster", "runner", "worker", "jobs"}),
        ("matplotlib", {"figures", "page"}),
        ("fsspec", {"storage"}),
    ],
)
def test_each_library_has_its_place(library, places):
    assert {file.stem for file in [ROOT / "tune.py", *SERVICE] if library in imported(file)} == places


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_no_heavy_library(name):
    assert not imported(ROOT / "tune_srgan" / f"{name}.py", everywhere=False) & {".", "torch", "ray"}
