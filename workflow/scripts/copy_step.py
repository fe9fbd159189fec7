"""Copy a stage of the first step that methods share."""

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

    The method gets the whole cost, as if it had run alone.

    Args:
        prompts: The method's prompts.
        shared_prompts: The prompts of the shared step.
        shared_rows: The rows that the stage wrote there.
        shared_cost: Its cost there.
        output: Where the rows go.
        cost: Where the cost goes.
    """
    if not filecmp.cmp(prompts, shared_prompts, shallow=False):
        raise InputError(f"{prompts}: other prompts than {shared_prompts}; set share_first_step: false")
    for source, target in ((shared_rows, output), (shared_cost, cost)):
        with atomic_write(target) as partial:
            shutil.copyfile(source, partial)
    return Summary(f"{shared_rows} -> {output}")


run(main)
