"""The words of a registry, read from its module's source without importing it and the torch that it may import."""

import ast
from pathlib import Path

LIBRARY = Path(__file__).parent


def registry_words(name: str) -> list[str]:
    """The keys of a registry such as `metrics.METRICS`, read from source without importing torch."""
    module, variable = name.split(".")
    for node in ast.parse((LIBRARY / f"{module}.py").read_text(encoding="utf-8")).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
            words = node.value.keys if isinstance(node.value, ast.Dict) else node.value.elts
            return [ast.literal_eval(word) for word in words]
    raise LookupError(f"{module}.py defines no {variable}")
