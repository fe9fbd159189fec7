"""Reading the card of a model that others published: its front matter, in the hub's keys."""

import re
from pathlib import Path
from typing import Any

import yaml

PLAIN = str | int | float  # aliases in lists within lists can stand for more text than fits into memory
LICENSE_KEYS = ("license", "license_name", "license_link")


def front_matter(readme: Path) -> dict[str, Any]:
    """The YAML between --- lines at the start of a model card; empty if there is none."""
    text = readme.read_text(encoding="utf-8-sig", errors="replace") if readme.is_file() else ""
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|\Z)", text, re.DOTALL)
    try:
        fields = yaml.safe_load(match[1]) if match else {}
    except (yaml.YAMLError, ValueError, RecursionError):  # a card by others, of which only the license is needed
        fields = {}
    return fields if isinstance(fields, dict) else {}


def license_fields(readme: Path) -> dict[str, str]:
    """The license on a model card: `license`, and for one that the hub has no word for `license_name` and its link."""
    fields = front_matter(readme)
    found = {
        key: fields[key] if isinstance(fields[key], list) else [fields[key]] for key in LICENSE_KEYS if key in fields
    }
    words = {key: [str(word) for word in value if isinstance(word, PLAIN) and word] for key, value in found.items()}
    return {key: ", ".join(value) for key, value in words.items() if value}
