"""Form the round's preference pairs and keep those that teach the most."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from _program import run
from prefloop.metrics import METRICS, keep_top, reward_gap
from prefloop.pairs import choose, gap_filters
from prefloop.progress import Summary
from prefloop.round_pairs import places_of, read_pairs, scan
from prefloop.rows import InputError, choice, write_rows
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


run(main)
