"""Update the arms with what a step's prompts were worth."""

from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from _program import run
from prefloop.core.progress import Summary
from prefloop.core.ranks import rank_normalize
from prefloop.core.registry import lookup
from prefloop.core.seeds import rng_for
from prefloop.data.arms_file import arms_before, write_arms
from prefloop.data.clusters import read_clusters
from prefloop.data.pairs import best_worst_pairs, concatenate, to_columns
from prefloop.data.pfp_rows import in_batches, read_joined
from prefloop.methods.bandit import BanditConfig, score_arms, update_arms
from prefloop.methods.beta_config import BetaConfig
from prefloop.methods.pair_metrics import METRICS, reads_variance


def main(
    *,
    clusters: Path,
    pfp: Path,
    output: Path,
    seed: int,
    round_index: Annotated[int, arg(name="round")],
    step: int,
    bandit: Annotated[BanditConfig, arg(name="")],
    arms: Path | None = None,
    beta: float = BetaConfig.beta,
) -> Summary:
    """Update the arms with the metric of each prompt's best-against-worst pair, normalized.

    A prompt whose responses are all tied has no such pair and gets the lowest value of the step; as a rank, 0.

    Args:
        clusters: clusters.pkl.
        pfp: The step's pfp.jsonl.
        output: Where arms.json goes.
        seed: The run's seed, for metric random.
        round_index: Round, from 1.
        step: Step of the round, from 1.
        bandit: How prompts are valued and arms are scored.
        arms: arms.json of the step before; none in a run's first step.
        beta: The β that training starts with, for the metrics that need it.
    """
    state = read_clusters(clusters)
    before = arms_before(arms, state["k"], clusters)
    columns, has_pair, drawn_from = [], [], []
    for prompts in in_batches(row for _, row in read_joined(pfp)):
        columns.append(to_columns(best_worst_pairs(prompts), variance=reads_variance(bandit.metric)))
        has_pair += [prompt["best"] is not None for prompt in prompts]
        drawn_from += [prompt["cluster"] for prompt in prompts]
    values, measure = np.full(len(has_pair), -np.inf), lookup(METRICS, bandit.metric, "bandit.metric")
    if any(has_pair):
        values[np.array(has_pair)] = measure(concatenate(columns, beta), rng_for(seed, "arms", round_index, step))
    worth = normalize(values, bandit.normalize)
    after = update_arms(before, np.array(drawn_from), worth, bandit.gamma, bandit.exploration)
    after.score = score_arms(after, state["centroids"], bandit).score
    write_arms(output, after, round=round_index, step=step)
    without = has_pair.count(False)
    return Summary(f"{len(has_pair)} prompts by {bandit.metric}, {without} of them without a best and a worst response")


def normalize(values: np.ndarray, how: str) -> np.ndarray:
    """What prompts [prompts] are worth to their arms; −∞ marks those that have no pair."""
    has_value = np.isfinite(values)
    if how == "rank":
        return np.where(has_value, rank_normalize(values), 0.0)
    return np.where(has_value, values, values[has_value].min() if has_value.any() else 0.0)


run(main)
