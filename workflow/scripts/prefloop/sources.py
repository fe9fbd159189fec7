"""Which files a program consists of, read from its imports without running it."""

import ast
from functools import cache
from pathlib import Path


@cache
def code_files(script: Path) -> list[str]:
    """A program and every module of this folder that it imports, directly or through others; paths as given.

    Rules ask for the same programs thousands of times a start, so each is read once.
    """
    script = Path(script)
    found, queue = [str(script)], [script]
    while queue:
        for name in local_imports(queue.pop(0)):
            place = script.parent / name.replace(".", "/")
            for path in (place.with_suffix(".py"), place / "__init__.py"):
                if path.is_file() and str(path) not in found:
                    found.append(str(path))
                    queue.append(path)
    return found


@cache
def local_imports(path: Path) -> list[str]:
    """Dotted names that a file imports, at its top or within functions."""
    names = []
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names
