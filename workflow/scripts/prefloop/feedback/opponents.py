"""The responses with which evaluation samples are compared, and the rows of their judgments."""

from pathlib import Path

from prefloop.core.errors import InputError
from prefloop.core.jsonl import read_rows
from prefloop.feedback.annotate import key_of
from prefloop.models.chat import read_format

RESPONSE = ["prompt_id", "response_id", "response", "n_tokens"]  # fields of a sample that a comparison needs


def with_chosen_responses(
    stage: str, ours: list[dict], known: dict[str, dict], prompts: Path, tokenizer: Path, chat: Path | None
) -> tuple[list[dict], list[dict]]:
    """The samples whose prompts have a chosen response, and this response for each sample. Prints how many have one.

    Raises:
        InputError: No prompt has a chosen response.
    """
    from prefloop.generation.responses import chosen_responses

    ids = dict.fromkeys(row["prompt_id"] for row in ours)
    chosen = chosen_responses([known[prompt_id] for prompt_id in ids], tokenizer, read_format(chat))
    print(f"{stage}: {len(chosen)} of {len(ids)} prompts have a chosen response")
    if not chosen:
        raise InputError(f"{prompts}: no prompt has a chosen response, which the opponent chosen needs")
    ours = [row for row in ours if row["prompt_id"] in chosen]
    return ours, [chosen[row["prompt_id"]] for row in ours]


def same_samples(ours: list[dict], samples: Path, opponent: Path) -> list[dict]:
    """The opponent's sample of the same prompt and number, for each of our samples.

    Raises:
        InputError: The opponent lacks a sample.
    """
    theirs = {key_of(row): row for row in read_rows(opponent, RESPONSE)}
    if missing := [key for key in map(key_of, ours) if key not in theirs]:
        prompt_id, number = missing[0]
        raise InputError(f"{opponent}: no sample {number} for prompt {prompt_id}, which {samples} has; recreate it")
    return [theirs[key_of(row)] for row in ours]


def sample_keys(several: bool, ours: dict) -> dict:
    """The prompt_id of a sample, and its number if prompts have several samples."""
    return {"prompt_id": ours["prompt_id"]} | ({"sample": ours["response_id"]} if several else {})


def judgment_row(several: bool, ours: dict, theirs: dict, judgment: dict, training_reward: dict) -> dict:
    """A row of judgments: the keys of the sample, its judgment, and both responses' training rewards and lengths."""
    return (
        sample_keys(several, ours)
        | judgment
        | {"feedback": training_reward["reward"], "feedback_opponent": training_reward["reward_opponent"]}
        | {"n_tokens": ours["n_tokens"], "n_tokens_opponent": theirs["n_tokens"]}
    )
