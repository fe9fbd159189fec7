"""Filters the prompts of a source: drops repeated and too long ones, and splits them into training and evaluation."""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar

import numpy as np

from prefloop.core.errors import InputError
from prefloop.core.progress import Progress
from prefloop.data.conversations import SIDES, Messages, merge_roles
from prefloop.data.prompts import ParsedRow, content_id
from prefloop.models.chat import DEFAULT_FORMAT, ChatFormat, RefusedRolesError, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PART = 1000  # rows in memory at once
# Reasons why rows are dropped.
EVALUATED = "in the evaluation set"
REFUSED = "with roles that the chat template refuses"
T = TypeVar("T")


class SeenPrompts(NamedTuple):
    """What `drop_repeated` remembers of earlier rows."""

    origins: dict[str, str]
    """File and line of the first occurrence of each prompt_id that is not a hash of the content."""
    contents: set[str]
    """The `content_id` of every prompt that was kept."""
    evaluated: Set[str] = frozenset()
    """The `content_id` of every prompt of a separate evaluation set."""


@dataclass
class SourceCounts:
    """Rows kept and dropped of one source."""

    rows: int = 0
    """Raw rows of the source."""
    kept: int = 0
    """Prompts that were kept."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Prompts dropped, by reason."""
    dropped_pairs: Counter[str] = field(default_factory=Counter)
    """Pairs dropped from prompts that were kept, by reason."""


@dataclass(frozen=True)
class Limits:
    """Which prompts are kept."""

    max_prompt_tokens: int
    """Longer prompts are dropped. The length includes the tokens of the chat template."""
    max_response_tokens: int | None = None
    """Prompts with a longer given response are dropped; None keeps all."""
    merge_roles: bool = False
    """Whether roles that the chat template refuses are merged."""
    max_prompt_bytes: int = 1_000_000
    """Rows with more bytes of text are dropped before they are tokenized."""
    chat: ChatFormat = DEFAULT_FORMAT
    """How prompts are written for the model."""


def filter_prompts(
    rows: Iterable[ParsedRow],
    tokenizer: "PreTrainedTokenizerBase",
    limits: Limits,
    file: BinaryIO,
    seen: SeenPrompts,
    label: str | None = None,
) -> tuple[array, SourceCounts]:
    """Filter the rows of one source and write those that are kept to `file` as JSON Lines, in the source's order.

    Args:
        rows: The rows of the source.
        tokenizer: Counts tokens.
        limits: Which prompts are kept.
        file: The file to write to.
        seen: Prompts of previous sources. The prompts of this source are added.
        label: Name of the source, which is written into each row; None writes none.

    Returns:
        tuple: The byte offset of each kept row in the file, and the counts.
    """
    offsets, counts, rows = array("q"), SourceCounts(), iter(rows)
    with Progress("prepare_prompts", None, "row") as progress:
        while part := list(islice(rows, PART)):
            counts.rows += sum(row.raw_count for row in part)
            unique, dropped = drop_repeated(part, seen)
            counts.dropped.update(dropped)
            counts.dropped_pairs.update(row.pair_drop_reason for row in unique if row.pair_drop_reason)
            kept, dropped = drop_void_pairs([row.prompt for row in unique if row.prompt is not None])
            counts.dropped_pairs.update(dropped)
            kept, dropped = drop_unfit(kept, tokenizer, limits)
            counts.dropped.update(dropped)
            for row in kept:
                offsets.append(file.tell())
                file.write(json.dumps(row if label is None else row | {"source": label}).encode() + b"\n")
            progress.update(len(part))
    counts.kept = len(offsets)
    return offsets, counts


def add_system_prompt(rows: Iterable[ParsedRow], text: str | None) -> Iterator[ParsedRow]:
    """Add a system message to prompts without one. If `text` is None, rows are unchanged."""
    for row in rows:
        if text is not None and row.prompt is not None and row.prompt["messages"][0]["role"] != "system":
            messages = [{"role": "system", "content": text}, *row.prompt["messages"]]
            row = row._replace(prompt=row.prompt | {"messages": messages})
        yield row


def drop_repeated(rows: Iterable[ParsedRow], seen: SeenPrompts | None = None) -> tuple[list[ParsedRow], dict[str, int]]:
    """Return the rows whose prompts have not occurred before, and the number of dropped rows by reason.

    A prompt that occurs again is dropped even if its id differs, so that no prompt is in both train and eval.

    Args:
        rows: All rows, or a part of them.
        seen: The rows before this part, to which this part is added.

    Raises:
        InputError: An id of the source occurs twice, or one id has two prompts.
    """
    origins, contents, evaluated = seen or SeenPrompts({}, set())

    def is_evaluated(content: str, messages: Messages) -> bool:
        """Whether a prompt is in the evaluation set, where roles are merged if the chat template needs it."""
        return bool(evaluated) and (content in evaluated or content_id(merge_roles(messages)) in evaluated)

    kept, dropped = [], {"repeated": 0}
    for row in rows:
        if row.prompt is None:
            dropped[row.drop_reason] = dropped.get(row.drop_reason, 0) + 1
            continue
        prompt_id, content = row.prompt["prompt_id"], content_id(row.prompt["messages"])
        is_repeated, in_evaluation = content in contents, is_evaluated(content, row.prompt["messages"])
        if prompt_id in origins and (row.has_own_id or not (is_repeated or in_evaluation)):
            raise InputError(
                f"{row.origin}: duplicate prompt_id {prompt_id}, first in {origins[prompt_id]}; change one"
            )
        if prompt_id != content:
            origins[prompt_id] = row.origin
        if is_repeated:
            dropped["repeated"] += 1
        elif in_evaluation:
            dropped[EVALUATED] = dropped.get(EVALUATED, 0) + 1
        else:
            contents.add(content)
            kept.append(row)
    return kept, dropped


def drop_void_pairs(rows: list[dict]) -> tuple[list[dict], dict[str, int]]:
    """Return all rows, without pairs of empty or equal responses, and the number of dropped pairs by reason."""
    kept, dropped = [], Counter[str]()
    for row in rows:
        responses = [row[side].strip() for side in SIDES if side in row]
        if "" in responses or len(responses) > len(set(responses)):
            dropped["with an empty response" if "" in responses else "with equal responses"] += 1
            row = {name: value for name, value in row.items() if name not in SIDES}
        kept.append(row)
    return kept, dropped


def drop_unfit(
    rows: list[dict], tokenizer: "PreTrainedTokenizerBase", limits: Limits
) -> tuple[list[dict], dict[str, int]]:
    """Return the rows whose prompt and given responses are within the limits, and the number of dropped rows by reason.

    The length of a prompt includes the chat template. The length of a response does not include EOS.
    """
    long_prompt, long_response = (
        f"longer than {limits.max_prompt_tokens} tokens",
        "with a response longer than {} tokens",
    )
    dropped = {long_prompt: 0}
    if limits.max_response_tokens is not None:
        dropped[long_response.format(limits.max_response_tokens)] = 0
    kept = []
    for row in rows:
        is_small = bytes_of_text(row) <= limits.max_prompt_bytes
        row, length = fit_roles(row, tokenizer, limits.merge_roles, limits.chat) if is_small else (row, None)
        if not is_small:
            reason = f"of more than {limits.max_prompt_bytes} bytes (max_prompt_bytes)"
        elif length is None:
            reason = REFUSED
        elif length > limits.max_prompt_tokens:
            reason = long_prompt
        elif (most := limits.max_response_tokens) is not None and most_response_tokens(row, tokenizer) > most:
            reason = long_response.format(most)
        else:
            kept.append(row)
            continue
        dropped[reason] = dropped.get(reason, 0) + 1
    return kept, dropped


def fit_roles(
    row: dict, tokenizer: "PreTrainedTokenizerBase", merge: bool, chat: ChatFormat = DEFAULT_FORMAT
) -> tuple[dict, int | None]:
    """Return the row, with roles merged if needed and allowed, and its prompt's tokens; None if roles are refused."""
    try:
        return row, len(prompt_ids(tokenizer, row["messages"], chat))
    except RefusedRolesError:
        if not merge:
            return row, None
    return fit_roles(row | {"messages": merge_roles(row["messages"])}, tokenizer, merge=False, chat=chat)


def bytes_of_text(row: dict) -> int:
    """Return the UTF-8 bytes of a row's messages and given responses."""
    texts = [*(message["content"] for message in row["messages"]), *(row[side] for side in SIDES if side in row)]
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


def most_response_tokens(row: dict, tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the number of tokens of a row's longest given response; 0 if it has none."""
    responses = [tokenizer(row[side], add_special_tokens=False)["input_ids"] for side in SIDES if side in row]
    return max(map(len, responses), default=0)


def draw_rows(
    count: int, take: int | None, rng: np.random.Generator, shares: Sequence[tuple[int, float | None]] = ()
) -> list[int]:
    """Draw rows at random, and return their indices in random order.

    Args:
        count: Number of rows. The rows of each source are consecutive.
        take: Number of rows to draw; None draws all, or each source's share.
        rng: Random generator.
        shares: Number of rows and share of each of several sources. The share is a fraction of `take`, or of the
            source's rows if `take` is None.

    Raises:
        InputError: There are fewer rows than requested.
    """
    if take is not None and take > count:
        raise InputError(
            f"prompts.take asks for {take} prompts, but the source has {count}; lower it or set it to null"
        )
    order = rng.permutation(count)
    if all(share is None for _, share in shares):
        return order[:take].tolist()
    counts = np.array([rows for rows, _ in shares])
    wanted = np.array([1.0 if share is None else share for _, share in shares]) * (counts if take is None else take)
    quotas = np.floor(wanted + 1e-9).astype(int)
    if take is not None:  # the sources with the largest remainders get what is left of `take`
        quotas[np.argsort(quotas - wanted, kind="stable")[: take - quotas.sum()]] += 1
    for number, (quota, rows) in enumerate(zip(quotas, counts, strict=True), start=1):
        if quota > rows:
            raise InputError(
                f"prompts.sources: source {number} has {rows} prompts, but its share of {take} is {quota}; lower take"
            )
    owners = np.repeat(np.arange(len(counts)), counts)[order]
    chosen = np.zeros(count, dtype=bool)
    for owner, quota in enumerate(quotas):
        chosen[np.flatnonzero(owners == owner)[:quota]] = True
    return order[chosen].tolist()


def split_rows(rows: Sequence[T], eval_fraction: float) -> tuple[list[T], list[T]]:
    """Split randomly ordered rows into training and evaluation rows, with at least one each.

    Raises:
        InputError: There are fewer than two rows.
    """
    if len(rows) < 2:
        raise InputError(f"{len(rows)} prompt(s) left: at least two are needed, one to train on and one to evaluate")
    eval_count = min(max(1, round(eval_fraction * len(rows))), len(rows) - 1)
    return list(rows[eval_count:]), list(rows[:eval_count])


def listed(counts: dict[str, int]) -> str:
    """Return counts as text: `3 repeated, 2 longer than 256 tokens`."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
