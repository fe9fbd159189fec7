"""Write wins, ties, losses and invalid verdicts of every policy against every opponent at every temperature."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.comparisons import arrays
from prefloop.experiment import Experiment
from prefloop.intervals import best, mean_interval
from prefloop.progress import Summary
from prefloop.results import contests
from prefloop.tables import save, with_interval

OUTCOMES = ["win", "tie", "loss", "invalid"]


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write one row for every opponent, temperature and policy; outcomes are counted over prompts and seeds.

    A tie is half a win, an invalid verdict does not count. Brackets are 95 % bootstrap intervals over prompts, and over
    seeds if there are several. A win rate is bold where its paired difference to those of all other methods at the
    same round and checkpoint, and of the policies before training, is beyond doubt (`intervals.best`).

    Args:
        experiment: Which runs.
        table: Where the CSV goes; .tex and the caption .rst stand beside it.
    """
    rows, results = contests(experiment, experiment.contests), []
    for (opponent, temperature), against in rows.groupby(["opponent", "temperature"], sort=False):
        policies = dict(list(against.groupby(["method", "round", "checkpoint"], sort=False)))
        wins = arrays(policies, "win")
        untrained = {policy: values for policy, values in wins.items() if policy[1] == 0}
        for stage in sorted({policy[1:] for policy in policies}):
            at_stage = {policy: values for policy, values in wins.items() if policy[1:] == stage}
            winner = best(untrained | at_stage) if stage[0] else None
            for policy, values in at_stage.items():
                counts = policies[policy]["outcome"].value_counts().reindex(OUTCOMES, fill_value=0)
                rate = mean_interval(values)
                row = {"opponent": opponent, "temperature": temperature}
                row |= dict(zip(("method", "round", "checkpoint"), policy, strict=True))
                row |= {"seeds": len(values), "prompts": policies[policy]["prompt_id"].nunique(), **counts}
                row |= {"win_rate": rate.mean, "win_rate_low": rate.low, "win_rate_high": rate.high}
                results.append(row | {"best": policy == winner})
    data = pd.DataFrame(results)
    shown = data[["opponent", "temperature", "method", "round", "checkpoint", "seeds", *OUTCOMES]].copy()
    shown["checkpoint"] = shown["checkpoint"].map(lambda step: "--" if step < 0 else str(step))
    shown["win rate"] = with_interval(data, "win_rate", data.index[data["best"]])
    told = caption(
        experiment,
        "Every contest of the experiment: wins, ties, losses and invalid verdicts (left out of the rate) of each "
        "policy against each opponent, by sampling temperature, round and checkpoint (-- is the end of a round); the "
        "rate counts a tie ½. Bold is the best of a stage only where all its paired differences to the others lie "
        "above 0, with Bonferroni's correction.",
        prompts=rows["prompt_id"].nunique(),
        shown="brackets",
    )
    save(table, data, shown, told)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
