"""Add the rows of more seeds to a folder of rows, such as one that is committed."""

from pathlib import Path

from _program import run
from prefloop.core.progress import Summary
from prefloop.evaluation.merged_rows import merged_seeds
from prefloop.report.captions import count_of


def main(*, rows: Path, into: Path) -> Summary:
    """Add the rows of new seeds to a folder and replace those of existing seeds; rows with other settings are refused.

    Args:
        rows: The rows to add: results/<name>/rows.
        into: The folder to which they are added; it is created if it does not exist.
    """
    added, replaced = merged_seeds(rows, into)
    parts = [f"{count_of(len(seeds), 'seed')} {verb}" for verb, seeds in (("added", added), ("replaced", replaced))]
    return Summary(f"{', '.join(parts)} -> {into}")


run(main)
