"""Preference pairs for training and testing a reward model, without duplicates and split by conversation."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.config.training_settings import RewardModelConfig
from prefloop.core.errors import InputError
from prefloop.core.jsonl import has_pair
from prefloop.core.seeds import rng_for, seed_for
from prefloop.data.prompt_filters import drop_void_pairs, listed
from prefloop.data.prompts import ParsedRow, check_format, content_id, parse_rows
from prefloop.data.raw_rows import open_source

Rows = list[dict[str, Any]]  # prompts with a chosen and a rejected response


def load_pairs(settings: RewardModelConfig, packaged: Path) -> tuple[Rows, Rows, str]:
    """Read a reward model's pairs; `packaged` is the path of the packaged set.

    Returns:
        tuple: Training rows, held-out rows, and a summary of what was dropped.

    Raises:
        InputError: The source cannot be read, or has too few pairs.
    """
    check_format(settings.format, settings.columns, None)
    opened = open_source(settings.source, packaged, settings.subset, settings.split)
    rows, account = unique_pairs(parse_rows(opened.rows, settings.format, settings.columns, None))
    account += f"; commit {opened.commit}" if opened.commit else ""
    source, part, take, seed = settings.source, settings.part, settings.take, settings.seed
    rows = select_half(rows, part)
    if take is not None and take > len(rows):
        raise InputError(
            f"reward_models: take asks for {take} pairs, {source} has {len(rows)} in part {part}; {account}"
        )
    if not rows:
        raise InputError(f"reward_models: {source} has no preference pair in part {part}; {account}")
    rows = [rows[i] for i in rng_for(seed, "reward_model", "take").permutation(len(rows))[:take]]
    training, held_out = split_by_conversation(rows, settings.eval_fraction, rng_for(seed, "reward_model", "split"))
    return training, held_out, account


def unique_pairs(parsed: Iterable[ParsedRow]) -> tuple[Rows, str]:
    """All distinct preference pairs, of which a prompt may have several, and a summary of what was dropped."""
    rows, dropped = [], Counter[str]()
    for row in parsed:
        if row.prompt is not None and not row.pair_drop_reason:
            rows.append(row.prompt)
        else:
            dropped[row.drop_reason or row.pair_drop_reason] += 1
    total = len(rows) + dropped.total()
    usable, void = drop_void_pairs(rows)
    paired = [row for row in usable if has_pair(row)]
    unique = {json.dumps([row["messages"], row["chosen"], row["rejected"]]): row for row in paired}
    dropped.update(void)
    without = {"repeated": len(paired) - len(unique), "without a pair": len(rows) - len(paired) - sum(void.values())}
    return list(unique.values()), f"{total} rows; dropped {listed(without | dropped)}"


def select_half(rows: Rows, part: str) -> Rows:
    """The rows of the `first` or `second` half of conversations, or of `all`.

    Conversations with the same first message are in the same half, so that the halves share none.
    """
    if part == "all":
        return rows
    remainder = {"first": 0, "second": 1}[part]
    return [row for row in rows if seed_for(0, "half", first_message_id(row)) % 2 == remainder]


def split_by_conversation(rows: Rows, eval_fraction: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Split rows into training and held-out rows; conversations with the same first message stay together.

    Args:
        rows (Rows): All pairs.
        eval_fraction (float): Fraction of the conversations to hold out; at least one is held out.
        rng (np.random.Generator): Draws the held-out conversations.

    Raises:
        InputError: There are fewer than two conversations.
    """
    openings = list(dict.fromkeys(map(first_message_id, rows)))
    count = min(max(1, round(eval_fraction * len(openings))), max(1, len(openings) - 1))
    unseen = {openings[i] for i in rng.permutation(len(openings))[:count]}
    training = [row for row in rows if first_message_id(row) not in unseen]
    if not training:
        raise InputError(
            f"{len(rows)} pair(s) in {len(openings)} conversation(s): at least two conversations are needed"
        )
    return training, [row for row in rows if first_message_id(row) in unseen]


def first_message_id(row: dict[str, Any]) -> str:
    """Id of a conversation's first user message."""
    return content_id([next(message for message in row["messages"] if message["role"] == "user")])
