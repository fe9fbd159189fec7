"""Reads the declarations of settings from their dataclasses: fields, defaults, docstrings and conditions.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

import ast
import contextlib
import dataclasses
import datetime
import inspect
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints

from prefloop.core.metadata import OnlyIf

Settings = type  # a dataclass of settings


@cache
def hints(settings: Settings) -> dict[str, Any]:
    """Return the declared type of each field, with its metadata."""
    return get_type_hints(settings, include_extras=True)


def bare(hint: Any) -> Any:
    """Return a type without metadata and without None."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    arms = [arm for arm in get_args(hint) if arm is not type(None)]
    return bare(arms[0]) if is_union(hint) and len(arms) == 1 else hint


def is_union(hint: Any) -> bool:
    """Whether a type is a union."""
    return get_origin(hint) in (Union, UnionType)


def metadata_of(hint: Any) -> list[Any]:
    """Return the metadata of a type, including that of the members of a union."""
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        return [*metadata, *metadata_of(inner)]
    return [item for arm in get_args(hint) for item in metadata_of(arm)] if is_union(hint) else []


def allows_null(hint: Any) -> bool:
    """Whether None is a value of a type."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return is_union(hint) and type(None) in get_args(hint)


def is_section(hint: Any) -> TypeGuard[Settings]:
    """Whether a type without metadata is a dataclass of settings."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def inner(hint: Any, key: str | int) -> Any:
    """Return the type of a field, a list item or a value of a mapping; None if the type does not declare it."""
    hint = bare(hint)
    if is_union(hint):  # one of its members can be a mapping
        hint = next((arm for arm in get_args(hint) if get_origin(arm) is dict), hint)
    if is_section(hint):
        return hints(hint).get(str(key))
    if get_origin(hint) is tuple:
        return get_args(hint)[0]
    return get_args(hint)[1] if get_origin(hint) is dict else None


def defaults(settings: Settings) -> dict[str, Any]:
    """Return the defaults of a section as YAML values. Keys without a default are omitted."""
    values = {}
    for item in dataclasses.fields(settings):
        if item.default is not dataclasses.MISSING:
            values[item.name] = plain(item.default)
        elif item.default_factory is not dataclasses.MISSING:
            kind = bare(hints(settings)[item.name])
            values[item.name] = defaults(kind) if is_section(kind) else plain(item.default_factory())
    return values


def plain(value: Any) -> Any:
    """Return a default as a YAML value: lists for tuples, text for paths."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@cache
def conditions(settings: Settings) -> dict[str, OnlyIf]:
    """Return the condition of each key of a section that is used only with certain values of another key."""
    by_field = {name: [m for m in metadata_of(hint) if isinstance(m, OnlyIf)] for name, hint in hints(settings).items()}
    return {name: metadata[0] for name, metadata in by_field.items() if metadata}


def relevant(section: dict, hint: Any) -> dict:
    """Return a resolved section of the declared type `hint` without the settings that its values leave unused."""
    ignored = {name for name, condition in conditions(bare(hint)).items() if not condition.holds(section)}
    return {name: value for name, value in section.items() if name not in ignored}


@cache
def docstrings(settings: Settings) -> dict[str, str]:
    """Return the docstring of each field, including inherited fields."""
    texts: dict[str, str] = {}
    for cls in reversed(settings.__mro__):
        if dataclasses.is_dataclass(cls):
            texts |= dict(own_docstrings(cls))
    return texts


def own_docstrings(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (field, docstring) for the fields that a class itself declares."""
    body = ast.parse(inspect.getsource(settings)).body[0]
    assert isinstance(body, ast.ClassDef)
    for node, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
            text = ast.literal_eval(following.value)
            yield ast.unparse(node.target), " ".join(text.split())


def retyped(value: Any, hint: Any) -> Any:
    """Convert texts to YAML values if the setting is not a text: `--config a={b: 1}` passes the 1 as text.

    Dates become texts again, in values and in keys, because YAML converts texts such as 2025-01-31 to dates.
    """
    if isinstance(value, dict):
        value = {str(key) if isinstance(key, datetime.date) else key: item for key, item in value.items()}
        return {key: retyped(item, inner(hint, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [retyped(item, inner(hint, 0)) for item in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    if not isinstance(value, str) or hint is None:
        return value
    if value == "null" and allows_null(hint):
        return None
    kind = bare(hint)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if kind in (str, Path) or value in choices or (is_union(kind) and str in get_args(kind)):
        return value
    if kind is Any:  # as JSON, because YAML reads `no` and `off` as false
        with contextlib.suppress(ValueError):
            return json.loads(value)
        return value
    import yaml  # imported here because `make status` does not need it

    try:
        return retyped(yaml.safe_load(value), None)
    except (yaml.YAMLError, ValueError):  # ValueError for 2024-13-01, and for an integer of 5,000 digits
        return value
