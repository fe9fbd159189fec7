"""Update the arms with the values of a step's prompts."""

from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from _program import run
from prefloop.core.progress import Summary
from prefloop.core.ranks import rank_normalize
from prefloop.core.seeds import rng_for
from prefloop.data.arms_file import arms_before, write_arms
from prefloop.data.clusters import read_clusters
from prefloop.data.pairs import best_worst_pairs, concatenate, to_columns
from prefloop.data.pfp_rows import in_batches, read_joined
from prefloop.methods.bandit import BanditConfig, score_arms, update_arms
from prefloop.methods.beta_config import BetaConfig
from prefloop.methods.pair_metrics import metric_scores, reads_variance


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
    """Update the arms with the normalized metric of each prompt's pair of best and worst response.

    If all responses to a prompt are tied, there is no such pair: the prompt gets the lowest value of the step, or rank
    0.

    Args:
        clusters: clusters.pkl.
        pfp: The step's pfp.jsonl.
        output: Output path for arms.json.
        seed: The run's seed, for metric random.
        round_index: Round, from 1.
        step: Step of the round, from 1.
        bandit: How prompts are valued and arms are scored.
        arms: arms.json of the previous step; not given in a run's first step.
        beta: The initial β of training, for metrics that need it.
    """
    state = read_clusters(clusters)
    before = arms_before(arms, state["k"], clusters)
    columns, has_pair, drawn_from = [], [], []
    for prompts in in_batches(row for _, row in read_joined(pfp)):
        columns.append(to_columns(best_worst_pairs(prompts), variance=reads_variance(bandit.metric)))
        has_pair += [prompt["best"] is not None for prompt in prompts]
        drawn_from += [prompt["cluster"] for prompt in prompts]
    values = np.full(len(has_pair), -np.inf)
    if any(has_pair):
        rng = rng_for(seed, "arms", round_index, step)
        values[np.array(has_pair)] = metric_scores(bandit.metric, "bandit.metric", concatenate(columns, beta), rng)
    worth = normalize(values, bandit.normalize)
    after = update_arms(before, np.array(drawn_from), worth, bandit.gamma, bandit.exploration)
    after.score = score_arms(after, state["centroids"], bandit).score
    write_arms(output, after, round=round_index, step=step)
    without = has_pair.count(False)
    return Summary(f"{len(has_pair)} prompts by {bandit.metric}, {without} of them without a best and a worst response")


def normalize(values: np.ndarray, how: str) -> np.ndarray:
    """Normalize the values of prompts for their arms, [prompts]; −∞ marks prompts without a pair."""
    has_value = np.isfinite(values)
    if how == "rank":
        return np.where(has_value, rank_normalize(values), 0.0)
    return np.where(has_value, values, values[has_value].min() if has_value.any() else 0.0)


run(main)
