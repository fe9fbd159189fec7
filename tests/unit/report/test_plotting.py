"""Helpers that figures share."""

import matplotlib.pyplot as plt
import pytest

from prefloop.report.plotting import legend_above


@pytest.mark.parametrize(("letters", "columns"), [(4, 4), (40, 2), (80, 1)])
def test_legend_is_not_wider_than_the_figure(letters, columns):
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for index in range(6):
        axes.plot([0, 1], label=f"{index}" + ("rewards of it " * 6)[: letters - 1])
    legend_above(figure, axes)
    (legend,) = figure.legends
    assert legend._ncols == columns
    assert figure.get_figheight() == pytest.approx(3 + 0.2 * (6 // columns - 2 if columns < 4 else 0))
    figure.canvas.draw()
    assert legend.get_window_extent().width <= figure.bbox.width
    plt.close(figure)
