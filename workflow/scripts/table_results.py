"""Write the results of the last round by method, as CSV and LaTeX."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.comparisons import arrays, last_round
from prefloop.experiment import Experiment
from prefloop.intervals import best, mean_interval
from prefloop.progress import Summary
from prefloop.results import annotated, spent, training, verdicts
from prefloop.tables import MEASURES, save, with_interval


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write the table; brackets are 95 % bootstrap intervals over prompts, and over seeds if there are several.

    Args:
        experiment: Which runs.
        table: Where the CSV goes; .tex and the caption .rst stand beside it.
    """
    rows = verdicts(experiment)
    last = last_round(rows, experiment)
    measured = [measure for measure in MEASURES if rows[measure].notna().any()]  # a judge gives no reward
    values = {measure: arrays(last, measure) for measure in measured}
    prompts = annotated(experiment).groupby("method").size() / len(experiment.seeds)
    steps = training(experiment).groupby("method").size() / len(experiment.seeds)
    cost = spent(experiment).set_index(["method", "round"])
    results = []
    for method, part in last.items():
        row = {"method": method, "seeds": 1 if method == "initial" else len(experiment.seeds)}
        for measure in measured:
            interval = mean_interval(values[measure][method])
            row |= {measure: interval.mean, f"{measure}_low": interval.low, f"{measure}_high": interval.high}
        row |= {"invalid": int(part["win"].isna().sum())}
        row |= {"prompts": prompts.get(method, 0), "optimizer_steps": steps.get(method, 0)}
        at_end = cost.loc[(method, experiment.rounds)] if method != "initial" else {"generated_tokens": 0, "flops": 0}
        results.append(row | {"generated_tokens": at_end["generated_tokens"], "flops": at_end["flops"]})
    data = pd.DataFrame(results)
    shown = data[["method", "seeds"]].copy()
    for measure in measured:
        bold = data.index[data["method"] == best(values[measure])] if measure != "n_tokens" else ()
        shown[MEASURES[measure]] = with_interval(data, measure, bold)
    shown["prompts"] = data["prompts"].map("{:.0f}".format)
    shown["generated tokens"] = data["generated_tokens"].map("{:,.0f}".format)
    shown["PFLOP"] = (data["flops"] / 1e15).map("{:.2f}".format)
    told = caption(
        experiment,
        f"Held-out results after the last round; the win rate is against the opponent {experiment.opponents[0]} by "
        "the evaluator (a tie counts ½, an invalid verdict not at all), tokens are those of a response. Prompts, "
        "generated tokens and operations are means over seeds, evaluation not counted. Bold is the best only where "
        "all its paired differences to the other rows lie above 0, with Bonferroni's correction.",
        prompts=rows["prompt_id"].nunique(),
        shown="brackets",
    )
    save(table, data, shown, told)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
