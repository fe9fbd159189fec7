"""Write workflow/schemas/config.schema.json and the reference part of docs/config.md from the settings: `make docs`.

The part of the page above the mark is written by hand and does not change. Below it, every key has a row.
"""

import json
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from prefloop.config.schema import MAX_INTEGER, json_schema  # noqa: E402

SCHEMA = ROOT / "workflow/schemas/config.schema.json"
PAGE = ROOT / "docs/config.md"
MARK = "<!-- `make docs` writes the page from here on, from the dataclasses in workflow/scripts/prefloop. -->\n"
HEAD = "| key | type | unit | default | meaning |\n|---|---|---|---|---|\n"
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
WORDS = {"string": "text", "boolean": "true or false", "array": "list", "object": "mapping"}


def schema_text() -> str:
    """The content of the schema file."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    """The content of the page: the part written by hand, the mark, and the tables."""
    return PAGE.read_text(encoding="utf-8").split(MARK)[0] + MARK + reference()


def reference() -> str:
    """The sections of the schema, each with a heading and a table of its keys."""
    schema = json_schema()
    demo = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")) | {"methods": ...}
    sections = {name: resolved(sub, schema) for name, sub in schema["properties"].items()}
    plain = {name: sub for name, sub in sections.items() if not sub.get("properties")}
    text = "\n## The experiment\n\n" + HEAD + rows(plain, schema, demo, required=schema["required"])
    for name, sub in sections.items():
        if name == "reward_models":
            text += section("`reward_models.<name>`", schema["$defs"]["RewardModelSection"], schema, {})
        elif name == "methods":
            text += section("`methods.<name>`", about_method(schema), schema, {})
        elif name not in plain:
            text += section(name, sub, schema, demo.get(name, {}))
    return text


def about_method(schema: dict) -> dict:
    """The keys of a method, without its sections, which have tables of their own."""
    entry = schema["$defs"]["MethodEntry"]
    own = {key: sub for key, sub in entry["properties"].items() if not resolved(sub, schema).get("properties")}
    return entry | {"properties": own}


def section(name: str, sub: dict, schema: dict, demo: dict) -> str:
    """A heading, a description of the section, and a table of its keys."""
    body = rows(sub["properties"], schema, demo, required=sub.get("required", []))
    return f"\n## {name}\n\n{sub['description']}\n\n{HEAD}{body}"


def rows(properties: dict, schema: dict, demo: dict, prefix: str = "", required: list[str] = ()) -> str:
    """A row per key; the keys of a mapping follow it, with their path. `demo` is this part of config.yaml."""
    text = ""
    for name, sub in properties.items():
        own, sub = sub, resolved(sub, schema)
        nested = sub.get("properties", {})
        if prefix + name == "evaluator":  # the same keys as a section that has its own table
            given = default({}, demo.get(name, ...), False)
            text += (
                f"| `{name}` | mapping |  | {given} | Evaluator of the samples; keys as in [feedback](#feedback). |\n"
            )
            continue
        given = "" if nested else default(sub, demo.get(name, ...), name in required)
        meaning = own["description"].replace("|", "\\|").replace("<", "\\<") + condition(own, properties)
        text += f"| `{prefix}{name}` | {kind(sub)} | {sub.get('unit', '')} | {given} | {meaning} |\n"
        text += rows(nested, schema, demo.get(name) or {}, f"{prefix}{name}.", sub.get("required", []))
    return text


def resolved(sub: dict, schema: dict) -> dict:
    """A property, merged with the definition to which its $ref points."""
    return schema["$defs"][sub["$ref"].rsplit("/", 1)[1]] | sub if "$ref" in sub else sub


def kind(sub: dict) -> str:
    """The type with its limits, or the allowed values."""
    if "anyOf" in sub:
        return " or ".join(kind(option) for option in sub["anyOf"])
    if "const" in sub:
        return f"`{sub['const']}`"
    if "enum" in sub:
        return "one of " + ", ".join(f"`{word}`" for word in sub["enum"])
    if sub.get("format") == "function":
        return "your own `module:function`"
    limits = " and ".join(
        f"{sign} {sub[key]:g}" for key, sign in LIMITS.items() if sub.get(key, MAX_INTEGER) < MAX_INTEGER
    )
    text = WORDS.get(sub.get("type"), sub.get("type", "mapping")) + (f" {limits}" if limits else "")
    return f"{text} of {kind(sub['items'])}" if "items" in sub else text


def default(sub: dict, demo, required: bool) -> str:
    """The default, and the value in config.yaml if it differs."""
    own = "must be given" if required else f"`{as_yaml(sub['default'])}`" if "default" in sub else ""
    if demo is ... or demo == sub.get("default", ...):
        return own
    return f"{own}{'; ' if own else ''}demo: `{as_yaml(demo)}`"


def as_yaml(value) -> str:
    """A value as YAML on one line; text with line breaks is written as JSON, which is also YAML."""
    if "\\n" in (text := json.dumps(value, ensure_ascii=False)):
        return text
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).strip()
    return text.removesuffix("\n...").strip()


def condition(sub: dict, section_keys: dict) -> str:
    """Return the condition on another key of the section under which the key is used; empty if it always is."""
    for key, values in sub.get("when", {}).items():
        if key in section_keys:  # the evaluation has no choice of sampler
            verb, values = ("is not", values["not"]) if isinstance(values, dict) else ("is", values)
            return f" Used only if `{key}` {verb} {' or '.join(f'`{word}`' for word in values)}."
    return ""


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
