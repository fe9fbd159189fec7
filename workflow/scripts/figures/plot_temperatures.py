"""Draw win rates by sampling temperature."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.core.progress import Summary
from prefloop.evaluation.comparisons import arrays, mean_over_temperatures, not_significant_pairs
from prefloop.evaluation.results import comparisons
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.labels import figure_text
from prefloop.report.plotting import legend_above, line_style, note_evaluator, save_figure
from prefloop.report.significance import pairs_clause, significance_sentence
from prefloop.report.win_rates import MAX_BANDS, draw_rates, opponent_label, win_rates

# Grey, with markers that methods do not use.
UNTRAINED = {
    "base": {"color": "0.6", "linestyle": (0, (1, 1)), "marker": "x"},
    "initial": {"color": "0.3", "linestyle": (0, (5, 1)), "marker": "+"},
}


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw the win rate of the untrained policies and of every method's last round; bands are 95 % CIs.

    Args:
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    if not experiment.by_temperature.temperatures:
        raise InputError("figures: temperatures is not listed, so none is evaluated; add it in the config")
    rows = comparisons(experiment, experiment.over_temperatures())
    data = win_rates(rows, ["method", "temperature"]).sort_values("temperature", kind="stable")
    policies = [*experiment.untrained, *experiment.by_temperature.methods]
    labels = {policy: experiment.label(policy) for policy in policies} | (
        {"initial": "SFT"} if experiment.fine_tuned else {}
    )
    crowded, opponent = len(policies) > MAX_BANDS, opponent_label(experiment.opponents[0])
    picture, axes = plt.subplots(figsize=(6.5, 5) if crowded else (5, 3.5), layout="constrained")
    for policy in policies:
        style = UNTRAINED.get(policy) or line_style(experiment.methods.index(policy))
        draw_rates(axes, data[data["method"] == policy], "temperature", figure_text(labels[policy]), style, not crowded)
    axes.axhline(0.5, color="0.4", linewidth=0.8)
    axes.set_xticks(experiment.by_temperature.temperatures)
    axes.set_xlabel("sampling temperature")
    axes.set_ylabel(f"win rate against\n{opponent}")
    legend_above(picture, axes)
    note_evaluator(picture, experiment)
    means = {labels[policy]: part for policy, part in mean_over_temperatures(rows).items()}
    pairs = not_significant_pairs(arrays(means, "win"))
    text = caption(
        f"Win rate against {opponent} of the untrained policies and of every method after the last round, by sampling "
        f"temperature{' of both' if experiment.opponents[0] != 'chosen' else ''}.",
        "" if crowded else interval_sentence(experiment, "bands"),
        significance_sentence([pairs_clause(pairs, "win rate averaged over temperatures")], len(experiment.seeds)),
    )
    save_figure(picture, figure, data, text)
    return Summary(f"{len(policies)} policies at {data['temperature'].nunique()} temperatures -> {figure}")


run(main)
