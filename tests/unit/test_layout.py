"""The library's structure: packages import only from their own layer and lower ones, and modules stay small."""

import ast
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from conftest import ROOT

SCRIPTS = ROOT / "workflow/scripts"
LIBRARY = SCRIPTS / "prefloop"
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path.name != "__init__.py")
PROGRAMS = sorted(path for path in SCRIPTS.rglob("*.py") if LIBRARY not in path.parents)
# From the top layer down. A package imports from its own layer and from lower ones.
LAYERS = [
    {"report", "browse", "monitor"},
    {"training", "evaluation", "generation", "feedback", "data"},
    {"config"},
    {"models", "methods"},
    {"core"},
]
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
MODULE_LINES, FUNCTION_LINES, PROGRAM_LINES = 350, 60, 100


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path) -> set[str]:
    """Return the modules of `prefloop` that a module imports, also within functions, as `core.errors`."""
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return {name.removeprefix("prefloop.") for name in names if name.startswith("prefloop.")}


def relative(path: Path) -> str:
    return str(path.relative_to(SCRIPTS))


def test_every_package_has_a_layer():
    assert {path.parent.name for path in MODULES} == LAYER_OF.keys()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_are_from_the_same_or_lower_layers(path):
    own = LAYER_OF[path.parent.name]
    upward = [name for name in imported_modules(path) if LAYER_OF[name.split(".")[0]] < own]
    assert upward == []


def test_no_import_cycle():
    """Checks modules and packages; graphlib raises CycleError."""
    dotted = {f"{path.parent.name}.{path.stem}": path for path in MODULES}
    modules = {name: imported_modules(path) & dotted.keys() - {name} for name, path in dotted.items()}
    packages: dict[str, set[str]] = {}
    for name, imports in modules.items():
        package = name.split(".")[0]
        packages.setdefault(package, set()).update(other.split(".")[0] for other in imports)
    for package, others in packages.items():
        others.discard(package)
    for graph in (modules, packages):
        TopologicalSorter(graph).prepare()


def test_no_file_name_occurs_twice():
    counts = Counter(path.name for path in [*MODULES, *PROGRAMS])
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_test_file_name_occurs_twice():
    """pytest imports test files by base name."""
    counts = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_public_name_is_defined_twice():
    """Checks top-level functions and classes of the library."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(relative(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_modules_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES


@pytest.mark.parametrize("path", PROGRAMS, ids=relative)
def test_programs_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= PROGRAM_LINES


@pytest.mark.parametrize("path", [*MODULES, *PROGRAMS], ids=relative)
def test_functions_are_short(path):
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef)]
    long = {f.name: length for f in functions if (length := (f.end_lineno or 0) - f.lineno + 1) > FUNCTION_LINES}
    assert long == {}


@pytest.mark.parametrize("path", PROGRAMS, ids=relative)
def test_functions_of_programs_are_typed(path):
    """mypy checks only the library, because it cannot check programs of the same name in two folders."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert all(a.annotation for a in arguments if a.arg not in ("self", "cls")), node.name
            assert node.returns is not None or node.name == "__init__", node.name
