"""Simulate how fast samplers converge on a table of actions."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from _program import run
from prefloop.costs import CostMeter
from prefloop.progress import Progress, Summary
from prefloop.rows import InputError, whole
from prefloop.seeds import seed_for
from prefloop.tabular import LOWER_BOUND_REWARDS, multinomial_draw, normal_rewards, simulate, unit_rewards


@dataclass
class Normalised:
    """Exact gradients, weights that sum to 1, as released."""

    steps: int = 100
    """Updates."""
    learning_rate: float = 10.0
    """Of θ, per update."""
    every: int = 2
    """Updates between two rows."""


@dataclass
class Paper:
    """Exact gradients, weights as they are, η = 1/(β²A), rewards in [0, 1]."""

    steps: int = 13
    """Updates."""


@dataclass
class Empirical:
    """Gradients of sampled pairs, as released."""

    steps: int = 3000
    """Updates."""
    learning_rate: float = 0.05
    """Of θ, per update."""
    pairs: int = 8192
    """Sampled an update."""
    every: int = 50
    """Updates between two rows."""


def main(
    *,
    output: Path,
    cost: Path,
    samplers: list[str],
    normalised: Normalised,
    paper: Paper,
    empirical: Empirical,
    actions: int = 20,
    beta: float = 3.0,
    reward_scale: float = 1.0,
    seeds: int = 100,
    first_seed: int = 1234567,
) -> Summary:
    """Write the curves of every sampler, mode, kind of gradient and seed, one row a recorded update.

    Mode lower_bound is paper mode on the paper's instance of three actions; its rewards are fixed, its seed is 0.

    Args:
        output: Where the CSV goes.
        cost: Where its cost goes.
        samplers: Words of prefloop.tabular.SAMPLERS.
        normalised: As released, exact.
        paper: As the theorems have it.
        empirical: As released, sampled.
        actions: Actions A.
        beta: β, in units of reward per nat.
        reward_scale: Standard deviation of the rewards; paper mode scales them to [0, 1].
        seeds: How many draws of the rewards.
        first_seed: Seed of the first; the others follow.
    """
    meter, tables = CostMeter("tabular"), []
    names = list(range(first_seed, first_seed + seeds))
    rewards = reward_scale * normal_rewards(names, actions)
    lower_bound = np.array([LOWER_BOUND_REWARDS])
    np.seterr(all="ignore")  # rows_of refuses what is not finite
    updates = seeds * (normalised.steps + paper.steps + empirical.steps) + paper.steps
    with Progress("tabular", len(samplers) * updates, "update") as progress:
        for sampler in samplers:
            # The fastest generator there is: most of the time goes into these draws.
            rng = np.random.Generator(np.random.SFC64(seed_for(first_seed, "tabular", sampler)))
            draw = multinomial_draw(empirical.pairs, actions, rng)
            exact, sampled, unit = asdict(normalised), asdict(empirical) | {"draw": draw}, asdict(paper)
            sampled.pop("pairs")
            for mode, kind, seen, given, settings in [
                ("normalised", "exact", names, rewards, exact),
                ("paper", "exact", names, unit_rewards(rewards), unit),
                ("lower_bound", "exact", [0], lower_bound, unit),
                ("normalised", "empirical", names, rewards, sampled),
            ]:
                curves = simulate(given, sampler, beta=beta, **settings)
                tables.append(rows_of(curves, seen, settings.get("every", 1), mode=mode, kind=kind, sampler=sampler))
                progress.update(len(seen) * settings["steps"])
    table = pd.concat(tables, ignore_index=True)
    with whole(output) as partial:
        table.to_csv(partial, index=False, float_format="%.6g")
    updates = seeds * len(samplers) * (normalised.steps + paper.steps + empirical.steps)
    meter.notes = {"updates": updates}
    meter.write(cost)
    what = f"{seeds} seeds, {len(samplers)} samplers, {updates:,} updates, {len(table):,} rows"
    return Summary(what, updates, "update", seconds=meter.seconds)


def rows_of(curves: dict[str, np.ndarray], seeds: list[int], every: int, **what: str) -> pd.DataFrame:
    """Curves [seeds, recorded] as rows, recorded every `every` updates; InputError if a number is not finite."""
    for name, values in curves.items():
        if not np.isfinite(values).all():
            raise InputError(f"tabular: {name} of {what} is not finite; lower the learning rate or reward_scale")
    steps = every * np.arange(curves["value"].shape[1])
    table = pd.DataFrame({**what, "seed": np.repeat(seeds, len(steps)), "step": np.tile(steps, len(seeds))})
    return table.assign(**{name: values.ravel() for name, values in curves.items()})


run(main)
