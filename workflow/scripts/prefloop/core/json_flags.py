"""Flags with JSON values: mappings with any keys, and lists of sections."""

import dataclasses
import json
from typing import Any, get_args

import tyro

JSON_FLAGS = tyro.constructors.ConstructorRegistry()


@JSON_FLAGS.primitive_rule
def read_mapping(kind: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Read a mapping with any keys from one flag with a JSON value. Return None for other types."""
    if kind.type_origin is not dict:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda words: json.loads(words[0]),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    )


@JSON_FLAGS.primitive_rule
def read_sections(kind: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Read a list of settings sections from one flag with a JSON list of mappings. Return None for other types."""
    items = get_args(kind.type)
    if kind.type_origin is not tuple or not dataclasses.is_dataclass(items[0]):
        return None

    def from_words(words: list[str]) -> Any:
        try:
            return tuple(items[0](**values) for values in json.loads(words[0]))
        except TypeError as error:  # an unknown key
            raise ValueError(str(error)) from error

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=from_words,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [json.dumps([vars(item) for item in value])],
    )
