"""Helpers that figures share."""

import subprocess
import sys

import matplotlib.pyplot as plt
import pytest

from prefloop.core.code_dependencies import SCRIPTS
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


def test_matplotlibrc_of_the_working_directory_has_no_effect(tmp_path, monkeypatch):
    (tmp_path / "matplotlibrc").write_text("font.family: serif\nfont.size: 30\nbackend: svg\n")
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    font = "print(matplotlib.rcParams['font.family'], matplotlib.rcParams['font.size'], matplotlib.get_backend())"
    text = f"import matplotlib; {font}; import prefloop.report.plotting; {font}"
    done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['serif'] 30.0 svg", "['sans-serif'] 9.0 Agg"]
