"""The validator of a config, and its JSON schema for editors and other tools."""

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter, with_config

from prefloop.config.declarations import bare, docstrings, hints, is_section
from prefloop.config.settings import ExperimentConfig

MAX_INTEGER = 2**31 - 1  # the largest seed or size that libraries accept; `validation.beyond` checks it
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@cache
def config_adapter() -> TypeAdapter:
    """Return the validator of a config. Unknown keys, wrong types and infinite numbers are errors."""
    return TypeAdapter(with_config(STRICT)(ExperimentConfig))


def json_schema() -> dict:
    """Return the JSON schema of a config, in which each key is described by its docstring."""
    schema = config_adapter().json_schema()
    classes = {settings.__name__: settings for settings in declared(ExperimentConfig)}
    for node in (schema, *schema["$defs"].values()):
        settings = classes[node.pop("title")]
        node["description"] = " ".join((settings.__doc__ or "").split())
        for name, text in docstrings(settings).items():
            node["properties"][name].pop("title", None)
            node["properties"][name]["description"] = text
        for integer in integers(node["properties"]):
            integer.setdefault("maximum", MAX_INTEGER)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def integers(schema: Any) -> Iterator[dict]:
    """Yield every integer in a part of a JSON schema."""
    if isinstance(schema, dict) and schema.get("type") == "integer":
        yield schema
    items = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for item in items:
        yield from integers(item)


def declared(settings: type) -> set[type]:
    """Return a dataclass of settings and all dataclasses that its fields contain."""
    kinds = [bare(hint) for hint in hints(settings).values()]
    kinds += [bare(item) for kind in kinds for item in get_args(kind)]
    return {settings}.union(*(declared(kind) for kind in kinds if is_section(kind)))
