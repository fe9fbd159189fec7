"""Read prompts from their source, drop long ones, and split them into train and held-out."""

from pathlib import Path

from _program import run
from prefloop.chat import load_tokenizer
from prefloop.prompts import (
    Columns,
    check_settings,
    parse_template,
    prompt_rows,
    read_source,
    short_enough,
    split_rows,
    unique,
    without_void_pairs,
)
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
    format: str = "columns",
    messages_template: str | None = None,
    subset: str | None = None,
    split: str = "train",
    take: int | None = None,
    max_prompt_tokens: int = 256,
    max_response_tokens: int | None = None,
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
        columns: Where the data set keeps what, for format columns.
        format: A published data set by name, a word of FORMATS; columns for any other.
        messages_template: JSON list of {role, content} messages with {column} placeholders, for format columns.
            They make the prompt, in place of the prompt column.
        subset: A hub data set's configuration.
        split: A hub data set's split.
        take: Keep this many prompts, drawn at random; all if not given.
        max_prompt_tokens: Drop longer prompts, counted with the chat template.
        max_response_tokens: Drop prompts whose given chosen or rejected response is longer; keep all if not given.
        eval_fraction: Share of the prompts held out for evaluation.
        seed: Of the shuffle that draws and splits.
    """
    template = parse_template(messages_template) if messages_template is not None else None
    check_settings(format, columns, template)
    raw = read_source(source, packaged, subset, split)
    rows, dropped = unique(prompt_rows(raw, format, columns, template))
    total = len(rows) + sum(dropped.values())
    rows, void = without_void_pairs(rows)
    tokenizer = load_tokenizer(model.parent, read_json(model).get("trust_remote_code", False))
    rows, long = short_enough(rows, tokenizer, max_prompt_tokens, max_response_tokens)
    account = f"{total} rows of {source}; dropped {listed(dropped | long)}"
    account += f"; pairs left out of prompts that stay: {listed(void)}" if void else ""
    if not rows:
        raise InputError(f"no prompt is left: {account}; see prompts.format, max_prompt_tokens, max_response_tokens")
    training, evaluation = split_rows(rows, take, eval_fraction, rng_for(seed, "prompts"))
    write_rows(train, training)
    write_rows(held_out, evaluation)
    print(f"prompts: {account}; {len(training)} for training, {len(evaluation)} held out")


def listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


run(main)
