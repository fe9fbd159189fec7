"""Style, panels and marks of figures; saving a figure with its data and caption."""

import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

# A matplotlibrc of the user or of the working directory has no effect. So figures are the same on every machine, and
# the warm process can import matplotlib in advance.
matplotlib.rcdefaults()
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  the backend is chosen first
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from prefloop.config.experiment import Experiment  # noqa: E402
from prefloop.core.csv_files import write_frame  # noqa: E402
from prefloop.core.files import atomic_write  # noqa: E402
from prefloop.report.captions import write_caption  # noqa: E402
from prefloop.report.feedback_labels import trained_by_evaluator, trained_by_named  # noqa: E402
from prefloop.report.labels import figure_text  # noqa: E402

# Okabe and Ito's colors, safe for color-blind readers; line styles and markers distinguish them in black and white.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999"]
LINES = ["-", "--", "-.", ":"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]

plt.rcParams.update(
    {
        "figure.dpi": 150,
        "savefig.bbox": "tight",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.5,
        "legend.frameon": False,
        "pdf.fonttype": 42,
        "svg.hashsalt": "prefloop",
    }
)


def line_style(index: int) -> dict[str, Any]:
    """Color, line style and marker of the method at this index; repeated colors have other line styles and markers."""
    turn = index // len(COLORS)
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": LINES[(index + turn) % len(LINES)],
        "marker": MARKERS[(index + 3 * turn) % len(MARKERS)],
    }


def panel_grid(count: int, across: int, size: tuple[float, float], extra: tuple[float, float]) -> tuple[Figure, Any]:
    """A figure with panels that share their axes; unused panels are hidden.

    Args:
        count: Number of panels.
        across: Maximum number of panels per row.
        size: Width and height of a panel, inches.
        extra: Width and height around the panels, inches.

    Returns:
        The figure and its panels, [rows, columns].
    """
    columns = min(across, count)
    rows = math.ceil(count / columns)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(extra[0] + size[0] * columns, extra[1] + size[1] * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes in panels.flat[count:]:
        axes.set_visible(False)
    return figure, panels


def error_lengths(part: pd.DataFrame, mean: str = "mean", low: str = "low", high: str = "high") -> list[pd.Series]:
    """Lengths of error bars below and above the mean; negative ones from rounding become 0."""
    return [(part[mean] - part[low]).clip(lower=0), (part[high] - part[mean]).clip(lower=0)]


def legend_above(figure: Figure, axes: Axes) -> None:
    """Add one legend above the panels, with the handles of one panel.

    It has as many of four columns as fit into the figure, which grows by the rows that this adds.
    """
    handles, labels = axes.get_legend_handles_labels()
    width = 0.5 + 0.07 * max(map(len, labels), default=0)  # of a column, inches
    most = max(1, min(len(labels), 4))
    columns = max(1, min(most, int(figure.get_figwidth() / width)))
    rows = math.ceil(len(labels) / columns) - math.ceil(len(labels) / most)
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def note_evaluator(figure: Figure, experiment: Experiment) -> None:
    """Write into the figure which methods were trained with the evaluator, and with each named evaluator."""
    trained, notes = trained_by_evaluator(experiment), []
    if trained:
        names = "" if len(trained) == len(experiment.methods) else f"{', '.join(trained)}: "
        notes.append(f"{names}evaluated by the training feedback itself")
    for name, methods in trained_by_named(experiment).items():
        notes.append(f"{name} is the training feedback of {', '.join(methods)}")
    if notes:
        width = int(14 * figure.get_figwidth())  # about 14 letters of this size per inch
        text = textwrap.fill(figure_text("; ".join(notes)), width)
        figure.text(0.5, 0, text, ha="center", va="top", fontsize=8, style="italic")


def save_figure(figure: Figure, path: Path, data: pd.DataFrame, caption: str) -> None:
    """Write a figure as .pdf, .svg and .png, its data as .csv and its caption as .rst, next to `path`.

    The same data gives the same bytes.
    """
    path = Path(path)
    write_caption(path.with_suffix(".rst"), caption)
    write_frame(path.with_suffix(".csv"), data)
    for kind, dated in {"pdf": "CreationDate", "svg": "Date", "png": "Software"}.items():
        with atomic_write(path.with_suffix(f".{kind}")) as partial:
            figure.savefig(partial, format=kind, metadata={dated: None}, dpi=200)
    plt.close(figure)
