"""docs/config.md and the JSON schema match the declared settings, and every key is described."""

import runpy
from collections.abc import Iterator

import pytest

from conftest import ROOT
from prefloop.config.schema import json_schema

SCHEMA = json_schema()
TOOL = runpy.run_path(str(ROOT / "tools/write_config_page.py"))


def keys_of(node: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """Yield (path, property) for every key below a node of the schema."""
    for name, sub in node.get("properties", {}).items():
        sub = TOOL["resolved"](sub, SCHEMA)
        yield f"{path}{name}", sub
        yield from keys_of(sub, f"{path}{name}.")


KEYS = dict([*keys_of(SCHEMA), *keys_of(SCHEMA["$defs"]["RewardModelSection"], "reward_models.<name>.")])


def test_page_is_generated():
    assert TOOL["page"]() == (ROOT / "docs/config.md").read_text(encoding="utf-8"), "run make docs"


def test_schema_file_is_generated():
    written = ROOT / "workflow/schemas/config.schema.json"
    assert TOOL["schema_text"]() == written.read_text(encoding="utf-8"), "run make docs"


@pytest.mark.parametrize("key", KEYS)
def test_key_has_description_unit_and_meaning_of_null(key: str):
    sub = KEYS[key]
    assert len(sub["description"]) > 5
    types = {option.get("type") for option in sub.get("anyOf", [sub])}
    types |= {option.get("items", {}).get("type") for option in sub.get("anyOf", [sub])}
    assert ("unit" in sub) == bool(types & {"number", "integer"}), "exactly the numbers have a unit"
    if "null" in types:
        assert "null" in sub["description"]
