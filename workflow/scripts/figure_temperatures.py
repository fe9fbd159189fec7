"""Draw win rates by the temperature of sampling."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption, undecided
from prefloop.comparisons import arrays, not_told_apart
from prefloop.experiment import Experiment
from prefloop.figures import legend_above, look, save, warn_of_evaluator
from prefloop.figures.win_rates import MOST_BANDS, draw_rates, opponent_in_words, win_rates
from prefloop.progress import Summary
from prefloop.results import contests
from prefloop.rows import InputError

# Grey, with markers that no method has.
UNTRAINED = {
    "base": {"color": "0.6", "linestyle": (0, (1, 1)), "marker": "x"},
    "initial": {"color": "0.3", "linestyle": (0, (5, 1)), "marker": "+"},
}


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw the win rate of the untrained policies and of every method's last round; bands are 95 % intervals.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    if not experiment.by_temperature.temperatures:
        raise InputError("figures: no temperatures there, so nothing is evaluated for this figure; name them in config")
    rows = contests(experiment, experiment.over_temperatures())
    data = win_rates(rows, ["method", "temperature"]).sort_values("temperature", kind="stable")
    policies = [*experiment.untrained, *experiment.by_temperature.methods]
    labels = {policy: policy for policy in policies} | ({"initial": "SFT"} if experiment.fine_tuned else {})
    crowded, opponent = len(policies) > MOST_BANDS, opponent_in_words(experiment.opponents[0])
    picture, axes = plt.subplots(figsize=(6.5, 5) if crowded else (5, 3.5), layout="constrained")
    for policy in policies:
        style = UNTRAINED.get(policy) or look(experiment.methods.index(policy))
        draw_rates(axes, data[data["method"] == policy], "temperature", labels[policy], style, not crowded)
    axes.axhline(0.5, color="0.4", linewidth=0.8)
    axes.set_xticks(experiment.by_temperature.temperatures)
    axes.set_xlabel("sampling temperature")
    axes.set_ylabel(f"win rate against\n{opponent}")
    legend_above(picture, axes)
    warn_of_evaluator(picture, experiment)
    means = {labels[policy]: part for policy, part in over_temperatures(rows).items()}
    start = "the base model, the fine-tuned one (SFT)" if experiment.fine_tuned else "the initial policy"
    told = caption(
        experiment,
        f"Win rate against {opponent} (a tie counts ½, an invalid verdict not at all) of {start} and every method "
        "after the last round, by the temperature at which the one sample a prompt is drawn"
        + (" and the opponent's, too." if experiment.opponents[0] != "chosen" else "."),
        "Intervals of so many policies are left to the data beside the figure." if crowded else "",
        undecided(not_told_apart(arrays(means, "win")), "the win rate averaged over temperatures"),
        prompts=rows["prompt_id"].nunique(),
        shown=None if crowded else "bands",
    )
    save(picture, figure, data, told)
    return Summary(f"{len(policies)} policies at {data['temperature'].nunique()} temperatures -> {figure}")


def over_temperatures(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By policy, the mean of `win` over temperatures of every seed and prompt.

    NaN where the verdict is invalid at one of them: what remains is the same mixture of temperatures for all.
    """
    means = rows.groupby(["method", "seed", "prompt_id"], sort=False)["win"].mean(skipna=False).reset_index()
    return {method: part for method, part in means.groupby("method", sort=False)}


run(main)
