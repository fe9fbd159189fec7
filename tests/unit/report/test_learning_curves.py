"""Axes and names of the learning curves."""

import numpy as np
import pandas as pd
import pytest

from prefloop.report.learning_curves import doubling_ticks, label_heights


@pytest.mark.parametrize(
    ("x", "y", "heights"),
    [
        ([0.9, 0.9, 0.9], [0.5, 0.9, 0.52], [0.46, 0.9, 0.56]),  # two move apart by the same distance
        ([0.9, 0.9, 0.9], [0.3, 0.3, 0.3], [0.2, 0.3, 0.4]),
        ([0.9, 0.8, 0.9], [0.3, 0.5, 0.4], [0.3, 0.5, 0.4]),
        ([0.2, 0.9], [0.5, 0.5], [0.5, 0.5]),  # far from each other
        ([0.9], [0.2], [0.2]),
    ],
)
def test_names_at_the_ends_of_lines_do_not_overlap(x, y, heights):
    assert label_heights(np.array(x), np.array(y), gap=0.1) == pytest.approx(heights)


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
