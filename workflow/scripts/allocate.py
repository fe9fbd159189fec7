"""Draw the prompts of one step: the bandit's choice among clusters, or a baseline's."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from _program import run
from prefloop.bandit import Bandit, arms_before, draw, scored, take_share
from prefloop.clusters import read_clusters
from prefloop.progress import Summary
from prefloop.rows import InputError, has_pair, iterate_placed, iterate_rows, row_at, write_rows
from prefloop.seeds import rng_for


def main(
    *,
    prompts: Path,
    clusters: Path,
    output: Path,
    seed: int,
    round: int,
    step: int,
    steps: int,
    bandit: Annotated[Bandit, arg(name="")],
    arms: Path | None = None,
    used: tuple[Path, ...] = (),
    budget: int = 32,
    reuse: bool = False,
    pairs_only: bool = False,
) -> Summary:
    """Draw the prompts of one step.

    Args:
        prompts: All training prompts.
        clusters: clusters.pkl.
        output: Where the drawn prompts go, with their cluster.
        seed: The run's seed.
        round: Round, from 1.
        step: Step of the round, from 1.
        steps: Steps a round; `all` spreads the training set over them.
        bandit: How prompts are shared out among clusters.
        arms: arms.json of the step before; none in a run's first step.
        used: prompts.jsonl of every step before, in this run.
        budget: Prompts to draw; `all` draws its share of everything instead.
        reuse: Draw prompts again once all have been annotated, instead of stopping with an error.
        pairs_only: Draw only prompts that came with a chosen and a rejected response, for sampler dataset.
    """
    places, ids = [], []
    for place, row in iterate_placed(prompts, ["prompt_id", "messages"]):
        if has_pair(row) or not pairs_only:
            places.append(place)
            ids.append(row["prompt_id"])
    if not ids:
        raise InputError(
            f"{prompts}: no prompt comes with a pair of responses; choose another prompts.source or sampler"
        )
    state = read_clusters(clusters)
    cluster_of = dict(zip(state["prompt_ids"], state["labels"].tolist(), strict=True))
    unknown = [prompt_id for prompt_id in ids if prompt_id not in cluster_of]
    if unknown:
        raise InputError(f"{clusters}: no cluster of prompt {unknown[0]}, which {prompts} has; run rule cluster again")
    labels = np.array([cluster_of[prompt_id] for prompt_id in ids])
    if bandit.allocation == "all":
        chosen = take_share(len(ids), step, steps, rng_for(seed, "allocate", round))
    else:
        drawn = Counter(row["prompt_id"] for path in used for row in iterate_rows(path, ["prompt_id"]))
        times = np.array([drawn[prompt_id] for prompt_id in ids])
        before = scored(arms_before(arms, state["k"], clusters), state["centroids"], bandit)
        chosen = draw(before, labels, times, budget, rng_for(seed, "allocate", round, step), bandit, reuse=reuse)
    with prompts.open("rb") as file:
        write_rows(output, (row_at(file, places[i]) | {"cluster": int(labels[i])} for i in chosen))
    clusters_drawn = len(set(labels[chosen]))
    return Summary(f"{len(chosen)} of {len(ids):,} prompts by {bandit.allocation}, {clusters_drawn} clusters")


run(main)
