"""Form the round's preference pairs and keep those that teach the most.

The files are read twice: once for the numbers that select pairs, and then the rows of those selected. Texts and token
ids of a whole round are never in memory.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from _program import run
from prefloop.metrics import METRICS, Pairs, keep_top, reward_gap
from prefloop.pairs import (
    Pair,
    all_pairs,
    as_pair,
    choose,
    gap_filters,
    in_batches,
    iterate_responses,
    read_again,
    stacked,
    to_columns,
)
from prefloop.progress import Progress, Summary
from prefloop.rows import InputError, choice, iterate_placed, row_at, write_rows
from prefloop.seeds import rng_for


def main(
    *,
    prompts: tuple[Path, ...],
    generations: tuple[Path, ...],
    rewards: tuple[Path, ...],
    pfp: tuple[Path, ...],
    output: Path,
    seed: int,
    round: int,
    metric: str = "pfp",
    top_n: int | None = None,
    min_gap: float | None = None,
    min_gap_quantile: float | None = None,
    beta: float = 0.1,
) -> Summary:
    """Form pairs from every step of a round.

    Args:
        prompts: The steps' prompts.
        generations: The steps' responses.
        rewards: The steps' rewards.
        pfp: The steps' log-probabilities.
        output: Where the pairs go, best first.
        seed: The run's seed, for metric random and between equal scores.
        round: Round, from 1.
        metric: What ranks the pairs, a word of METRICS.
        top_n: Pairs kept; all if not given.
        min_gap: Drop pairs with a smaller reward gap, in units of the reward.
        min_gap_quantile: Drop pairs below this quantile of the round's reward gaps.
        beta: The β that training starts with, for the metrics that ask for it.
    """
    steps = list(zip(rewards, pfp, generations, strict=True))
    found = scan(steps, beta)
    filters = gap_filters(reward_gap(found.columns), min_gap, min_gap_quantile)
    wide = np.flatnonzero(np.all(list(filters.values()), axis=0))
    scores = choice(METRICS, metric, "pairs.metric")(choose(found.columns, wide), rng_for(seed, "pairs", round))
    kept = keep_top(scores, top_n, rng_for(seed, "pairs", round, "ties"))
    dropped = ", ".join(f"pairs.{name} dropped {np.count_nonzero(~keep)}" for name, keep in filters.items())
    dropped += f", top_n by {metric} dropped {len(wide) - len(kept)}"
    account = f"{found.undecided} pairs tied, {len(found.step)} ordered; {dropped}"
    if len(kept) == 0:
        raise InputError(f"no pair left to train on: {account}; {advice(len(found.step))}")
    with ExitStack() as stack:
        opened = [[stack.enter_context(path.open("rb")) for path in paths] for paths in (*steps, prompts)]
        pairs = read_pairs(found, wide[kept], opened[:-1], opened[-1], places_of(prompts))
        write_rows(
            output, (row | {"metric": metric, "score": float(scores[i])} for row, i in zip(pairs, kept, strict=True))
        )
    return Summary(f"{len(kept)} of {len(found.step):,} pairs kept", len(found.step), "pair", account)


def advice(ordered: int) -> str:
    if not ordered:
        return "the feedback does not tell responses apart: raise generation.temperature or n, or change feedback"
    return "lower pairs.min_gap (in the reward's own units) or pairs.min_gap_quantile"


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


run(main)
