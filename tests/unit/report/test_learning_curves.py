"""Axes and names of the learning curves."""

import pandas as pd
import pytest

from prefloop.report.learning_curves import doubling_ticks, label_heights


def test_names_at_the_ends_of_lines_do_not_overlap():
    assert label_heights([0.5, 0.9, 0.52], gap=0.1) == pytest.approx([0.5, 0.9, 0.6])
    assert label_heights([0.3, 0.3, 0.35], gap=0.1) == pytest.approx([0.3, 0.4, 0.5])
    assert label_heights([0.2], gap=0.1) == [0.2]


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
