"""Compare two finished experiments: their settings, and their methods on the same prompts and seeds."""

from pathlib import Path

import pandas as pd

from _program import run
from prefloop.config.recorded_settings import differing_settings, read_settings
from prefloop.core.csv_files import write_frame
from prefloop.core.errors import InputError
from prefloop.core.progress import Summary
from prefloop.evaluation.paired_experiments import (
    check_comparable,
    common_evaluators,
    experiment_differences,
    method_pairs,
)
from prefloop.report.captions import count_of
from prefloop.report.experiment_curves import curves_caption, draw_experiments, experiment_curves
from prefloop.report.plotting import save_figure
from prefloop.report.win_rates import measure_label

SHOWN = 100  # characters of a setting


def main(
    *, a: Path, b: Path, pairs: tuple[str, ...] = (), output: Path | None = None, figure: Path | None = None
) -> Summary:
    """Print the settings that differ, and A's methods minus B's after their last rounds, with 95 % CIs.

    This only reads results. If the evaluations cannot be paired, the error gives the reason.

    Args:
        a: results/<name> of an experiment, or a folder of its rows.
        b: The same for another experiment.
        pairs: Methods to compare, such as dota:bold for A's dota and B's bold; by default methods of the same name.
        output: CSV of the differences.
        figure: Learning curves of the compared methods as .pdf, next to its .svg, .png, .csv and caption .rst.
    """
    left, right = read_settings(a), read_settings(b)
    named = method_pairs(left.experiment, right.experiment, [pair_of(text) for text in pairs])
    settings = differing_settings(left.config, right.config, named)
    print(f"A: {a}\nB: {b}\n")
    print(
        "\n".join(f"{key}: {first[:SHOWN]} and {second[:SHOWN]}" for key, first, second in settings) or "same settings"
    )
    check_comparable(left, right)
    evaluators, left_out = common_evaluators(left, right)
    data = experiment_differences(left, right, named, evaluators)
    sizes = f"{count_of(data['seeds'].iloc[0], 'seed')}, {count_of(data['prompts'].iloc[0], 'eval prompt')}"
    print(f"\nA minus B after the last round, paired by prompt and seed ({sizes}); brackets are 95 % CIs:\n")
    print(shown(data).to_string(index=False))
    for name, reason in left_out.items():
        print(f"\nevaluator {name} is left out: {reason}")
    if output is not None:
        write_frame(output, data)
    if figure is not None:
        both, means, points = experiment_curves(left, right, named, evaluators)
        curves = pd.concat([means.assign(seed=pd.NA), points], ignore_index=True)
        save_figure(draw_experiments(both, means, points), figure, curves, curves_caption(left, right, means, data))
    count, over = int(data["significant"].sum()), " over the prompts of 1 seed" * (int(data["seeds"].iloc[0]) == 1)
    differences = f"{count} of {len(data)} differences are significant{over}"
    return Summary(f"{count_of(len(settings), 'different setting')}, {differences}")


def pair_of(text: str) -> tuple[str, str]:
    """The two methods of `dota:bold`; `dota` is the name of both."""
    first, colon, second = text.partition(":")
    if not first or (colon and not second):
        raise InputError(f"pairs: {text!r}, expected two methods, such as dota:bold")
    return first, second or first


def shown(data: pd.DataFrame) -> pd.DataFrame:
    """The table to print."""
    return pd.DataFrame(
        {
            "A": data["method_a"],
            "B": data["method_b"],
            "measure": data["measure"].map(measure_label),
            "mean of A": data["mean_a"].map("{:.3g}".format),
            "mean of B": data["mean_b"].map("{:.3g}".format),
            "A minus B": [f"{r.difference:+.3g} [{r.low:.3g}, {r.high:.3g}]" for r in data.itertuples()],
        }
    )


run(main)
