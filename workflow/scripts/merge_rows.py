"""Add the rows of more seeds to a folder of rows, such as one that is committed."""

from pathlib import Path

from _program import run
from prefloop.core.progress import Summary
from prefloop.evaluation.merged_rows import merged_seeds
from prefloop.report.captions import count_of


def main(*, rows: Path, into: Path) -> Summary:
    """Add seeds to the rows that are there, or replace those of the same seeds; refuse rows of other settings.

    Args:
        rows: The rows of a run: results/<name>/rows.
        into: The folder that grows; it is made if there is none.
    """
    added, replaced = merged_seeds(rows, into)
    parts = [f"{count_of(len(seeds), 'seed')} {verb}" for verb, seeds in (("added", added), ("replaced", replaced))]
    return Summary(f"{', '.join(parts)} -> {into}")


run(main)
