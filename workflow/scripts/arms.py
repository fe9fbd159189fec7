"""Tell the bandit what a step's prompts were worth."""

from pathlib import Path

import numpy as np

from _program import run
from prefloop.bandit import Arms, read_arms, ucb_scores, update, write_arms
from prefloop.clusters import read_clusters
from prefloop.metrics import METRICS
from prefloop.pairs import best_worst_pairs, read_responses, to_columns
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
    arms: Path | None = None,
    metric: str = "pfp",
    alpha: float = 1.0,
    gamma: float = 1.0,
) -> None:
    """Update the arms with the rank-normalised metric of each prompt's best-against-worst pair.

    A prompt whose responses are all tied has no pair to teach with and counts as worth 0.

    Args:
        clusters: clusters.pkl.
        rewards: The step's rewards.
        pfp: The step's log-probabilities.
        output: Where arms.json goes.
        seed: The run's seed, for metric random.
        round: Round, from 1.
        step: Step of the round, from 1.
        arms: arms.json of the step before; none in a run's first step.
        metric: What a prompt is worth, a word of METRICS.
        alpha: Width of the confidence bound in the scores written.
        gamma: Share of the past kept at each step; 1 forgets nothing.
    """
    before = read_arms(arms) if arms else Arms.fresh(read_clusters(clusters)["k"])
    groups = read_responses(rewards, pfp)
    pairs, tied = best_worst_pairs(groups)
    worth = np.full(len(groups), -np.inf)
    if pairs:
        values = METRICS[metric](to_columns(pairs), rng_for(seed, "arms", round, step))
        place = {prompt_id: i for i, prompt_id in enumerate(groups)}
        worth[[place[pair.chosen["prompt_id"]] for pair in pairs]] = values
    rewards_of_prompts = np.where(np.isfinite(worth), rank_normalise(worth), 0.0)
    drawn_from = np.array([group[0]["cluster"] for group in groups.values()])
    after = update(before, drawn_from, rewards_of_prompts, gamma)
    after.score = ucb_scores(after, alpha)
    write_arms(output, after, round=round, step=step)
    print(f"arms: {len(groups)} prompts by {metric}, {tied} of them with all responses tied")


run(main)
