"""Error messages for invalid configs, one line per error: the key, what was found and what was expected."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge

from prefloop.config.declarations import allows_null, bare, docstrings, inner, is_section, is_union, metadata_of
from prefloop.config.feedback_settings import NO_SECRETS
from prefloop.config.settings import ExperimentConfig
from prefloop.core.errors import short_repr
from prefloop.core.metadata import Choice, Matches

KINDS = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a list", dict: "a mapping of keys"}
BOUNDS = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "below {lt:g}",
    "less_than_equal": "{le:g} or less",
}
# Keys of earlier versions and their current names.
RENAMED = {
    "divergence": "kl",
    "held_out": "eval_fraction",
    "licence": "license",
    "neighbour_weight": "neighbor_weight",
    "neighbours": "neighbors",
    "normalise": "normalize",
    "normalised": "normalized",
    "scoring": "logprobs",
}
# Keys of other systems and their names here.
ELSEWHERE = {"missing_eos_penalty": "truncation_penalty"}


def explain(error: Mapping[str, Any]) -> str:
    """Return the message for one pydantic error. The declarations of settings are looked up along its location."""
    hint: Any = ExperimentConfig
    section: Any = None
    path: list[str] = []
    doc, keys = "", list(error["loc"])
    is_key = keys[-1] == "[key]"
    for key in keys[:-2] if is_key else keys:
        following = inner(hint, key)
        if following is None and error["type"] != "unexpected_keyword_argument":
            break  # the rest of the location names a member of a union
        section, hint = bare(hint), following
        path.append(str(key))
        if is_section(section):
            doc = docstrings(section).get(str(key), "")
    is_word = any(isinstance(item, Choice) for item in metadata_of(hint))
    if is_key and not is_word:  # the key of a mapping
        hint = get_args(bare(hint))[0]
    where, found, about = ".".join(path), error["input"], f" ({first_sentence(doc)})" if doc else ""
    if error["type"] == "unexpected_keyword_argument":
        return f"{where}: {unknown(path[-1], section)}"
    if is_union(bare(hint)) and not is_word:  # each member of the union has its own error
        return f"{where}: {of_wrong_kind(found, hint)}{about}"
    if error["type"] == "missing":
        return f"{where}: missing{about}"
    if error["type"] == "value_error":
        return f"{where}: {of_wrong_form(found, str(error['ctx']['error']), where)}"
    if error["type"] == "literal_error":
        return f"{where}: {no_choice(found, choices(hint))}"
    if error["type"] == "finite_number":
        return f"{where}: {found} is not a finite number; write one"
    if error["type"] == "too_short":
        return f"{where}: empty, expected {error['ctx']['min_length']} or more{about}"
    if bound := BOUNDS.get(error["type"]):
        return f"{where}: {shown(found)}, expected {bound.format(**error['ctx'])}{about}"
    return f"{where}: {of_wrong_kind(found, hint)}{about}"


def first_sentence(doc: str) -> str:
    """Return the first sentence of a docstring, lower-cased and without its period, for use in brackets."""
    text = doc.split(". ")[0].rstrip(".")
    return text[0].lower() + text[1:] if text.split()[0][1:].islower() else text


def unknown(key: str, section: type) -> str:
    """Return the message for an unknown key, with the key that was probably meant."""
    if key in RENAMED:
        return f"renamed to {RENAMED[key]}"
    known = [item.name for item in dataclasses.fields(section)]
    if ELSEWHERE.get(key) in known:
        return f"unknown key; its name here is {ELSEWHERE[key]}"
    close = difflib.get_close_matches(key, known, n=1)
    return f"unknown key; did you mean {close[0]}?" if close else f"unknown key; known here: {', '.join(known)}"


def choices(hint: Any) -> list[str]:
    """Return the allowed values of a setting that is a choice."""
    registries = [item.words for item in metadata_of(hint) if isinstance(item, Choice)]
    return registries[0] if registries else [str(word) for word in get_args(bare(hint))]


def no_choice(found: Any, words: list[str]) -> str:
    """Return the message for a value that is not one of the choices, with the choice that was probably meant."""
    close = difflib.get_close_matches(str(found), words, n=1)
    return f"{shown(found)} is not one of {', '.join(words)}" + (f"; did you mean {close[0]}?" if close else "")


def of_wrong_form(found: Any, problem: str, where: str) -> str:
    """Return the message for a text of the wrong form, or for a list with repeated items."""
    if where.endswith("api_key_env"):  # the value may be the key itself
        return f"expected {problem}; do not write the key itself into a config"
    if where.endswith("base_url") and set(str(found)) & set("?#@"):
        return NO_SECRETS
    if isinstance(found, list):
        return problem
    return f"nothing (null), expected {problem}" if found is None else f"{shown(found)}, expected {problem}"


def expected_kind(hint: Any) -> str:
    """Describe the values that a declared type accepts."""
    if is_union(bare(hint)):
        return " or ".join(expected_kind(arm) for arm in get_args(bare(hint)))
    form = [item.expected for item in metadata_of(hint) if isinstance(item, Matches)]
    least = [f" of {item.ge} or more" for item in metadata_of(hint) if isinstance(item, Ge)]
    kind = bare(hint)
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if form or is_section(kind):
        return form[0] if form else KINDS[dict]
    return KINDS.get(get_origin(kind) or kind, "text") + "".join(least) + (" or null" if allows_null(hint) else "")


def of_wrong_kind(found: Any, hint: Any) -> str:
    """Return the message for a value of the wrong type, with a correction if it is clear."""
    kind, expected = bare(hint), expected_kind(hint)
    if found is None:
        return f"nothing (null), expected {expected}; leave the key out for its default"
    if isinstance(found, str) and kind in (int, float) and is_number(found):
        return f"{found!r} is text, not a number; YAML reads 5e-7 as text: write 5.0e-7"
    if get_origin(kind) is tuple and not isinstance(found, dict):
        return f"{shown(found)}, expected {expected}: write [{shown(found)}]"
    return f"{shown(found)}, expected {expected}"


def shown(value: Any) -> str:
    """Return a value as YAML writes it, shortened."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else short_repr(value)


def is_number(text: str) -> bool:
    """Whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
