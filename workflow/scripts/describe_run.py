"""Write the facts that all figures and tables of an experiment share."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.files import atomic_write
from prefloop.core.progress import Summary
from prefloop.evaluation.result_files import eval_families
from prefloop.report.captions import escaped
from prefloop.report.run_facts import run_facts


def main(*, experiment: Annotated[Experiment, arg(name="")], output: Path, evaluated: bool = True) -> Summary:
    """Write a list as reStructuredText that is also Markdown, for the report and the gallery.

    Args:
        output: Output path for the list.
        evaluated: Whether there are evaluation samples.
    """
    facts = run_facts(experiment, len(eval_families(experiment.root)), evaluated)
    with atomic_write(output) as partial:
        partial.write_text("".join(f"* {escaped(fact)}\n" for fact in facts), encoding="utf-8")
    return Summary(f"{len(facts)} facts -> {output}")


run(main)
