"""Writes the reference part of docs/config.md from the config schema: `make docs`.

What stands above the mark is written by hand and stays; below it every key has a row.
"""

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from prefloop.checks import load_schema  # noqa: E402

PAGE = ROOT / "docs/config.md"
MARK = "<!-- Below this line the page is made from workflow/schemas/config.schema.yaml by `make docs`. -->\n"
HEAD = "| key | type | unit | default | meaning |\n|---|---|---|---|---|\n"
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
WORDS = {"string": "text", "boolean": "true or false", "array": "list", "object": "mapping"}


def page() -> str:
    """The page as it should be: what was written by hand, the mark, the tables."""
    return PAGE.read_text(encoding="utf-8").split(MARK)[0] + MARK + reference()


def reference() -> str:
    """The sections of the schema, each a heading with a table of its keys."""
    schema = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
    embedded = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    sections = {name: resolved(sub, schema) for name, sub in schema["properties"].items()}
    plain = {name: sub for name, sub in sections.items() if not sub.get("properties")}
    text = "\n## The experiment\n\n" + HEAD + rows(plain, schema, {k: v for k, v in embedded.items() if k != "methods"})
    for name, sub in sections.items():
        if name == "reward_models":
            text += section("reward_models.<name>", schema["$defs"]["reward_model"], schema, {})
        elif name not in plain:
            text += section(name, sub, schema, embedded.get(name, {}))
    return text


def section(name: str, sub: dict, schema: dict, embedded: dict) -> str:
    body = rows(sub["properties"], schema, embedded, required=sub.get("required", []))
    return f"\n## {name}\n\n{sentence(sub['description'])}\n\n{HEAD}{body}"


def rows(properties: dict, schema: dict, embedded: dict, prefix: str = "", required: list[str] = ()) -> str:
    """A row a key; the keys of a mapping follow it with their path. `embedded` is what config.yaml says here."""
    text = ""
    for name, sub in properties.items():
        sub = resolved(sub, schema)
        nested = sub.get("properties", {})
        if "kind" in nested and prefix + name == "evaluator":  # the same keys as a section that has its own table
            given = default(sub, embedded.get(name, ...), False)
            text += f"| `{name}` | mapping |  | {given} | who evaluates: keys as in [feedback](#feedback) |\n"
            continue
        given = "" if nested else default(sub, embedded.get(name, ...), name in required)
        text += f"| `{prefix}{name}` | {kind(sub)} | {sub.get('unit', '')} | {given} | {meaning(sub, properties)} |\n"
        text += rows(nested, schema, embedded.get(name) or {}, f"{prefix}{name}.")
    return text


def resolved(sub: dict, schema: dict) -> dict:
    """A property with what its $ref says."""
    return schema["$defs"][sub["$ref"].rsplit("/", 1)[1]] | sub if "$ref" in sub else sub


def kind(sub: dict) -> str:
    """The type with its limits, or the choices."""
    if "anyOf" in sub:
        return " or ".join(kind(option) for option in sub["anyOf"])
    if "const" in sub:
        return f"`{sub['const']}`"
    if "enum" in sub:
        return "one of " + ", ".join(f"`{word}`" for word in sub["enum"])
    types = [sub["type"]] if isinstance(sub["type"], str) else sub["type"]
    limits = " and ".join(f"{sign} {sub[key]:g}" for key, sign in LIMITS.items() if key in sub)
    words = [WORDS.get(word, word) for word in types]
    words[0] += f" {limits}" if limits else ""
    if "items" in sub:
        words[0] += f" of {kind(sub['items'])}"
    return " or ".join(words)


def default(sub: dict, embedded, required: bool) -> str:
    """The schema's default, and what config.yaml has in its place."""
    own = "must be given" if required else f"`{as_yaml(sub['default'])}`" if "default" in sub else ""
    if embedded is ... or embedded == sub.get("default", ...):
        return own
    return f"{own}{'; ' if own else ''}config.yaml: `{as_yaml(embedded)}`"


def as_yaml(value) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).strip()
    return text.removesuffix("\n...").strip()


def meaning(sub: dict, beside: dict) -> str:
    """The description, and under which words of the keys `beside` it the key counts."""
    conditions = []
    for key, words in sub.get("when", {}).items():
        choices = beside[key]["enum"]
        words = [word for word in choices if word not in words["not"]] if isinstance(words, dict) else words
        others = [word for word in choices if word not in words]
        few, verb = (others, "is not") if len(others) == 1 < len(words) else (words, "is")
        conditions.append(f"`{key}` {verb} {' or '.join(f'`{word}`' for word in few)}")
    text = sub["description"] + (f". Counts where {' and '.join(conditions)}" if conditions else "")
    return text.replace("|", "\\|").replace("<", "\\<")


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
