"""Read the card of a published model: its front matter, with the hub's keys."""

import re
from pathlib import Path
from typing import Any

import yaml

PLAIN = str | int | float  # no lists in lists: their aliases can expand to more text than fits into memory
LICENSE_KEYS = ("license", "license_name", "license_link")


def front_matter(readme: Path) -> dict[str, Any]:
    """The YAML between --- lines at the start of a model card; empty if there is none."""
    text = readme.read_text(encoding="utf-8-sig", errors="replace") if readme.is_file() else ""
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|\Z)", text, re.DOTALL)
    try:
        fields = yaml.safe_load(match[1]) if match else {}
    except (yaml.YAMLError, ValueError, RecursionError):  # only the license is needed, so bad cards are ignored
        fields = {}
    return fields if isinstance(fields, dict) else {}


def license_fields(readme: Path) -> dict[str, str]:
    """The license fields of a model card: `license`, and the name and link of a license that the hub does not list."""
    fields = front_matter(readme)
    found = {
        key: fields[key] if isinstance(fields[key], list) else [fields[key]] for key in LICENSE_KEYS if key in fields
    }
    words = {key: [str(word) for word in value if isinstance(word, PLAIN) and word] for key, value in found.items()}
    return {key: ", ".join(value) for key, value in words.items() if value}
