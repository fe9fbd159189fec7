"""Write a policy's samples in the format of another benchmark."""

from pathlib import Path
from typing import Literal

from _program import run
from prefloop.core.files import atomic_write
from prefloop.core.jsonl import check_known, read_rows
from prefloop.core.progress import Summary
from prefloop.evaluation.answer_files import ANSWER_FORMATS


def main(
    *, prompts: Path, samples: Path, generator: str, form: Literal["alpaca_eval", "arena_hard"], output: Path
) -> Summary:
    """Write the first sample of each eval prompt.

    Args:
        prompts: The evaluation prompts.
        samples: The policy's samples.
        generator: Name of the policy in the file.
        form: The benchmark whose format is used.
        output: Output path for the file.
    """
    known = {row["prompt_id"]: row for row in read_rows(prompts, ["prompt_id", "messages"])}
    rows = read_rows(samples, ["prompt_id", "response", "n_tokens"])
    check_known(rows, known, prompts, samples)
    with atomic_write(output) as partial:
        partial.write_text(ANSWER_FORMATS[form](known, rows, generator), encoding="utf-8")
    return Summary(f"answers to {len({row['prompt_id'] for row in rows})} prompts -> {output}")


run(main)
