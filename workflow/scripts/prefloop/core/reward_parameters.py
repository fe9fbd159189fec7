"""Decides from the names of a user's reward function's parameters how to call the function.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

from collections.abc import Collection, Sequence
from inspect import Parameter
from typing import NamedTuple

BATCH = ("prompts", "responses")
SINGLE = ("prompt", "response")
RESPONSE_COLUMNS = ("prompt_id", "response_id", "component", "finish_reason", "n_tokens")
PROMPT_COLUMNS = ("meta", "chosen", "rejected")
COLUMNS = RESPONSE_COLUMNS + PROMPT_COLUMNS
BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class RewardCall(NamedTuple):
    """How a reward function is called."""

    is_single: bool
    """Whether it is called once per response instead of once for all responses."""
    texts: tuple[str, ...]
    """Names among prompts, responses, prompt and response that are passed by name; empty if both texts are passed by
    position."""
    columns: tuple[str, ...]
    """Columns that are passed by name."""
    optional: tuple[str, ...]
    """Parameters with a default, which are passed if the row has a column of this name."""


def plan_call(parameters: Sequence[Parameter]) -> RewardCall:
    """Decide how to call a function with these parameters.

    A function that has a parameter named prompts, responses, prompt or response gets all arguments by name. Any other
    function gets prompts and responses by position and the other arguments by name.

    Raises:
        ValueError: A function with these parameters cannot be called.
    """
    texts = tuple(item.name for item in parameters if item.name in BATCH + SINGLE)
    if set(texts) & set(BATCH) and set(texts) & set(SINGLE):
        raise ValueError(f"has parameters {', '.join(texts)}; take prompts and responses, or prompt and response")
    others = [item for item in parameters if item.name not in texts]
    if not texts:
        has_rest = any(item.kind == Parameter.VAR_POSITIONAL for item in parameters)
        first = [item for item in parameters if item.kind in BY_POSITION][:2]
        if len(first) < 2 and not has_rest:
            given = ", ".join(item.name for item in parameters) or "none"
            raise ValueError(f"has parameters {given}, expected prompts and responses")
        others = [item for item in parameters if item not in first]
    if unnamed := [item.name for item in others if item.kind == Parameter.POSITIONAL_ONLY]:
        raise ValueError(f"has parameter {unnamed[0]} before a /, which cannot be passed by name; remove the /")
    named = [item for item in others if item.kind in BY_NAME]
    required = tuple(item.name for item in named if item.default is Parameter.empty)
    optional = tuple(item.name for item in named if item.default is not Parameter.empty)
    if any(item.kind == Parameter.VAR_KEYWORD for item in parameters):
        optional += tuple(name for name in COLUMNS if name not in required + optional)
    return RewardCall(bool(set(texts) & set(SINGLE)), texts, required, optional)


def unknown_columns(call: RewardCall, kept: Collection[str], key: str) -> str:
    """Return an error message if a function needs a column that rows do not have, else an empty text.

    Args:
        call: How the function is called.
        kept: Columns of the prompts' source that are kept with each prompt.
        key: The setting that lists the kept columns.
    """
    unknown = [name for name in call.columns if name not in COLUMNS and name not in kept]
    if not unknown:
        return ""
    known = ", ".join([*BATCH, *COLUMNS, *kept])
    return f"has parameter {unknown[0]}, expected some of {known}; {key} adds columns of the source"
