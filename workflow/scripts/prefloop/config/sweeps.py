"""Sweeps: a method with lists of values is replaced by one method per combination of values.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prefloop.config.declarations import hints
from prefloop.config.resolve import ABOUT_METHODS, labels_of, merged
from prefloop.config.settings import MethodConfig
from prefloop.core.errors import InputError, short_repr

MAX_COMPARED = 200
MAX_NAME = 120  # characters of a folder's name; file systems allow 255 bytes
SYMBOLS = {"train.beta": "β", "bandit.alpha": "α", "bandit.gamma": "γ"}
LISTS = (("evaluation", "by_temperature"), ("evaluation", "by_checkpoint"), ("export",))  # sections with `methods`

Point = dict[str, Any]  # one value per swept key


def with_sweeps(config: dict, invalid: Callable[[dict], Iterable[str]]) -> dict:
    """Return a config in which one method per combination of values replaces each compared method with a sweep.

    Each new method has the settings of the swept method, overridden by the values, and a label that names the values.
    Its `like` is the swept method, and its `sweep` has a list of one value per key. Lists of methods in other settings
    contain the new methods in place of the swept one.

    Args:
        config: A config with all defaults, in which every `like` is resolved.
        invalid: Returns the errors of a config's keys, one line each.

    Raises:
        InputError: A key is not a setting of methods, a value is invalid or repeated, there are too many combinations,
            or two methods would have the same name.
    """
    sweeps = {name: sweep_of(config, name) for name in config["compare"] if name in config["methods"]}
    count = sum(math.prod(map(len, sweeps.get(name, {}).values())) for name in config["compare"])
    if sweeps and count > MAX_COMPARED:
        raise InputError(f"config: sweep: {count:,} methods, expected {MAX_COMPARED} or fewer; sweep fewer values")
    problems = [f"config: {text}" for name in sweeps for text in sweep_problems(config, name, invalid)]
    if problems:
        raise InputError(*dict.fromkeys(problems))
    variants: dict[str, dict[str, dict]] = {}
    for name, sweep in sweeps.items():
        if sweep:
            points = [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
            pairs = [(variant_name(name, point), variant(config, name, point)) for point in points]
            check_names(name, [variant for variant, _ in pairs], config["methods"])
            variants[name] = dict(pairs)
    return replaced(config, variants)


def sweep_places(config: dict) -> list[dict]:
    """Return the place of every compared method in its sweep: method, label of the swept method, and point."""
    places = []
    for name, label in labels_of(config).items():
        entry = config["methods"][name]
        sweep = entry.get("sweep") or {}
        swept = (config["methods"][entry["like"]].get("label") or entry["like"]) if sweep else label
        places.append({"method": name, "swept": swept, "point": {key: values[0] for key, values in sweep.items()}})
    return places


def sweep_of(config: dict, name: str) -> dict[str, list]:
    """Return the sweep of a method: its own, even if it is empty, or else the experiment's."""
    own = config["methods"][name].get("sweep")
    return config["sweep"] if own is None else own


def sweep_problems(config: dict, name: str, invalid: Callable[[dict], Iterable[str]]) -> Iterator[str]:
    """Yield one line per invalid key or value of a method's sweep."""
    where = "sweep" if config["methods"][name].get("sweep") is None else f"methods.{name}.sweep"
    sweep, sections = sweep_of(config, name), hints(MethodConfig)
    for key, values in sweep.items():
        section, _, rest = str(key).partition(".")
        outer = [other for other in sweep if str(key).startswith(f"{other}.")]
        repeated = [value for index, value in enumerate(values) if value in values[:index]]
        if section not in sections or not rest:
            yield f"{where}: {short_repr(key)}, expected a key of {', '.join(sections)}, such as train.beta"
        elif outer:
            yield f"{where}: {key} is a part of {outer[0]}; sweep one of the two"
        elif repeated:
            yield f"{where}: {key} has {short_repr(repeated[0])} twice; name each value once"
        else:
            for value in values:
                yield from (f"{where}: {text}" for text in invalid({"name": "x"} | nested(key, value)))


def nested(key: str, value: Any) -> dict:
    """Return a value with the nesting of the config: `train.beta` is a key of `train`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def variant(config: dict, name: str, point: Point) -> dict:
    """Return the entry of a swept method with the values of a point."""
    entry = config["methods"][name]
    settings = {key: value for key, value in entry.items() if key not in ABOUT_METHODS}
    for key, value in point.items():
        settings = merged(settings, nested(key, value))
    label = ", ".join([entry.get("label") or name, *(f"{word} {shown}" for word, shown in point_words(point).items())])
    return settings | {"label": label, "like": name, "sweep": {key: [value] for key, value in point.items()}}


def point_words(point: Point) -> dict[str, str]:
    """Return a point's values as text, by the short names of their keys: a symbol, or the last part if it is unique."""
    last = [key.rpartition(".")[2] for key in point]
    words = {}
    for key, end in zip(point, last, strict=True):
        words[SYMBOLS.get(key) or (end.replace("_", " ") if last.count(end) == 1 else key)] = value_text(point[key])
    return words


def value_text(value: Any) -> str:
    """Return a swept value as YAML writes it; a mapping or list as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def variant_name(name: str, point: Point) -> str:
    """Return the name of a point's method: the swept method, the keys and the values, in letters, digits and _.

    The name does not depend on other values or on the order of the keys, so that adding values renames no method. A
    hash is appended to texts with other characters, and to long names.
    """
    words = [name]
    for key, value in sorted(point.items()):
        number = isinstance(value, (int, float))
        text = value_text(value)
        plain = text.replace(".", "p").replace("-", "m").replace("+", "") if number else text
        words += [key.replace(".", "_"), with_hash(re.sub(r"[^A-Za-z0-9_]", "_", plain), plain)]
    joined = "_".join(words)
    return joined if len(joined) <= MAX_NAME else f"{joined[: MAX_NAME - 9]}_{short_hash(joined)}"


def with_hash(safe: str, text: str) -> str:
    """Return `safe`, followed by a hash of `text` if the two differ."""
    return safe if safe == text else f"{safe}_{short_hash(text)}"


def short_hash(text: str) -> str:
    """Return eight hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:8]


def check_names(name: str, names: list[str], methods: Mapping[str, dict]) -> None:
    """Raise an InputError if the name of a sweep's method is taken."""
    for made in names:
        if made in methods or names.count(made) > 1:
            raise InputError(
                f"config: methods.{name}: its sweep creates a method {made}, but another has this name; rename that one"
            )


def replaced(config: dict, variants: Mapping[str, dict[str, dict]]) -> dict:
    """Return a config whose lists of methods contain the variants in place of the swept methods."""

    def in_place(names: list[str]) -> list[str]:
        return list(dict.fromkeys(made for name in names for made in variants.get(name, {name: {}})))

    entries = {made: entry for of_method in variants.values() for made, entry in of_method.items()}
    result = merged(config, {"compare": in_place(config["compare"])})
    result["methods"] = config["methods"] | entries
    for path in LISTS:
        section = config
        for key in path:
            section = section[key]
        if section["methods"]:
            result = merged(result, nested(".".join([*path, "methods"]), in_place(section["methods"])))
    return result
