"""Panels of measures have one row per evaluator."""

import matplotlib.pyplot as plt

from prefloop.report.evaluator_panels import evaluator_panels


def test_win_rates_are_in_one_column():
    """Rows with three, two and one panel end in the same column; of unused panels, only the first has labels."""
    measures = ["feedback", "reward", "win", "polite_reward", "polite_win", "strict_win"]
    figure, panels = evaluator_panels(measures, (2.0, 1.0), (0.5, 0.25), sharey=True)
    places = {
        m: (axes.get_subplotspec().rowspan.start, axes.get_subplotspec().colspan.start) for m, axes in panels.items()
    }
    assert places == dict(zip(measures, [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)], strict=True))
    assert [axes.get_visible() for axes in figure.axes] == [True] * 6 + [True, False, True]
    assert figure.get_size_inches().tolist() == [0.5 + 3 * 2.0, 0.25 + 3 * 1.0]
    labeled = [axes for axes in figure.axes if axes.yaxis.get_tick_params()["labelleft"]]
    assert labeled == figure.axes[::3], "the labels of the shared axis are left of each row"
    assert [axes.get_frame_on() for axes in labeled] == [True, False, False]
    plt.close(figure)


def test_single_evaluator_has_one_row():
    figure, panels = evaluator_panels(["reward", "win"], (3.4, 2.8), (0.6, 0.0))
    assert list(panels) == ["reward", "win"] and figure.get_size_inches().tolist() == [0.6 + 2 * 3.4, 2.8]
    plt.close(figure)
