"""Axes and names of the learning curves."""

import itertools
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from made_up import experiment_in
from prefloop.report.learning_curves import doubling_ticks, draw_learning_curves, label_heights


@pytest.mark.parametrize(
    ("y", "heights"),
    [
        ([0.5, 0.9, 0.52], [0.46, 0.9, 0.56]),  # two move apart by the same distance
        ([0.3, 0.3, 0.3], [0.2, 0.3, 0.4]),
        ([0.3, 0.5, 0.4], [0.3, 0.5, 0.4]),
        ([1.0, 1.0, 1.0], [0.8, 0.9, 1.0]),  # all names are inside
        ([0.0, 0.0], [0.0, 0.1]),
        ([0.5] * 21, np.linspace(0, 1, 21)),  # too many for the gap
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_names_next_to_a_panel_do_not_overlap(y, heights):
    assert label_heights(np.array(y), gap=0.1) == pytest.approx(heights)


@pytest.mark.parametrize("methods", [2, 7, 14])
def test_every_line_has_its_name(tmp_path, methods):
    """Names are in the order of the lines' ends, are drawn, and leave the panel its width."""
    names = tuple(f"method with a long name {index}" for index in range(methods))
    experiment = replace(experiment_in(tmp_path), methods=names, seeds=(0,))
    ends = {name: 0.1 * index for index, name in enumerate(names)}
    rows = [
        {"measure": "reward", "method": name, "round": rounds, "labels": 64 * rounds, "mean": rounds * end}
        | {"low": rounds * end - 0.1, "high": rounds * end + 0.1}
        for name, end in ends.items()
        for rounds in range(2)
    ]
    figure = draw_learning_curves(experiment, pd.DataFrame(rows), pd.DataFrame(rows)[:0])
    figure.canvas.draw()
    (axes,) = figure.axes
    found = sorted(axes.texts, key=lambda text: text.get_position()[1])
    assert [text.get_text() for text in found] == list(names)
    heights = [text.get_position()[1] for text in found]
    assert heights[0] >= 0 and heights[-1] <= 1 and all(text.get_annotation_clip() is False for text in found)
    boxes = [text.get_window_extent() for text in found]
    assert all(below.y1 <= above.y0 + 1 for below, above in itertools.pairwise(boxes))
    assert axes.get_window_extent().width > 1.5 * figure.dpi
    assert [text.xy for text in found] == [(64, pytest.approx(end)) for end in ends.values()]
    plt.close(figure)


@pytest.mark.parametrize(
    ("labels_per_round", "ticks"),
    [
        ({"dota": 128, "uniform": 128}, []),
        ({"dota": 128, "uniform": 64}, []),  # twice as many fit on a linear axis
        ({"dota": 128, "annotate_all": 512}, [0, 128, 256, 512, 1024]),
        ({"dota": 100, "annotate_all": 10_000}, [0, 100, 400, 1600, 6400, 25_600]),
        ({"offline_dpo": 0, "dota": 128}, []),
        ({"offline_dpo": 0}, []),
    ],
)
def test_axis_is_logarithmic_if_labels_differ_much(labels_per_round, ticks):
    rows = [(method, labels * rounds) for method, labels in labels_per_round.items() for rounds in range(3)]
    assert doubling_ticks(pd.DataFrame(rows, columns=["method", "labels"])) == ticks
