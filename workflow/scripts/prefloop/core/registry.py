"""Registries: dictionaries from the words that a config can use to the functions or classes that they name."""

import ast
from pathlib import Path
from typing import TypeVar, cast

from prefloop.core.errors import SettingError
from prefloop.core.own_functions import is_own, load_own

T = TypeVar("T")
LIBRARY = Path(__file__).parents[1]


def registry_words(name: str) -> list[str]:
    """Return the keys of a registry such as `methods.pair_metrics.METRICS`, read from source without importing it.

    Raises:
        LookupError: The module defines no such dictionary, list or tuple.
    """
    module, variable = name.rsplit(".", 1)
    for node in ast.parse((LIBRARY / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
        if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
            if isinstance(node.value, ast.Dict):
                return [ast.literal_eval(key) for key in node.value.keys if key is not None]
            if isinstance(node.value, ast.List | ast.Tuple):
                return [ast.literal_eval(element) for element in node.value.elts]
    raise LookupError(f"{module}.py defines no {variable}")


def chosen_words(value: object) -> list[str]:
    """Return the words of a setting: the keys of a mapping from words to weights, a single word, or none (null)."""
    if isinstance(value, dict):
        return list(value)
    return [] if value is None else [cast(str, value)]


def lookup(registry: dict[str, T], word: str, key: str) -> T:
    """Return the registry's entry for `word`, the value of the setting `key`, or the user's function that it names.

    Raises:
        SettingError: There is no such entry or function. The message lists all words of the registry.
    """
    if is_own(word):
        return cast(T, load_own(word, key))
    if word not in registry:
        raise SettingError(f"{key}: {word!r} is not one of {', '.join(registry)}")
    return registry[word]
