"""Draw a figure with a function of the user."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.own_functions import load_own
from prefloop.core.progress import Summary
from prefloop.report.plotting import save_figure


def main(*, experiment: Annotated[Experiment, arg(name="")], function: str, figure: Path) -> Summary:
    """Call the function with the experiment, and save the figure, data and caption that it returns.

    Args:
        function: module:function or path.py:function, which returns (matplotlib figure, data frame, caption).
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    picture, data, text = load_own(function, "figures")(experiment)
    save_figure(picture, figure, data, text)
    return Summary(f"{len(data)} rows -> {figure}")


run(main)
