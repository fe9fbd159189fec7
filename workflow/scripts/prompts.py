"""Read prompts from their source, drop long ones, and split them into train and held-out.

Of rows that were read, only their ids, identities and places stay in memory.
"""

import json
from array import array
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile

from _program import run
from prefloop.chat import load_tokenizer
from prefloop.manifests import trusted
from prefloop.progress import Progress, Summary
from prefloop.prompts import (
    Columns,
    Known,
    check_settings,
    parse_template,
    prompt_rows,
    read_source,
    short_enough,
    split_rows,
    unique,
    without_void_pairs,
)
from prefloop.rows import InputError, row_at, write_rows
from prefloop.seeds import rng_for

PART = 1000  # rows in memory at once


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
) -> Summary:
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
    tokenizer = load_tokenizer(model.parent, trusted(model))
    raw = prompt_rows(read_source(source, packaged, subset, split), format, columns, template)
    train.parent.mkdir(parents=True, exist_ok=True)
    # In a source's order; the split is not, and needs them all.
    with TemporaryFile(dir=train.parent) as usable, Progress("prompts", None, "row") as progress:
        places, known, total = array("q"), Known({}, set()), 0
        dropped, void, long = {}, {}, {}
        while part := list(islice(raw, PART)):
            total += len(part)
            rows, counts = unique(part, known)
            add(dropped, counts)
            rows, counts = without_void_pairs(rows)
            add(void, counts)
            rows, counts = short_enough(rows, tokenizer, max_prompt_tokens, max_response_tokens)
            add(long, counts)
            for row in rows:
                places.append(usable.tell())
                usable.write(json.dumps(row).encode() + b"\n")
            progress.update(len(part))
        whence = f"{total:,} rows of {source}"
        account = f"dropped {listed(dropped | long)}"
        account += f"; pairs left out of prompts that stay: {listed(void)}" if void else ""
        if not places:
            raise InputError(
                f"no prompt is left: {whence}; {account}; see prompts.format, max_prompt_tokens, max_response_tokens"
            )
        training, evaluation = split_rows(places, take, eval_fraction, rng_for(seed, "prompts"))
        write_rows(train, (row_at(usable, place) for place in training))
        write_rows(held_out, (row_at(usable, place) for place in evaluation))
    what = f"{len(training):,} for training, {len(evaluation):,} held out, of {whence}"
    return Summary(what, total, "row", account)


def add(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


def listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


run(main)
