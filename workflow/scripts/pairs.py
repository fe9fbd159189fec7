"""Form the round's preference pairs and keep those that teach the most."""

from pathlib import Path

import numpy as np

from _program import run
from prefloop.metrics import METRICS, keep_top, reward_gap
from prefloop.pairs import Pair, all_pairs, choose, gap_filters, read_responses, to_columns
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
    beta: float = 0.1,
) -> None:
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
    found, undecided, explored = [], 0, {}
    for step_rewards, step_pfp, step_generations in zip(rewards, pfp, generations, strict=True):
        groups = read_responses(step_rewards, step_pfp, step_generations)
        pairs, without = all_pairs(groups)
        found, undecided = found + pairs, undecided + without
        explored |= first_of_reference(groups)
    messages = {
        row["prompt_id"]: row["messages"] for path in prompts for row in read_rows(path, ["prompt_id", "messages"])
    }
    columns = to_columns(found, beta)
    filters = gap_filters(reward_gap(columns), min_gap, min_gap_quantile)
    wide = np.flatnonzero(np.all(list(filters.values()), axis=0))
    columns = choose(columns, wide)
    scores = METRICS[metric](columns, rng_for(seed, "pairs", round))
    kept = keep_top(scores, top_n, rng_for(seed, "pairs", round, "ties"))
    dropped = ", ".join(f"pairs.{name} dropped {np.count_nonzero(~keep)}" for name, keep in filters.items())
    dropped += f", top_n by {metric} dropped {len(wide) - len(kept)}"
    account = f"{undecided} pairs tied, {len(found)} ordered; {dropped}"
    if len(kept) == 0:
        raise InputError(f"no pair left to train on: {account}; {advice(found)}")
    write_rows(output, (to_row(found[wide[i]], messages, explored, metric, float(scores[i])) for i in kept))
    print(f"pairs: {len(kept)} kept; {account}")


def advice(found: list) -> str:
    if not found:
        return "the feedback does not tell responses apart: raise generation.temperature or n, or change feedback"
    return "lower pairs.min_gap (in the reward's own units) or pairs.min_gap_quantile"


def first_of_reference(groups: dict[str, list[dict]]) -> dict[str, list[int]]:
    """By prompt the token ids of the first response that the reference sampled; prompts without one are left out."""
    sampled = {prompt_id: [r for r in group if r["component"] == "reference"] for prompt_id, group in groups.items()}
    return {prompt_id: responses[0]["token_ids"] for prompt_id, responses in sampled.items() if responses}


def to_row(pair: Pair, messages: dict, explored: dict, metric: str, score: float) -> dict:
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
            f"component_{side}": response["component"],
            f"token_ids_{side}": response["token_ids"],
            f"reward_{side}": response["reward"],
            f"n_{side}": response["n_tokens"],
            f"logp_{side}": response["logp"],
            f"logp_ref_{side}": response["logp_ref"],
        }
    if pair.chosen["prompt_id"] in explored:
        own = [r["token_ids"] for r in (pair.chosen, pair.rejected) if r["component"] == "reference"]
        row["token_ids_explored"] = own[0] if own else explored[pair.chosen["prompt_id"]]
    return row | {"metric": metric, "score": score}


run(main)
