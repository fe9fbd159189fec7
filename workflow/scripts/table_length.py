"""Write what length has to do with winning: tokens, raw and length-controlled win rate, wins of the longer answer."""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.comparisons import arrays, last_round
from prefloop.experiment import Experiment
from prefloop.intervals import best, length_controlled, longer_share, mean_interval
from prefloop.progress import Summary
from prefloop.results import verdicts
from prefloop.tables import save, with_interval

MEASURES = {
    "n_tokens": "tokens",
    "win": "win rate",
    "length_controlled_win": "length-controlled",
    "longer_won": "longer won",
}


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write the last round of every method; brackets are 95 % bootstrap intervals over prompts, and seeds if several.

    A win rate is bold where its paired difference to every other row is beyond doubt (`intervals.best`).

    Args:
        experiment: Which runs.
        table: Where the CSV goes; .tex and the caption .rst stand beside it.
    """
    rows = verdicts(experiment)
    parts = last_round(rows.assign(longer_by=rows["n_tokens"] - rows["n_tokens_opponent"]), experiment)
    tokens, opponents, wins, longer_by = (
        arrays(parts, value) for value in ("n_tokens", "n_tokens_opponent", "win", "longer_by")
    )
    results = []
    for method in parts:
        intervals = [
            mean_interval(tokens[method]),
            mean_interval(wins[method]),
            length_controlled(wins[method], longer_by[method]),
            longer_share(wins[method], longer_by[method]),
        ]
        row = {"method": method, "seeds": len(wins[method]), "n_tokens_opponent": np.nanmean(opponents[method])}
        for measure, interval in zip(MEASURES, intervals, strict=True):
            row |= {measure: interval.mean, f"{measure}_low": interval.low, f"{measure}_high": interval.high}
        results.append(row)
    data = pd.DataFrame(results)
    winner = data.index[data["method"] == best(wins)]
    shown = data[["method", "seeds"]].copy()
    for measure, label in MEASURES.items():
        shown[label] = with_interval(data, measure, winner if measure == "win" else ())
    shown.insert(3, "opponent's tokens", data["n_tokens_opponent"].map("{:.3g}".format))
    told = caption(
        experiment,
        "What length has to do with winning, after the last round: mean tokens of policy and opponent "
        f"({experiment.opponents[0]}), win rate (a tie counts ½, an invalid verdict not at all), win rate of a "
        "logistic regression at equal lengths (length-controlled, arXiv 2404.04475), and the share of decided "
        "contests that the longer answer won (-- where none was decided). A win rate is bold only where all its "
        "paired differences to the other rows lie above 0, with Bonferroni's correction.",
        prompts=rows["prompt_id"].nunique(),
        shown="brackets",
    )
    save(table, data, shown, told)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
