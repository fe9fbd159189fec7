"""Draw the prompts of one step, with the bandit's allocation to clusters or a baseline's."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from _program import run
from prefloop.core.errors import InputError, section
from prefloop.core.jsonl import has_pair, iterate_rows, iterate_with_offsets, row_at, write_rows
from prefloop.core.progress import Summary
from prefloop.core.seeds import rng_for
from prefloop.data.arms_file import arms_before
from prefloop.data.clusters import read_clusters
from prefloop.methods.bandit import BanditConfig, draw_prompts, draw_share, score_arms


def main(
    *,
    prompts: Path,
    clusters: Path,
    output: Path,
    seed: int,
    round_index: Annotated[int, arg(name="round")],
    step: int,
    steps: int,
    bandit: Annotated[BanditConfig, arg(name="")],
    arms: Path | None = None,
    used: tuple[Path, ...] = (),
    pairs_only: bool = False,
) -> Summary:
    """Draw the prompts of one step.

    Args:
        prompts: All training prompts.
        clusters: clusters.pkl.
        output: Output path for the drawn prompts, with their cluster.
        seed: The run's seed.
        round_index: Round, from 1.
        step: Step of the round, from 1.
        steps: Steps per round; allocation `all` divides the training set among them.
        bandit: How prompts are allocated to clusters.
        arms: arms.json of the previous step; not given in a run's first step.
        used: prompts.jsonl of every earlier step of this run.
        pairs_only: Draw only prompts that have a chosen and a rejected response, for sampler dataset.
    """
    ids, offsets = read_candidates(prompts, pairs_only)
    state = read_clusters(clusters)
    cluster_of = dict(zip(state["prompt_ids"], state["labels"].tolist(), strict=True))
    unknown = [prompt_id for prompt_id in ids if prompt_id not in cluster_of]
    if unknown:
        raise InputError(f"{clusters}: no cluster of prompt {unknown[0]} of {prompts}; run rule cluster_prompts again")
    labels = np.array([cluster_of[prompt_id] for prompt_id in ids])
    if bandit.allocation == "all":
        chosen = draw_share(len(ids), step, steps, rng_for(seed, "allocate", round_index))
    else:
        drawn = Counter(row["prompt_id"] for path in used for row in iterate_rows(path, ["prompt_id"]))
        times = np.array([drawn[prompt_id] for prompt_id in ids])
        before = score_arms(arms_before(arms, state["k"], clusters), state["centroids"], bandit)
        rng = rng_for(seed, "allocate", round_index, step)
        with section("bandit"):
            chosen = draw_prompts(before, labels, times, bandit.budget, rng, bandit)
    with prompts.open("rb") as file:
        write_rows(output, (row_at(file, offsets[i]) | {"cluster": int(labels[i])} for i in chosen))
    clusters_drawn = len(set(labels[chosen]))
    return Summary(f"{len(chosen)} of {len(ids):,} prompts by {bandit.allocation}, {clusters_drawn} clusters")


def read_candidates(prompts: Path, pairs_only: bool) -> tuple[list[str], list[int]]:
    """Ids of the prompts to draw from, and the byte offsets of their rows; InputError if there are none."""
    ids, offsets = [], []
    for offset, row in iterate_with_offsets(prompts, ["prompt_id", "messages"]):
        if has_pair(row) or not pairs_only:
            ids.append(row["prompt_id"])
            offsets.append(offset)
    if not ids:
        raise InputError(
            f"{prompts}: no prompt comes with a pair of responses; choose another prompts.source or sampler"
        )
    return ids, offsets


run(main)
