"""Copy the output of a stage in the first step that methods share."""

import filecmp
import shutil
from pathlib import Path

from _program import run
from prefloop.core.errors import InputError
from prefloop.core.files import atomic_write
from prefloop.core.progress import Summary


def main(
    *, prompts: Path, shared_prompts: Path, shared_rows: Path, shared_cost: Path, output: Path, cost: Path
) -> Summary:
    """Copy the rows and the cost of a stage to a method that has drawn the same prompts.

    The method gets the full cost, as if it had run the stage itself.

    Args:
        prompts: The method's prompts.
        shared_prompts: The prompts of the shared step.
        shared_rows: The rows of the stage in the shared step.
        shared_cost: The cost of the stage in the shared step.
        output: Output path for the rows.
        cost: Output path for the cost.
    """
    if not filecmp.cmp(prompts, shared_prompts, shallow=False):
        raise InputError(f"{prompts}: differs from {shared_prompts}; set share_first_step: false")
    for source, target in ((shared_rows, output), (shared_cost, cost)):
        with atomic_write(target) as partial:
            shutil.copyfile(source, partial)
    return Summary(f"{shared_rows} -> {output}")


run(main)
