"""Wrong configs are refused before any job: by the schema, and by what no single key shows.

Snakemake reads this at every start, so nothing heavy is imported here.
"""

import math
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import yaml

from prefloop.contradictions import contradictions
from prefloop.presence import absent
from prefloop.registries import registry_words
from prefloop.rows import InputError
from prefloop.wording import explain

FILES = ("source", "model", "base", "embedding", "template")  # keys that may name a file or folder


def load_schema(path: Path) -> dict:
    """The config schema, with every `registry: module.NAME` replaced by the words of that registry.

    `when: {key: {not: [word]}}` becomes all the other words of that key, so that a setting counts under new ones too.
    """

    def resolve(node):
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {key: resolve(value) for key, value in node.items()}
        if "registry" in node and isinstance(node["registry"], str):
            node["enum"] = registry_words(node.pop("registry"))
        for settings in node.get("properties", {}).values():
            for key, words in settings.get("when", {}).items():
                if isinstance(words, dict):
                    choices = node["properties"][key]["enum"]
                    settings["when"][key] = [word for word in choices if word not in words["not"]]
        return node

    return resolve(yaml.safe_load(Path(path).read_text(encoding="utf-8")))


def check_keys(files: Iterable[Path]) -> None:
    """InputError for a key that stands twice in one mapping of a config file: YAML takes the last and says nothing."""
    for file in files:
        text = Path(file).read_text(encoding="utf-8")
        try:
            root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError:  # Snakemake has read it as JSON
            continue
        if repeated := list(repeated_keys(root)):
            lines = [f"{file}, line {line}: {key} stands there a second time; join the two" for key, line in repeated]
            raise InputError("config: " + "\nconfig: ".join(lines))


def repeated_keys(node: yaml.Node | None) -> Iterable[tuple[str, int]]:
    """Every key that its mapping has had before, and its line."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if str(key.value) in seen and key.tag != "tag:yaml.org,2002:merge":
                yield key.value, key.start_mark.line + 1
            seen.add(str(key.value))
            yield from repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from repeated_keys(item)


def checked(config: dict, schema: dict) -> dict:
    """A copy of `config` with the schema's defaults; InputError naming every wrong key and the choices."""
    import jsonschema

    config = retyped(config, schema, schema)
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        raise InputError("config: " + "\nconfig: ".join(explain(error) for error in errors))
    config = with_defaults(config, schema, schema)
    for name, settings in config["reward_models"].items():
        config["reward_models"][name] = with_defaults(settings, schema["$defs"]["reward_model"], schema)
    config.setdefault("compare", list(config["methods"]))
    problems = [f"{where}: {value} is not a finite number; write one" for where, value in not_finite(config)]
    problems += [f"{where}: {problem}" for where, text in texts(config) for problem in unusable(where, text)]
    problems += contradictions(config)
    problems = problems or absent(config)
    if problems:
        raise InputError("config: " + "\nconfig: ".join(problems))
    return config


def retyped(value, schema: dict, root: dict):
    """`value` with texts read as YAML where the schema wants no text: `--config a={b: 1}` passes nested 1 as text."""
    schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    if isinstance(value, dict):
        other = schema.get("additionalProperties") or {}
        known = schema.get("properties", {})
        return {key: retyped(item, known.get(key, other), root) for key, item in value.items()}
    if isinstance(value, list):
        return [retyped(item, schema.get("items", {}), root) for item in value]
    wanted = schema.get("type", "number" if "anyOf" in schema else "string")  # words of an enum are text
    if value == "null" and "null" in wanted:
        return None
    if isinstance(value, str) and "string" not in wanted:
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError:
            return value
    return value


def with_defaults(value: dict, schema: dict, root: dict) -> dict:
    """`value` with the defaults of absent properties, recursively."""
    result = dict(value)
    for name, sub in schema.get("properties", {}).items():
        default = sub.get("default")
        sub = root["$defs"][sub["$ref"].rsplit("/", 1)[1]] if "$ref" in sub else sub
        if name not in result and (default is not None or sub.get("default", ...) is None):
            result[name] = default
        if isinstance(result.get(name), dict):
            result[name] = with_defaults(result[name], sub, root)
    return result


def unusable(where: str, text: str) -> list[str]:
    """Why a text of config can be no part of a workflow: what no file or command can hold, and secrets.

    All other texts are safe, as they reach programs quoted for the shell.
    """
    problems, key = [], where.split(".")[-1]
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t" for c in text):
        problems.append("holds a control character")
    if set(text) & set("{}<>") and key in FILES and not where.endswith("judge.model"):
        problems.append(f"{text!r}: Snakemake reads {{…}} and <…> in file names as patterns; rename the file or folder")
    if re.search(r"://[^/\s]*@", text):
        problems.append(
            "an address with a user name or password in it, which would stand in command lines and logs; "
            "put a key into an environment variable"
        )
    return problems


def texts(value, where: str = "") -> Iterable[tuple[str, str]]:
    """Key and value of every text."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, where)
    elif isinstance(value, str):
        yield where, value


def not_finite(value, where: str = "") -> Iterable[tuple[str, float]]:
    """Key and value of every infinity and NaN, which YAML can write and no schema bound refuses."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from not_finite(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, float) and not math.isfinite(value):
        yield where, value
