"""Compute from a pilot which differences an experiment could detect, the seeds that it needs, and their time.

A pilot is a CSV with the columns method, seed, prompt_id, sample and value, one row per evaluated sample. An empty
value is an invalid judgment. All methods have the same seeds, prompts and samples. The columns family and seconds are
optional: families of prompts are clusters, and seconds are the time of the row's run. `snakemake --cores all pilot`
writes a pilot from an experiment.
"""

import math
import signal
from pathlib import Path

import pandas as pd

from _program import run
from prefloop.core.errors import InputError
from prefloop.core.progress import Summary
from prefloop.evaluation.pilot import read_pilot, seconds_per_seed
from prefloop.evaluation.power import Design
from prefloop.evaluation.power_designs import designs_around, limit_families, paired_sample, power_rows
from prefloop.report.captions import count_of
from prefloop.report.power_text import power_text


def main(
    *,
    pilot: Path = Path("results/default/pilot.csv"),
    seeds: int | None = None,
    prompts: int | None = None,
    samples: int | None = None,
    difference: float | None = None,
    baseline: str | None = None,
) -> Summary:
    """Print the power of the crossed random-effects test for every method against the baseline.

    Args:
        pilot: The pilot's CSV.
        seeds: Seeds of the planned experiment; by default as in the pilot.
        prompts: Evaluation prompts of the planned experiment; by default as in the pilot.
        samples: Samples per prompt of the planned experiment; by default as in the pilot.
        difference: The difference to detect, in units of the value; by default the pilot's.
        baseline: The method with which others are compared; by default uniform, or else the pilot's first method.
    """
    check_design(seeds, prompts, samples, difference)
    table = read_pilot(pilot)
    methods = list(dict.fromkeys(table["method"]))
    baseline = baseline or ("uniform" if "uniform" in methods else methods[0])
    if baseline not in methods:
        raise InputError(f"baseline: {baseline!r}, expected a method of {pilot}: {', '.join(methods)}")
    others = [method for method in methods if method != baseline]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that `| head` ends the program without an error
    for method in others:
        sample = paired_sample(table, method, baseline)
        if sample.parts is None:
            raise InputError(
                f"{pilot}: {method} minus {baseline} has too few valid values: fewer than two seeds or prompts"
            )
        as_run = sample.as_run
        size = seeds or as_run.seeds, prompts or as_run.prompts, samples or as_run.samples
        planned = limit_families(Design(*size, as_run.families))
        wanted = sample.difference if difference is None else difference
        data = pd.DataFrame(power_rows(sample.parts, designs_around(planned), wanted))
        if seconds := seconds_per_seed(table, [method, baseline]):
            data["seconds"] = data["seeds"] * seconds
        print(power_text(f"{method} minus {baseline}", sample, wanted, data) + "\n")
    return Summary(f"{count_of(len(others), 'difference')} from {baseline} in {pilot}")


def check_design(seeds: int | None, prompts: int | None, samples: int | None, difference: float | None) -> None:
    """Raise InputError if a number is too small for the test, or there is nothing to detect."""
    for name, value, least in [("seeds", seeds, 2), ("prompts", prompts, 2), ("samples", samples, 1)]:
        if value is not None and value < least:
            raise InputError(f"{name}: {value}, expected {least} or more")
    if difference is not None and not (math.isfinite(difference) and difference):
        raise InputError(f"difference: {difference}, expected a finite number other than 0")


run(main)
