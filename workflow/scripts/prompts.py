"""Read prompts from their source, drop long ones, and split them into train and held-out."""

from pathlib import Path

from _program import run
from prefloop.chat import load_tokenizer, prompt_ids
from prefloop.prompts import Columns, read_source, split_rows, to_prompt, unique
from prefloop.rows import InputError, read_json, write_rows
from prefloop.seeds import rng_for


def main(
    *,
    source: str,
    packaged: Path,
    model: Path,
    train: Path,
    held_out: Path,
    columns: Columns,
    subset: str | None = None,
    split: str = "train",
    take: int | None = None,
    max_prompt_tokens: int = 256,
    eval_fraction: float = 0.1,
    seed: int = 0,
) -> None:
    """Read, check, filter and split prompts.

    Args:
        source: packaged, a .jsonl or .jsonl.gz file, or hub:owner/name.
        packaged: The packaged set.
        model: Manifest of the policy's base model; its tokenizer counts prompt tokens.
        train: Where the training prompts go.
        held_out: Where the evaluation prompts go.
        columns: Where the data set keeps what.
        subset: A hub data set's configuration.
        split: A hub data set's split.
        take: Keep this many prompts, drawn at random; all if not given.
        max_prompt_tokens: Drop longer prompts, counted with the chat template.
        eval_fraction: Share of the prompts held out for evaluation.
        seed: Of the shuffle that draws and splits.
    """
    raw = list(read_source(source, packaged, subset, split))
    rows, dropped = unique((where, to_prompt(row, columns, where), "prompt_id" in row) for where, row in raw)
    tokenizer = load_tokenizer(model.parent, read_json(model).get("trust_remote_code", False))
    short = [row for row in rows if len(prompt_ids(tokenizer, row["messages"])) <= max_prompt_tokens]
    if not short:
        raise InputError(
            f"{source}: all {len(rows)} prompts are longer than prompts.max_prompt_tokens, {max_prompt_tokens}"
        )
    training, evaluation = split_rows(short, take, eval_fraction, rng_for(seed, "prompts"))
    write_rows(train, training)
    write_rows(held_out, evaluation)
    dropped[f"longer than {max_prompt_tokens} tokens"] = len(rows) - len(short)
    print(
        f"prompts: {len(raw)} rows of {source}; dropped {', '.join(f'{n} {why}' for why, n in dropped.items())}; "
        f"{len(training)} for training, {len(evaluation)} held out"
    )


run(main)
