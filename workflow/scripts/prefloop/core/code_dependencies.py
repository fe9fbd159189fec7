"""Hashes of Python code that ignore comments, docstrings and formatting.

At every start, Snakemake compares these hashes with those of the last run. This module therefore imports nothing heavy.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

SCRIPTS = Path(__file__).parents[2]


class Module(NamedTuple):
    """One Python file."""

    meaning: str
    """SHA-256 of its syntax tree without docstrings, comments and positions, in hexadecimal."""
    imports: tuple[str, ...]
    """Dotted names of all its imports, including those within functions. Relative names begin with dots."""


def code_hash(*files: Path, root: Path = SCRIPTS) -> str:
    """Return a hash of programs and all modules that they import from `root` or SCRIPTS, as 64 hexadecimal digits.

    Installed packages and the paths of files do not affect the hash: a copy of the code elsewhere has the same hash.
    """
    meanings = sorted({read_module(path).meaning for path in code_files(*files, root=root)})
    return hashlib.sha256("".join(meanings).encode()).hexdigest()


@cache
def code_files(*files: Path, root: Path = SCRIPTS) -> tuple[Path, ...]:
    """Return programs and all modules that they import from `root` or SCRIPTS, directly or indirectly."""
    code = dict.fromkeys(Path(file) for file in files)
    queue = list(code)
    while queue:
        for file in direct_imports(queue.pop(), Path(root)):
            if file not in code:
                code[file] = None
                queue.append(file)
    return tuple(code)


@cache
def direct_imports(path: Path, root: Path) -> tuple[Path, ...]:
    """Return the files from `root` or SCRIPTS that a Python file imports directly."""
    found: dict[Path, None] = {}
    for name in read_module(path).imports:
        parts = name.lstrip(".")
        level = len(name) - len(parts)  # dots of a relative import
        roots = (path.parents[level - 1],) if level else (root, SCRIPTS)
        found |= dict.fromkeys(module_files(parts, *roots))
    return tuple(found)


@cache
def module_files(name: str, *roots: Path) -> list[Path]:
    """Return the files that Python reads to import a dotted name: the `__init__.py` of its packages, and the module.

    They are taken from the first of `roots` that has any of them.
    """
    parts = name.split(".") if name else []
    for root in roots:
        files = [root.joinpath(*parts[:length], "__init__.py") for length in range(1, len(parts) + 1)]
        files += [root.joinpath(*parts).with_suffix(".py")] if parts else [root / "__init__.py"]
        if present := [file for file in files if is_file(file)]:
            return present
    return []


@cache
def is_file(path: Path) -> bool:
    """Whether a file exists. The answer is cached until the process ends."""
    return path.is_file()


@cache
def read_module(path: Path) -> Module:
    """Read a Python file. If it does not parse, its bytes are hashed, and importing it will report the error."""
    content = path.read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return Module(hashlib.sha256(content).hexdigest(), ())
    words: list[str] = []
    imports: list[str] = []
    add_words(tree, words, imports)
    return Module(hashlib.sha256("\0".join(words).encode()).hexdigest(), tuple(dict.fromkeys(imports)))


def add_words(node: object, words: list[str], imports: list[str]) -> None:
    """Append the words of a syntax tree to `words` and the names that it imports to `imports`.

    Empty fields are omitted, so that Python versions whose nodes have additional fields give the same words.
    """
    if isinstance(node, ast.AST):
        words.append(type(node).__name__)
        for name in node._fields:
            value = getattr(node, name, None)
            if value is None or value == []:
                continue
            words.append(name)
            if type(value) is str:  # not by a call, because most values are names
                words.append(repr(value))
            else:
                add_words(value, words, imports)
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports += imported_names(node)
    elif isinstance(node, list):
        words.append("[")
        for item in node:
            if type(item) is not ast.Expr or not is_text(item.value):
                add_words(item, words, imports)
        words.append("]")
    else:
        words.append(repr(node))


def is_text(node: ast.expr) -> bool:
    """Whether an expression is a string literal. As a statement it is a docstring and has no effect."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Return the dotted names that a statement imports, including those after `from … import`, which may be modules."""
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.Import):
        return names
    module = "." * node.level + (node.module or "")
    return [module, *(f"{module}.{name}" if node.module else f"{module}{name}" for name in names)]
