"""Validates a config before any job starts: every key against its declaration, then the settings against each other.

Snakemake imports this module at every start. Its only heavy import is pydantic, which Snakemake imports anyway.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from prefloop.config.consistency import contradictions
from prefloop.config.declarations import bare, defaults, inner, retyped
from prefloop.config.derived_methods import with_likes
from prefloop.config.existence import absent
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.config.messages import explain
from prefloop.config.model_limits import beyond_positions
from prefloop.config.resolve import merged
from prefloop.config.schema import MAX_INTEGER, config_adapter
from prefloop.config.settings import ExperimentConfig
from prefloop.config.sweeps import with_sweeps
from prefloop.config.training_settings import RewardModelSection
from prefloop.core.errors import InputError, short_repr
from prefloop.core.own_functions import is_own, split

TOO_DEEP = "nested too deeply to be read, or an alias (*name) within its own anchor (&name); use fewer levels"
FILES = ("source", "model", "start", "base", "embedding", "template", "text")  # keys that may name a file or folder
MAX_VALUES = 100_000  # of a config file; the project's largest has a few hundred
YAML_TAG = "tag:yaml.org,2002:"
PLAIN_TAGS = {"null", "bool", "int", "float", "str", "timestamp", "seq", "map", "merge"}
# Keys of texts for models, servers and rows, which may have several lines. No page shows them.
PROSE = {"system_prompt", "content", "stop", "chat_template_kwargs", "extra", "columns", "keep"}


def check_keys(files: Iterable[Path]) -> None:
    """Check config files for errors that Snakemake does not report.

    Raises:
        InputError: A key occurs twice in one mapping (YAML silently uses the last), a value has a tag, an alias
            contains itself, aliases repeat too many values, or a file is not UTF-8.
    """
    for file in files:
        try:
            text = Path(file).read_text(encoding="utf-8")
            root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            if count_values(root, {}) > MAX_VALUES:
                problem = f"more than {MAX_VALUES:,} values, including those that aliases (*name) repeat; write fewer"
                raise InputError(f"config: {file}: {problem}")
            lines = [f"line {line}: {tag} is a tag; write the value without it" for tag, line in tags(root)]
            lines += [f"line {line}: {key} occurs a second time; merge the two" for key, line in repeated_keys(root)]
        except yaml.YAMLError:  # Snakemake has read it as JSON
            continue
        except RecursionError as error:
            raise InputError(f"config: {file}: {TOO_DEEP}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"config: {file}: not UTF-8 ({error}); save it as UTF-8") from error
        if lines:
            raise InputError(*(f"config: {file}, {line}" for line in lines))


def count_values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Count the values in a node. Values of an alias count at each occurrence. `known` caches the counts of nodes.

    Raises:
        RecursionError: An alias contains itself.
    """
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 1 + sum(count_values(item, known) for item in children(node))
    return known[id(node)]


def children(node: yaml.Node) -> list[yaml.Node]:
    """Return the items of a list, or the keys and values of a mapping."""
    if isinstance(node, yaml.MappingNode):
        return [item for pair in node.value for item in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def tags(node: yaml.Node | None) -> Iterable[tuple[str, int]]:
    """Yield (tag, line) for every value with a tag, such as !!python/name:os.system."""
    if node is None:
        return
    if node.tag.removeprefix(YAML_TAG) not in PLAIN_TAGS:
        yield node.tag.replace(YAML_TAG, "!!"), node.start_mark.line + 1
    for item in children(node):
        yield from tags(item)


def repeated_keys(node: yaml.Node | None) -> Iterable[tuple[str, int]]:
    """Yield (key, line) for every key that occurs a second time in its mapping."""
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


def checked(config: dict) -> dict:
    """Return a copy of `config` with all defaults.

    Raises:
        InputError: The config is invalid. The message has one line per error.
    """
    try:
        config = retyped(config, ExperimentConfig)
    except RecursionError as error:
        raise InputError(f"config: {TOO_DEEP}") from error
    if problems := list(invalid(config)):
        raise InputError(*(f"config: {problem}" for problem in problems))
    config = merged(defaults(ExperimentConfig), config)
    models = config["reward_models"]
    config["reward_models"] = {name: merged(defaults(RewardModelSection), model) for name, model in models.items()}
    evaluation = config["evaluation"]
    evaluators = {name: merged(defaults(FeedbackConfig), own) for name, own in evaluation["evaluators"].items()}
    config["evaluation"] = evaluation | {"evaluators": evaluators}
    config["methods"] = with_likes(config["methods"])
    config = with_sweeps(config, invalid)
    problems = [f"{where}: {problem}" for where, text in texts(config) for problem in unusable(where, text)]
    problems += contradictions(config)
    problems = problems or absent(config) or beyond_positions(config)
    if problems:
        raise InputError(*(f"config: {problem}" for problem in problems))
    return config


def invalid(config: dict) -> Iterable[str]:
    """Yield one line per unknown key and per value of the wrong type or out of range."""
    from pydantic import ValidationError

    evaluation = config.get("evaluation")
    evaluators = evaluation.get("evaluators") if isinstance(evaluation, dict) else None
    mappings = {name: config.get(name) for name in ("methods", "reward_models")} | {"evaluation.evaluators": evaluators}
    for name, names in mappings.items():
        numbers = [key for key in names if not isinstance(key, str)] if isinstance(names, dict) else []
        yield from (f"{name}: {key}, expected a name of letters, digits and _" for key in numbers)
    if too_large := list(beyond(config, ExperimentConfig)):
        yield from too_large
        return
    # As JSON, which has lists and texts where the settings have tuples and paths. Lone surrogates are refused below.
    text = json.dumps(config, default=str, ensure_ascii=False).encode(errors="replace")
    try:
        config_adapter().validate_json(text)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        if errors[0]["type"] == "json_invalid":
            yield TOO_DEEP
            return
        # A list with an invalid item is also reported as too short, whatever its length.
        yield from dict.fromkeys(explain(item) for item in errors if item["type"] != "too_short" or not item["input"])


def beyond(value: Any, hint: Any, where: str = "") -> Iterable[str]:
    """Yield one line per integer above MAX_INTEGER, except in values that are passed on to other software."""
    if hint is None or bare(hint) is Any:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield from beyond(item, inner(hint, key), f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from beyond(item, inner(hint, index), f"{where}.{index}")
    elif type(value) is int and value > MAX_INTEGER:
        yield f"{where}: {short_repr(value)}, expected {MAX_INTEGER} or less"


def unusable(where: str, text: str) -> list[str]:
    """Return why a text of a config cannot be used: invalid characters for file names and commands, or secrets.

    All other texts are safe, because they are quoted for the shell.
    """
    problems, keys = [], where.split(".")
    allowed = "\n\r\t\u2028\u2029" if PROSE.intersection(keys) else ""
    if control := [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in allowed]:
        problems.append(f"contains the control character {ascii(control[0])}; remove it")
    if set(text) & set("{}<>") and keys[-1] in FILES and not where.endswith("judge.model"):
        problems.append(f"{text!r}: Snakemake reads {{…}} and <…> in file names as patterns; rename the file or folder")
    if re.search(r"://[^/\s]*@", text):
        problems.append(
            "an address with a user name or password in it, which would appear in command lines and logs; "
            "put a key into an environment variable"
        )
    if not problems and (is_own(text) or keys[-1] in (*FILES, "name")):
        problems += unreachable(split(text)[0] if is_own(text) else text)
    return problems


def unreachable(path: str) -> list[str]:
    """Return why the system cannot check whether a file exists: the name is too long, or a folder is not readable."""
    try:
        Path(path).expanduser().stat()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, RuntimeError) as error:  # RuntimeError: ~user of an unknown user
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        return [f"{short_repr(path)}: {reason}; name another file"]
    return []


def texts(value: Any, where: str = "") -> Iterable[tuple[str, str]]:
    """Yield (key, text) for every value that is a text, and for every key that names a function."""
    if isinstance(value, dict):
        for key, item in value.items():
            if is_own(key):  # a weighted function of the user
                yield where, key
            yield from texts(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, where)
    elif isinstance(value, str):
        yield where, value
