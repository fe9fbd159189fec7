"""docs/config.md is what the schema says, and the schema says of every key what it is."""

import runpy

import pytest

from conftest import ROOT
from prefloop.checks import load_schema

SCHEMA = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
KEYWORDS = {
    "expected",
    "description",
    "unit",
    "type",
    "default",
    "when",
    "enum",
    "const",
    "anyOf",
    "items",
    "pattern",
    "not",
    "$ref",
}
KEYWORDS |= {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "uniqueItems", "required"}
KEYWORDS |= {"properties", "additionalProperties", "propertyNames"}
WITHOUT_DEFAULT = {"name", "compare", "methods", "policy", "policy.model", "reward_model.base"}


def keys_of(node: dict, path: str = ""):
    """(path, property) of every key below a node of the schema, a $ref's words laid under its own."""
    for name, sub in node.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        sub = SCHEMA["$defs"][sub["$ref"].rsplit("/", 1)[1]] | sub if "$ref" in sub else sub
        yield where, sub
        yield from keys_of(sub, where)


KEYS = dict([*keys_of(SCHEMA), *keys_of(SCHEMA["$defs"]["reward_model"], "reward_model")])


def test_the_page_is_what_the_schema_says():
    written = ROOT / "docs/config.md"
    page = runpy.run_path(str(ROOT / "docs/config_page.py"))["page"]()
    assert page == written.read_text(encoding="utf-8"), "run make docs"


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_described(key):
    """In words, with the unit of its number, its default, and what null means where it may be empty."""
    sub = KEYS[key]
    assert sub.keys() <= KEYWORDS, "an unquoted comma in a description makes a key of what follows it"
    assert len(sub["description"]) > 5
    types = [option.get("type") for option in sub.get("anyOf", [])] or sub.get("type", [])
    types = {types} if isinstance(types, str) else set(types)
    numbers = types | {sub.get("items", {}).get("type")}
    assert ("unit" in sub) == bool(numbers & {"number", "integer"}), "a number and nothing else has a unit"
    assert "default" in sub or key in WITHOUT_DEFAULT
    if "null" in types:
        assert "null" in sub["description"]
