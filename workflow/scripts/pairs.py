"""Form the round's preference pairs and keep those that teach the most."""

from pathlib import Path

import numpy as np

from _program import run
from prefloop.metrics import METRICS, keep_top, reward_gap
from prefloop.pairs import Pair, all_pairs, gap_filters, read_responses, to_columns
from prefloop.rows import InputError, read_rows, write_rows
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
) -> None:
    """Form pairs from every step of a round.

    Args:
        prompts: The steps' prompts.
        generations: The steps' responses.
        rewards: The steps' rewards.
        pfp: The steps' log-probabilities.
        output: Where the pairs go, best first.
        seed: The run's seed, for metric random.
        round: Round, from 1.
        metric: What ranks the pairs, a word of METRICS.
        top_n: Pairs kept; all if not given.
        min_gap: Drop pairs with a smaller reward gap, in units of the reward.
        min_gap_quantile: Drop pairs below this quantile of the round's reward gaps.
    """
    found, ties = [], 0
    for step_rewards, step_pfp, step_generations in zip(rewards, pfp, generations, strict=True):
        pairs, tied = all_pairs(read_responses(step_rewards, step_pfp, step_generations))
        found, ties = found + pairs, ties + tied
    messages = {
        row["prompt_id"]: row["messages"] for path in prompts for row in read_rows(path, ["prompt_id", "messages"])
    }
    columns = to_columns(found)
    filters = gap_filters(reward_gap(columns), min_gap, min_gap_quantile)
    wide = np.flatnonzero(np.all(list(filters.values()), axis=0))
    columns = {name: values[wide] for name, values in columns.items()}
    scores = METRICS[metric](columns, rng_for(seed, "pairs", round))
    kept = keep_top(scores, top_n)
    dropped = ", ".join(f"pairs.{name} dropped {np.count_nonzero(~keep)}" for name, keep in filters.items())
    account = f"{ties} pairs tied, {len(found)} ordered; {dropped}, top_n by {metric} dropped {len(wide) - len(kept)}"
    if len(kept) == 0:
        raise InputError(f"no pair left to train on: {account}; {advice(found)}")
    write_rows(output, (to_row(found[wide[i]], messages, metric, float(scores[i])) for i in kept))
    print(f"pairs: {len(kept)} kept; {account}")


def advice(found: list) -> str:
    if not found:
        return "the feedback does not tell responses apart: raise generation.temperature or n, or change feedback"
    return "lower pairs.min_gap (in the reward's own units) or pairs.min_gap_quantile"


def to_row(pair: Pair, messages: dict, metric: str, score: float) -> dict:
    """One row of pairs.jsonl: everything that training needs to know of a pair."""
    row = {
        "prompt_id": pair.chosen["prompt_id"],
        "cluster": pair.chosen["cluster"],
        "messages": messages[pair.chosen["prompt_id"]],
    }
    for side in ("chosen", "rejected"):
        response = getattr(pair, side)
        row |= {
            side: response["response"],
            f"response_id_{side}": response["response_id"],
            f"token_ids_{side}": response["token_ids"],
            f"reward_{side}": response["reward"],
            f"n_{side}": response["n_tokens"],
            f"logp_{side}": response["logp"],
            f"logp_ref_{side}": response["logp_ref"],
        }
    return row | {"metric": metric, "score": score}


run(main)
