"""Flags whose value is JSON."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import tyro

from prefloop.core.json_flags import JSON_FLAGS


@dataclass
class Part:
    size: int = 1
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Whole:
    parts: tuple[Part, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def parsed(*words: str) -> Whole:
    return tyro.cli(Whole, args=words, registry=JSON_FLAGS)


def test_mappings_and_lists_of_sections_are_json():
    assert parsed() == Whole()
    assert parsed("--options", '{"a": [1]}') == Whole(options={"a": [1]})
    parts = Part(3, {"b": None}), Part()
    assert parsed("--parts", '[{"size": 3, "options": {"b": null}}, {}]') == Whole(parts)


@pytest.mark.parametrize("text", ['[{"length": 3}]', "[{", "[3]", "3"])
def test_other_values_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        parsed("--parts", text)
    assert "Traceback" not in capsys.readouterr().err
