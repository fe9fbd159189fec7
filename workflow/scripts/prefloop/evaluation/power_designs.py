"""Power for different numbers of seeds, prompts and samples, by contrast and measure."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.evaluation.comparisons import others_of
from prefloop.evaluation.pilot import paired_values, pilot_values, prompt_families
from prefloop.evaluation.power import (
    Design,
    VarianceParts,
    detectable_difference,
    has_siblings,
    paired_mean_squares,
    power_of_test,
    seeds_needed,
    variance_parts,
)
from prefloop.evaluation.seed_costs import COST_AMOUNTS, seed_costs

GRID_SEEDS = (3, 5, 8, 12, 16)
GRID_PROMPTS = 200
GRID_SAMPLES = (1, 4)
NAN = float("nan")


@dataclass(frozen=True)
class PairedSample:
    """Statistics of the paired differences between a method and the baseline."""

    as_run: Design
    """The design of the data."""
    difference: float
    """Mean; NaN if no value is valid."""
    seed_sd: float
    """Standard deviation over seeds of each seed's mean difference; NaN with one seed."""
    parts: VarianceParts | None
    """None if there are fewer than two seeds or prompts."""


def paired_sample(pilot: pd.DataFrame, method: str, baseline: str) -> PairedSample:
    """Statistics of the differences between a method and the baseline in a pilot (`pilot.pilot_values`)."""
    differences, families = paired_values(pilot, method, baseline), prompt_families(pilot)
    seeds, prompts, samples = differences.shape
    as_run = Design(seeds, prompts, samples, None if families is None else len(set(families)))
    if not np.isfinite(differences).any():
        return PairedSample(as_run, NAN, NAN, None)
    if families is not None and not has_siblings(differences, families):
        families = None  # each family has one valid prompt, so prompts are the clusters
    squares = paired_mean_squares(differences, families)
    known = min(squares.seeds, squares.prompts) > 1
    parts = variance_parts(differences, families) if known else None
    return PairedSample(as_run, squares.mean, float(np.sqrt(squares.of_seeds / squares.prompts)), parts)


def limit_families(design: Design) -> Design:
    """The design with at most as many families as prompts."""
    return design._replace(families=design.families and min(design.families, design.prompts))


def designs_around(as_run: Design) -> list[Design]:
    """The design as run, then a grid of seeds, prompts (as run and 200) and samples, with the same families."""
    prompts = dict.fromkeys((as_run.prompts, GRID_PROMPTS))
    grid = (
        limit_families(Design(seeds, count, samples, as_run.families))
        for count, samples, seeds in product(prompts, GRID_SAMPLES, GRID_SEEDS)
    )
    return list(dict.fromkeys((as_run, *grid)))


def power_rows(parts: VarianceParts, designs: Iterable[Design], difference: float) -> list[dict]:
    """One row per design: its fields, `detectable`, and `power` and `seeds_needed` for `difference`.

    `seeds_needed` is for the design's prompts and samples; NaN if MOST_SEEDS are not enough.
    """
    needed: dict[Design, int | None] = {}
    rows = []
    for design in designs:
        size = design._replace(seeds=0)
        if size not in needed:
            needed[size] = seeds_needed(parts, difference, design)
        row = design._asdict() | {"detectable": detectable_difference(parts, design)}
        row |= {"power": power_of_test(parts, design, difference)}
        rows.append(row | {"seeds_needed": NAN if needed[size] is None else needed[size]})
    return rows


def power_table(rows: pd.DataFrame, experiment: Experiment, measures: list[str]) -> pd.DataFrame:
    """Power of every method against the baseline after the last round, by measure and design.

    With one seed, each method and measure has one row, in which the variance parts, `detectable` and `seeds_needed` are
    missing.

    Args:
        rows: The result of `results.judgments`.
        experiment: The runs.
        measures: Columns of `rows`.

    Returns:
        Columns method, baseline, measure, difference, seed_sd, <part>_variance, seeds, prompts, samples, families,
        as_run, detectable, seeds_needed, and the cost of both methods with this number of seeds: gpu_seconds,
        cpu_seconds, tokens.
    """
    costs, baseline = seed_costs(experiment), experiment.baseline
    table: list[dict] = []
    for method, measure in product(others_of(experiment), measures):
        sample = paired_sample(pilot_values(rows, experiment, measure), method, baseline)
        keys = {"method": method, "baseline": baseline, "measure": measure}
        observed = {"difference": sample.difference, "seed_sd": sample.seed_sd} | _part_columns(sample.parts)
        of_seed = costs.loc[[method, baseline]].sum()
        for row in _rows_of(sample):
            design = Design(*(row[name] for name in Design._fields))
            as_run = {"as_run": design == sample.as_run}
            table.append(keys | observed | row | as_run | _cost_of(design, sample.as_run, of_seed))
    columns = dict.fromkeys(["detectable", "seed_sd", *(f"{part}_variance" for part in VarianceParts._fields)], float)
    return pd.DataFrame(table).drop(columns="power").astype(columns | {"seeds_needed": "Int64", "families": "Int64"})


def _rows_of(sample: PairedSample) -> list[dict]:
    """`power_rows` for the observed difference; only the design as run if the variance parts are unknown."""
    if sample.parts is None:
        return [sample.as_run._asdict() | {"detectable": NAN, "power": NAN, "seeds_needed": NAN}]
    return power_rows(sample.parts, designs_around(sample.as_run), sample.difference)


def _part_columns(parts: VarianceParts | None) -> dict[str, float | None]:
    """The variance parts as columns; None if they are unknown."""
    values = dict.fromkeys(VarianceParts._fields) if parts is None else parts._asdict()
    return {f"{name}_variance": value for name, value in values.items()}


def _cost_of(design: Design, as_run: Design, of_seed: pd.Series) -> dict[str, float]:
    """Cost of all seeds of a design. Evaluation costs grow with prompts times samples; training costs do not."""
    size = design.prompts * design.samples / (as_run.prompts * as_run.samples)
    return {
        name: design.seeds * (of_seed[f"training_{name}"] + size * of_seed[f"evaluation_{name}"])
        for name in COST_AMOUNTS
    }
