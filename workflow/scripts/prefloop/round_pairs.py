"""A round's pairs, whose files are read twice: for the numbers that select pairs, then for the rows of those selected.

Texts and token ids of a whole round are never in memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from prefloop.metrics import Pairs
from prefloop.pairs import Pair, all_pairs, as_pair, in_batches, iterate_responses, read_again, stacked, to_columns
from prefloop.progress import Progress
from prefloop.rows import InputError, iterate_placed, row_at


class Found(NamedTuple):
    """Every decided pair of a round: what metrics need of it, and where the rest lies, which is too much to hold."""

    columns: Pairs
    step: np.ndarray
    """Of each pair, from 0: int [pairs]."""
    places: np.ndarray
    """Of the chosen and the rejected response's rows in the step's rewards, log-probabilities and generations, in
    bytes from the start: int64 [pairs, 2, 3]."""
    undecided: int
    """Pairs that the feedback has not decided."""
    explored: dict[str, tuple[int, int]]
    """By prompt the step and the place in its generations of the first response that the reference sampled."""


def scan(steps: list[tuple[Path, Path, Path]], beta: float) -> Found:
    """Read rewards, log-probabilities and generations of every step once, a few prompts at a time."""
    columns, numbers, places, undecided, explored = [], [], [], 0, {}
    with Progress("pairs", None, "prompt") as progress:
        for number, files in enumerate(steps):
            for groups in in_batches(iterate_responses(*files)):
                pairs, without = all_pairs(groups)
                undecided += without
                columns.append(to_columns(pairs))
                numbers.append(np.full(len(pairs), number))
                sides = [[pair.chosen["places"], pair.rejected["places"]] for pair in pairs]
                places.append(np.array(sides, dtype=np.int64).reshape(-1, 2, 3))
                explored |= {prompt_id: (number, place) for prompt_id, place in first_of_reference(groups).items()}
                progress.update(len(groups))
    return Found(stacked(columns, beta), np.concatenate(numbers), np.concatenate(places), undecided, explored)


def first_of_reference(groups: dict[str, list[dict]]) -> dict[str, int]:
    """By prompt the place of the first response that the reference sampled; prompts without one are left out."""
    sampled = {prompt_id: [r for r in group if r["component"] == "reference"] for prompt_id, group in groups.items()}
    return {prompt_id: responses[0]["places"][2] for prompt_id, responses in sampled.items() if responses}


def places_of(prompts: tuple[Path, ...]) -> dict[str, tuple[int, int]]:
    """By prompt the number of its file and the place of its row there."""
    return {
        row["prompt_id"]: (number, place)
        for number, path in enumerate(prompts)
        for place, row in iterate_placed(path, ["prompt_id", "messages"])
    }


def read_pairs(
    found: Found,
    which: np.ndarray,
    steps: list[list[BinaryIO]],
    prompts: list[BinaryIO],
    place_of: dict[str, tuple[int, int]],
) -> Iterator[dict]:
    """The pairs that `which` indexes as rows of pairs.jsonl, read again from where they lie."""
    for i in which:
        files = steps[found.step[i]]
        pair = as_pair([read_again(files, places) for places in found.places[i].tolist()], 0, 1, None)
        prompt_id, explored = pair.chosen["prompt_id"], None
        if prompt_id not in place_of:
            raise InputError(f"{prompts[0].name}: no prompt {prompt_id}, which was answered; make the step again")
        number, place = place_of[prompt_id]
        if prompt_id in found.explored:
            step, first = found.explored[prompt_id]
            own = [r for r in (pair.chosen, pair.rejected) if r["component"] == "reference"]
            explored = (own[0] if own else row_at(steps[step][2], first))["token_ids"]
        yield to_row(pair, row_at(prompts[number], place)["messages"], explored)


def to_row(pair: Pair, messages: list[dict], explored: list[int] | None) -> dict:
    """What training needs to know of a pair; `explored` are token ids that the reference sampled, where it did."""
    row = {
        "prompt_id": pair.chosen["prompt_id"],
        "cluster": pair.chosen["cluster"],
        "messages": messages,
    }
    for side in ("chosen", "rejected"):
        response = getattr(pair, side)
        row |= {
            side: response["response"],
            f"response_id_{side}": response["response_id"],
            f"component_{side}": response["component"],
            f"token_ids_{side}": response["token_ids"],
            f"reward_{side}": response["reward"],
            f"n_{side}": response["n_tokens"],
            f"logp_{side}": response["logp"],
            f"logp_ref_{side}": response["logp_ref"],
        }
    return row | ({"token_ids_explored": explored} if explored is not None else {})
