"""Tell the bandit what a step's prompts were worth."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import arg

from _program import run
from prefloop.bandit import Bandit, arms_before, scored, update, write_arms
from prefloop.clusters import read_clusters
from prefloop.metrics import METRICS
from prefloop.pairs import best_worst_pairs, in_batches, iterate_responses, stacked, to_columns
from prefloop.progress import Summary
from prefloop.rows import choice
from prefloop.seeds import rng_for
from prefloop.stats import rank_normalise


def main(
    *,
    clusters: Path,
    rewards: Path,
    pfp: Path,
    output: Path,
    seed: int,
    round: int,
    step: int,
    bandit: Annotated[Bandit, arg(name="")],
    arms: Path | None = None,
    metric: str = "pfp",
    normalise: Literal["rank", "identity"] = "rank",
    gamma: float = 1.0,
    beta: float = 0.1,
) -> Summary:
    """Update the arms with the metric of each prompt's best-against-worst pair, normalised.

    A prompt whose responses are all tied has no pair to teach with and counts as the step's least: 0 as a rank.

    Args:
        clusters: clusters.pkl.
        rewards: The step's rewards.
        pfp: The step's log-probabilities.
        output: Where arms.json goes.
        seed: The run's seed, for metric random.
        round: Round, from 1.
        step: Step of the round, from 1.
        bandit: How arms are scored.
        arms: arms.json of the step before; none in a run's first step.
        metric: What a prompt is worth, a word of METRICS.
        normalise: Its rank within the step, in [0, 1], or the metric as it is.
        gamma: Share of the past kept at each step; 1 forgets nothing.
        beta: The β that training starts with, for the metrics that ask for it.
    """
    state = read_clusters(clusters)
    before = arms_before(arms, state["k"], clusters)
    columns, paired, drawn_from = [], [], []
    for groups in in_batches(iterate_responses(rewards, pfp)):
        pairs, _ = best_worst_pairs(groups)
        columns.append(to_columns(pairs))
        with_pair = {pair.chosen["prompt_id"] for pair in pairs}
        paired += [prompt_id in with_pair for prompt_id in groups]
        drawn_from += [group[0]["cluster"] for group in groups.values()]
    worth, measure = np.full(len(paired), -np.inf), choice(METRICS, metric, "bandit.metric")
    if any(paired):
        worth[np.array(paired)] = measure(stacked(columns, beta), rng_for(seed, "arms", round, step))
    after = update(before, np.array(drawn_from), normalised(worth, normalise), gamma, bandit.exploration)
    after.score = scored(after, state["centroids"], bandit).score
    write_arms(output, after, round=round, step=step)
    without = paired.count(False)
    return Summary(f"{len(paired)} prompts by {metric}, {without} of them without a best and a worst response")


def normalised(worth: np.ndarray, how: str) -> np.ndarray:
    """What prompts [prompts] are worth to their arms; −∞ marks those that have no pair."""
    usable = np.isfinite(worth)
    if how == "rank":
        return np.where(usable, rank_normalise(worth), 0.0)
    return np.where(usable, worth, worth[usable].min() if usable.any() else 0.0)


run(main)
