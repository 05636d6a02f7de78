"""The house stands as docs/architecture.md says: floors, rooms, libraries, names of files, sizes."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.service import ROOT
from tune_srgan.store.layout import Item, StudyFiles, TrackerFiles, TrialFiles, items

SERVICE = sorted((ROOT / "tune_srgan").rglob("*.py"))
TRIAL = sorted((ROOT / "trainables").rglob("*.py"))
# from the ground up; who stands on a floor may import what stands on its own room's floor or below
FLOORS = [
    {"trainables"},
    {"study"},
    {"store"},
    {"cluster", "search", "upscaling", "console"},
    {"tracking"},
    {"report"},
    {"run"},
    {"answers", "check", "interrupt", "options"},
    {"starting"},
    {"commands"},
    {"__main__"},
]
LIBRARIES = {
    "optuna": {
        "search/searcher",
        "search/samplers",
        "search/importance",
        "search/optuna_copy",
        "search/wait_sampler",
        "report/dashboard",
    },
    "wandb": {"tracking/follower", "tracking/sweep"},
    "matplotlib": {"report/figures", "report/palette"},
    "fsspec": {"store/objects"},
    "jinja2": {"report/files"},
    "typer": {"answers", "commands", "options", "starting"},
    "ray": {"cluster", "run/feed", "run/runner", "run/reporting", "run/worker"},
}
HEAVY = {"torch", "ray", "optuna", "wandb", "matplotlib"}
OTHERS = {"cluster/mps": {"lock", "log"}}  # names that files of no study have as well
LONGEST, LONGEST_FUNCTION = 400, 60  # lines


def name_of(file: Path) -> str:
    return file.relative_to(ROOT / "tune_srgan").with_suffix("").as_posix()


def room(module: str) -> str:
    """Of a dotted module of the project."""
    parts = module.split(".")
    return parts[0] if parts[0] == "trainables" or len(parts) == 1 else parts[1]


def floor(name: str) -> int:
    found = [at for at, names in enumerate(FLOORS) if name in names]
    assert len(found) == 1, f"{name} stands on no floor: add it to FLOORS and to docs/architecture.md"
    return found[0]


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: all but functions' bodies and what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not (typing_only or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            yield node
            yield from at_import(node)


def imported(file: Path, everywhere: bool = True) -> set[str]:
    """Dotted names of what a file imports: in functions too, or only when it is imported itself."""
    tree, names = ast.parse(file.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree) if everywhere else at_import(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def libraries(file: Path, everywhere: bool = True) -> set[str]:
    return {name.split(".")[0] for name in imported(file, everywhere)}


@pytest.mark.parametrize("file", TRIAL, ids=lambda file: file.stem)
def test_the_training_knows_nothing_of_the_service(file):
    assert not libraries(file) & {"tune_srgan", "ray", "optuna", "wandb"}


@pytest.mark.parametrize("file", [file for file in SERVICE if file.name != "__init__.py"], ids=name_of)
def test_no_room_imports_one_above_it(file):
    own = floor(name_of(file).split("/")[0])
    ours = {name for name in imported(file) if name.startswith("tune_srgan.")} - {"tune_srgan.__version__"}
    assert {name for name in ours if floor(room(name)) > own} == set()


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_has_its_place(library):
    users = {name_of(file) for file in SERVICE if library in libraries(file)}
    users = {name if name in LIBRARIES[library] else name.split("/")[0] for name in users}
    assert users == LIBRARIES[library]


def reached(file: Path, seen: set[Path]) -> set[Path]:
    """All files of the service that are imported with a file."""
    if file not in seen:
        seen.add(file)
        for name in imported(file, everywhere=False):
            for dotted in filter(None, (name, name.rpartition(".")[0])):
                found = ROOT / Path(*dotted.split(".")).with_suffix(".py")
                if found.exists():
                    reached(found, seen)
    return seen


def test_the_commands_load_no_heavy_library_until_one_is_needed():
    loaded = {file: libraries(file, everywhere=False) & HEAVY for file in reached(ROOT / "tune.py", set())}
    assert {str(file): names for file, names in loaded.items() if names} == {}


def test_rays_private_names_are_imported_where_they_are_used_and_ray_is_bounded():
    for file in SERVICE:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        private = [name for name in imported(file, everywhere=False) if name.startswith("ray._")]
        assert private == [], file
        reached = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        assert [name for name in reached if name.startswith("ray._")] == [], file
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for library in ("ray", "optuna"):
        (wanted,) = [one for one in map(Requirement, project["dependencies"]) if one.name == library]
        assert any(specifier.operator == "<" for specifier in wanted.specifier), library


def strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """All strings in a file but docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and node.body
                  and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def joined(tree: ast.AST) -> Iterator[str]:
    """Strings that stand behind a `/`: parts of a path."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            yield str(node.right.value)


@pytest.mark.parametrize("file", [file for file in SERVICE if file.name != "layout.py"], ids=name_of)
def test_no_file_of_a_study_is_named_outside_the_layout(file):
    every = items(StudyFiles, TrialFiles, TrackerFiles)
    names = {item.name for item in every}
    dotted = {name for name in names if "." in name.strip(".")} - {"best.yaml", "best.pt"}  # a person is told of these
    tree = ast.parse(file.read_text(encoding="utf-8"))
    named = {node.value for node in strings(tree) if any(name in node.value for name in dotted)}
    named |= {part for part in joined(tree) if part in names}
    assert named - OTHERS.get(name_of(file), set()) == set()


def test_every_item_of_the_layout_says_who_writes_and_who_reads_it():
    modules = {name_of(file) for file in SERVICE}
    for item in items(StudyFiles, TrialFiles, TrackerFiles):
        assert isinstance(item, Item)
        assert item.holds and item.readers, item.name
        for writer in item.writer.split(", "):
            known = any(module == writer or module.startswith(f"{writer}/") for module in modules)
            assert known or writer in {"Ray", "wandb"}, f"{item.name}: {writer}"


@pytest.mark.parametrize("file", [*SERVICE, *TRIAL], ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_file_and_no_function_is_too_long_to_be_read(file):
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    kernels = file.parent.name == "gpu"  # a kernel is one function
    long = [node.name for node in functions if node.end_lineno - node.lineno >= LONGEST_FUNCTION and not kernels]
    assert long == []


def test_the_map_names_every_module_and_every_file_of_a_study():
    page = (ROOT / "docs" / "architecture.md").read_text()
    modules = page[page.index("## Modules") :]
    missing = [
        str(file.relative_to(ROOT))
        for file in [*SERVICE, *TRIAL]
        if file.name != "__init__.py"
        and f"| `{file.name}` |" not in modules
        and f"| `gpu/{file.name}` |" not in modules
    ]
    assert missing == []
    for files in (StudyFiles, TrialFiles, TrackerFiles):
        for item in items(files):
            row = f"| `{item.name}` | {item.holds} | {item.writer} | {item.readers} | {item.how.name.lower()} |"
            assert row in page
