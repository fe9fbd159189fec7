"""Labels of measures and opponents, win rates with CIs, and their curves."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from prefloop.config.evaluator_measures import split_measure
from prefloop.config.experiment import Experiment
from prefloop.evaluation.comparisons import arrays
from prefloop.evaluation.inference import rate_interval
from prefloop.evaluation.results import named_measures

MAX_BANDS = 6  # curves whose bands can be distinguished
OPPONENTS = {"initial": "the initial policy", "chosen": "the chosen responses"}
# Columns of judgments, in the order of panels. A method may be trained with another feedback than the config's.
MEASURES = {"feedback": "mean reward (config's feedback)", "reward": "mean reward (evaluator)", "win": "win rate"}


def measures_of(rows: pd.DataFrame) -> list[str]:
    """The keys of MEASURES in judgments: win, and rewards that have a value; a judge does not give rewards."""
    return [name for name in MEASURES if name == "win" or rows[name].notna().any()]


def all_measures(rows: pd.DataFrame, experiment: Experiment) -> list[str]:
    """As `measures_of`, followed by the reward, if any, and win rate of each named evaluator."""
    return [*measures_of(rows), *named_measures(rows, experiment)]


def leading_measures(measures: Sequence[str]) -> list[str]:
    """The first measure of each named evaluator: its reward, or its win rate if it gives none."""
    first: dict[str, str] = {}
    for measure in measures:
        first.setdefault(split_measure(measure)[0], measure)
    return [measure for name, measure in first.items() if name]


def measure_label(measure: str) -> str:
    """The name of a measure in captions: `mean reward (evaluator)`, or `win rate (polite)` for a named evaluator."""
    evaluator, kind = split_measure(measure)
    return f"{MEASURES[kind].partition(' (')[0]} ({evaluator})" if evaluator else MEASURES[kind]


def axis_label(measure: str, opponent: str) -> str:
    """The label of a measure on an axis, in two lines, or three for the win rate of a named evaluator."""
    evaluator, kind = split_measure(measure)
    if kind != "win":
        return measure_label(measure).replace(" (", "\n(")
    return f"win rate against\n{opponent_label(opponent)}" + f"\n({evaluator})" * bool(evaluator)


def opponent_label(opponent: str) -> str:
    """The label of an opponent; for a method, its name."""
    return OPPONENTS.get(opponent, opponent)


def win_rates(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Win rates with 95 % CIs, one row per group of judgments, in the order in which groups first appear.

    A tie is half a win, and an invalid judgment does not count. The samples of a prompt are averaged first. Intervals
    are from `inference.rate_interval`.

    Returns:
        Columns `keys`, win_rate, low, high.
    """
    table = []
    for group, part in rows.groupby(keys, sort=False):
        rate = rate_interval(arrays({"": part}, "win")[""])
        table.append((*group, *rate))
    return pd.DataFrame(table, columns=[*keys, "win_rate", "low", "high"])


def draw_rates(axes: Axes, part: pd.DataFrame, x: str, label: str, style: dict[str, Any], band: bool) -> None:
    """Draw the win rates of `part` over its column `x` as a line, with their intervals as a band if there is room."""
    axes.plot(part[x], part["win_rate"], label=label, markersize=4, **style)
    if band:
        axes.fill_between(part[x], part["low"], part["high"], alpha=0.15, color=style["color"], linewidth=0)
