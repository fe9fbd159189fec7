"""Simulate how fast samplers converge on a table of actions."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.core.costs import CostMeter
from prefloop.core.csv_files import write_frame
from prefloop.core.errors import InputError
from prefloop.core.progress import Progress, Summary
from prefloop.core.seeds import seed_for
from prefloop.methods.tabular import (
    LOWER_BOUND_REWARDS,
    TabularConfig,
    multinomial_draw,
    normal_rewards,
    simulate,
    unit_rewards,
)


def main(*, output: Path, cost: Path, settings: Annotated[TabularConfig, arg(name="")]) -> Summary:
    """Write the curves of every sampler, mode, kind of gradient and seed, one row per recorded update.

    Mode lower_bound is paper mode on the paper's instance of three actions, with fixed rewards and seed 0.

    Args:
        output: Output path for the CSV.
        cost: Output path for its cost.
        settings: Samplers, rewards and updates.
    """
    meter, tables = CostMeter("simulate_tabular"), []
    normalized, paper, empirical = settings.normalized, settings.paper, settings.empirical
    seeds = list(range(settings.first_seed, settings.first_seed + settings.seeds))
    rewards = settings.reward_scale * normal_rewards(seeds, settings.actions)
    lower_bound = np.array([LOWER_BOUND_REWARDS])
    np.seterr(all="ignore")  # curve_rows raises if a number is not finite
    updates = settings.seeds * (normalized.steps + paper.steps + empirical.steps)
    with Progress("simulate_tabular", len(settings.samplers) * (updates + paper.steps), "update") as progress:
        for sampler in settings.samplers:
            # NumPy's fastest generator, because most of the time is spent on these draws.
            rng = np.random.Generator(np.random.SFC64(seed_for(settings.first_seed, "tabular", sampler)))
            draw = multinomial_draw(empirical.pairs, settings.actions, rng)
            exact, sampled, unit = asdict(normalized), asdict(empirical) | {"draw": draw}, asdict(paper)
            sampled.pop("pairs")
            for mode, kind, mode_seeds, mode_rewards, options in [
                ("normalized", "exact", seeds, rewards, exact),
                ("paper", "exact", seeds, unit_rewards(rewards), unit),
                ("lower_bound", "exact", [0], lower_bound, unit),
                ("normalized", "empirical", seeds, rewards, sampled),
            ]:
                curves = simulate(mode_rewards, sampler, beta=settings.beta, **options)
                every, labels = options.get("every", 1), {"mode": mode, "kind": kind, "sampler": sampler}
                tables.append(curve_rows(curves, mode_seeds, every, labels))
                progress.update(len(mode_seeds) * options["steps"])
    table = pd.concat(tables, ignore_index=True)
    write_frame(output, table)
    updates *= len(settings.samplers)
    meter.notes = {"updates": updates}
    meter.write(cost)
    work = f"{settings.seeds} seeds, {len(settings.samplers)} samplers, {updates:,} updates, {len(table):,} rows"
    return Summary(work, updates, "update", seconds=meter.seconds)


def curve_rows(curves: dict[str, np.ndarray], seeds: list[int], every: int, labels: dict[str, str]) -> pd.DataFrame:
    """Curves [seeds, recorded] as rows, recorded every `every` updates; InputError if a number is not finite."""
    for name, values in curves.items():
        if not np.isfinite(values).all():
            raise InputError(f"tabular: {name} of {labels} is not finite; lower the learning rate or reward_scale")
    steps = every * np.arange(curves["value"].shape[1])
    table = pd.DataFrame({**labels, "seed": np.repeat(seeds, len(steps)), "step": np.tile(steps, len(seeds))})
    return table.assign(**{name: values.ravel() for name, values in curves.items()})


run(main)
