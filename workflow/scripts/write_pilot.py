"""Write the values of a finished experiment as a pilot, with which `make power` plans another experiment."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.csv_files import write_frame
from prefloop.core.errors import InputError
from prefloop.core.progress import Summary
from prefloop.evaluation.pilot import RUN, pilot_values
from prefloop.evaluation.results import judgments
from prefloop.evaluation.seed_costs import run_costs
from prefloop.report.captions import count_of


def main(*, experiment: Annotated[Experiment, arg(name="")], measure: str = "reward", output: Path) -> Summary:
    """Write one row per method, seed, prompt and sample after the last round, and the seconds that the run took.

    Args:
        measure: A number in every judgment: reward, feedback, win or n_tokens, or that of a named evaluator, such as
            polite_reward.
        output: Output path for the CSV.
    """
    if not experiment.methods:
        raise InputError("compare: no method, but a pilot compares methods")
    costs = run_costs(experiment)
    seconds = costs.filter(regex="_seconds$").sum(axis=1).rename("seconds")
    pilot = pilot_values(judgments(experiment), experiment, measure).join(seconds, on=RUN)
    write_frame(output, pilot)
    methods, seeds = len(experiment.methods), len(experiment.seeds)
    counts = f"{count_of(methods, 'method')}, {count_of(seeds, 'seed')}, {len(pilot)} values of {measure}"
    few = min(methods, seeds) < 2
    warning = "power needs at least two methods and two seeds; add to compare or seeds" if few else ""
    return Summary(f"{counts} -> {output}", warning=warning)


run(main)
