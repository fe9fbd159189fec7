"""Write the rows of a finished experiment: the numbers from which figures and tables can be redrawn."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.core.progress import Summary
from prefloop.evaluation.rows_folder import write_rows_folder
from prefloop.report.captions import count_of


def main(
    *,
    experiment: Annotated[Experiment, arg(name="")],
    shared: tuple[Path, ...] = (),
    divergence: bool = False,
    perplexity: bool = False,
    figures: tuple[str, ...] = (),
    output: Path,
) -> Summary:
    """Write judgments, KL values and perplexities by seed, costs, amounts spent, hashes of prompts, and the settings.

    Args:
        shared: Costs of stages that methods share.
        divergence: Whether KL(policy‖initial policy) was measured.
        perplexity: Whether the perplexity of plain text was measured.
        figures: Figures whose own files are stored too.
        output: Path of experiment_rows.json; the rows are written to its folder, which is replaced.
    """
    if not experiment.methods:
        raise InputError("compare: no method, so there are no rows; add methods")
    measured = {"divergence": divergence, "perplexity": perplexity}
    count = write_rows_folder(experiment, output.parent, shared, **measured, figures=figures)
    size = sum(path.stat().st_size for path in output.parent.rglob("*") if path.is_file())
    return Summary(f"{count_of(count, 'row')}, {size / 1e6:.2g} MB -> {output.parent}")


run(main)
