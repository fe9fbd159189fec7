"""Valid values of the fields of rows between stages. They are checked on reading, because users edit such files."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """The values that a field may have."""

    expected: str
    """Description of the values, for error messages."""
    accepts: Callable[[Any], bool]


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number that fits into a float. NumPy and torch scalars are numbers too."""
    try:
        return math.isfinite(value)
    except Exception:  # text, a huge integer, a tensor with several numbers, or an object of the user that raises
        return False


def is_finite_number(value: Any) -> bool:
    """Whether a JSON value is a finite number that fits into a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and is_finite(value)


def is_integer(value: Any) -> bool:
    """Whether a JSON value is an integer of at most 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def are_integers(value: Any) -> bool:
    """Whether a JSON value is a list of integers. Summing is the fastest test of thousands of token ids."""
    try:
        return isinstance(value, list) and isinstance(sum(value), int)
    except TypeError:
        return False


def are_messages(value: Any) -> bool:
    """Whether a JSON value is a conversation: a list of objects with the texts role and content."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
        )
    )


def are_judgments(value: Any) -> bool:
    """Whether a JSON value is a list of [response_id, probability, probability], with null for invalid answers."""
    return isinstance(value, list) and all(
        isinstance(item, list)
        and len(item) == 3
        and is_integer(item[0])
        and all(probability is None or is_finite_number(probability) for probability in item[1:])
        for item in value
    )


def are_prefixes(value: Any) -> bool:
    """Whether a JSON value is an object whose values are finite numbers."""
    return isinstance(value, dict) and all(map(is_finite_number, value.values()))


TEXT = Kind("text", lambda value: isinstance(value, str))
INTEGERS = Kind("a list of integers", are_integers)
INTEGER, NUMBER = Kind("an integer", is_integer), Kind("a finite number", is_finite_number)
INTEGER_OR_NULL = Kind("an integer or null", lambda value: value is None or is_integer(value))
NUMBER_OR_NULL = Kind("a finite number or null", lambda value: value is None or is_finite_number(value))
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("prompt_id", "response", "sampler", "component", "chosen", "rejected", "outcome", "metric"), TEXT),
    **dict.fromkeys(("token_ids", "token_ids_chosen", "token_ids_rejected", "token_ids_explored", "beats"), INTEGERS),
    **dict.fromkeys(("response_id", "sample", "document", "n_tokens", "n_bytes", "n_chosen", "step"), INTEGER),
    **dict.fromkeys(("cluster", "best", "worst"), INTEGER_OR_NULL),
    **dict.fromkeys(("logp", "logp_ref", "logp_ref_chosen", "logp_ref_rejected", "kl", "loss"), NUMBER),
    **dict.fromkeys(("reward_chosen", "reward_rejected", "grad_norm", "dpo_weight"), NUMBER),
    **dict.fromkeys(("reward", "pfp", "score"), NUMBER_OR_NULL),
    "messages": Kind("a list of messages, each with role and content", are_messages),
    "responses": Kind("a list", lambda value: isinstance(value, list)),
    "tournament": Kind("best, worst or null", lambda value: value in ("best", "worst", None)),
    "logp_ref_prefixes": Kind("an object of finite numbers by number of tokens", are_prefixes),
    **dict.fromkeys(("logp_ref_prefix_chosen", "logp_ref_prefix_rejected"), NUMBER),
    "judged": Kind("a list of [response_id, number or null, number or null]", are_judgments),
}


def wrong_field(row: dict, names: Iterable[str]) -> tuple[str, str] | None:
    """Return the name and the expected value of the first invalid field among `names`; None if all are valid."""
    for name in names:
        if name in KINDS and not KINDS[name].accepts(row[name]):
            return name, KINDS[name].expected
    return None
