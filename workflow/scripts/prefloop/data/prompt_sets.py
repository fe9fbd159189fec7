"""Reads the training and evaluation prompts from their sources, draws and splits them, and counts what is dropped."""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from prefloop.config.declarations import defaults
from prefloop.config.prompt_settings import (
    ChatConfig,
    Columns,
    MixedSource,
    PromptsConfig,
    PromptSetConfig,
    SourceConfig,
)
from prefloop.config.source_names import configured_sources
from prefloop.core.errors import InputError, section
from prefloop.core.jsonl import describe, row_at
from prefloop.core.progress import Summary
from prefloop.core.seeds import rng_for
from prefloop.data.near_duplicates import EvalNGrams
from prefloop.data.prompt_filters import (
    PART,
    Limits,
    SeenPrompts,
    SourceCounts,
    add_system_prompt,
    draw_rows,
    filter_prompts,
    listed,
)
from prefloop.data.prompts import check_format, check_template, parse_rows, parse_template
from prefloop.data.raw_rows import open_source
from prefloop.models.chat import DEFAULT_FORMAT, ChatFormat, check_system_prompt, prompt_ids, settle_format
from prefloop.models.positions import check_positions, max_positions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class EvaluationFlags(PromptSetConfig):
    """The settings of an evaluation set as flags. Without a source, there is no evaluation set."""

    messages_template: str | None = None
    """JSON list of {role, content} messages with {column} placeholders, for format columns. They replace the prompt
    column."""
    sources: str | None = None
    """JSON list of several sources instead of one."""


@dataclass
class TrainingFlags(PromptsConfig, EvaluationFlags):
    """The settings of prompts as flags."""


@contextmanager
def of_evaluation() -> Iterator[None]:
    """Within the context, put `evaluation.` before the keys of prompts in error messages."""
    try:
        yield
    except InputError as error:
        raise InputError(f"evaluation.{error}" if str(error).startswith("prompts.") else str(error)) from error


class PromptSource(NamedTuple):
    """One source of a set of prompts."""

    settings: SourceConfig
    """Where its rows come from."""
    template: list[dict] | None = None
    """Messages that replace its prompt column."""
    share: float | None = None
    """Fraction of `take` that is drawn from it, or of its prompts if `take` is None; None draws all prompts equally."""


@dataclass
class PromptSet:
    """The kept prompts of all sources. Their rows are in a file."""

    sources: list[PromptSource]
    """Sources of the prompts."""
    offsets: array = field(default_factory=lambda: array("q"))
    """Byte offset of each kept row in the file. The rows of each source are consecutive."""
    counts: list[SourceCounts] = field(default_factory=list)
    """Rows kept and dropped, per source."""
    commits: list[str | None] = field(default_factory=list)
    """The commits of hub data sets, per source."""

    def draw(self, take: int | None, seed: int) -> list[int]:
        """Return the offsets of `take` rows, or of all rows if it is None, in random order."""
        rows = [counts.kept for counts in self.counts]
        shares = [(count, source.share) for count, source in zip(rows, self.sources, strict=True)]
        return [self.offsets[number] for number in draw_rows(sum(rows), take, rng_for(seed, "prompts"), shares)]

    def summary(self) -> tuple[str, str]:
        """Return `1,000 rows of my/prompts.csv`, and the number of dropped rows by reason."""
        dropped, pairs = Counter[str](), Counter[str]()
        for counts in self.counts:
            dropped.update(counts.dropped)
            pairs.update(counts.dropped_pairs)
        account = f"dropped {listed(dropped)}"
        if pairs:
            account += f"; pairs dropped from prompts that were kept: {listed(pairs)}"
        names = ", ".join(str(source.settings.source) for source in self.sources)
        return f"{sum(counts.rows for counts in self.counts):,} rows of {names}", account

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Return one row of sources.json per source. `kind` names the prompts that come from it."""
        return [
            {"prompts": kind}
            | {name: getattr(source.settings, name) for name in ("source", "subset", "split", "format")}
            | {"commit": commit, "share": source.share}
            | vars(counts)
            for source, commit, counts in zip(self.sources, self.commits, self.counts, strict=True)
        ]


def sources_of(settings: EvaluationFlags) -> list[PromptSource]:
    """Return the sources of a set of prompts.

    Raises:
        InputError: The JSON of a setting is not what the config's schema describes.
    """
    if settings.sources is None:
        template = settings.messages_template
        return [PromptSource(settings, parse_template(template) if template is not None else None)]
    try:
        items = json.loads(settings.sources)
    except ValueError as error:
        raise InputError(f"prompts.sources: not JSON ({error}): {describe(settings.sources)}") from error
    known = defaults(MixedSource).keys()
    if not isinstance(items, list) or not all(isinstance(item, dict) and item.keys() <= known for item in items):
        raise InputError(f"prompts.sources: {describe(items)}, expected a list of sources with keys {', '.join(known)}")
    result = []
    for item in configured_sources({"sources": items}):
        template, share = item.pop("messages_template"), item.pop("share")
        settings_of_item = SourceConfig(**item | {"columns": Columns(**item["columns"])})
        result.append(PromptSource(settings_of_item, check_template(template) if template else None, share))
    return result


def read_prompt_set(
    settings: EvaluationFlags,
    packaged: Path,
    tokenizer: "PreTrainedTokenizerBase",
    file: BinaryIO,
    evaluated: Set[str] = frozenset(),
    chat: ChatFormat = DEFAULT_FORMAT,
    system_prompt: str | None = None,
) -> PromptSet:
    """Read all sources of a set and write the rows that are kept to `file`.

    Args:
        settings: Settings of the set. Rows name their source if there are several.
        packaged: The file of the packaged prompts.
        tokenizer: Counts tokens.
        file: The file to write to.
        evaluated: The `content_id` of prompts that are dropped because they are in the evaluation set.
        chat: How prompts are written for the model.
        system_prompt: System message for prompts without one.

    Raises:
        InputError: A source cannot be read, or no prompt is left.
    """
    prompts, seen = PromptSet(sources_of(settings)), SeenPrompts({}, set(), evaluated)
    limits = Limits(
        settings.max_prompt_tokens, settings.max_response_tokens, settings.merge_roles, settings.max_prompt_bytes, chat
    )
    for source in prompts.sources:
        source_settings = source.settings
        check_format(source_settings.format, source_settings.columns, source.template)
        opened = open_source(source_settings.source, packaged, source_settings.subset, source_settings.split)
        parsed = parse_rows(
            opened.rows, source_settings.format, source_settings.columns, source.template, settings.keep
        )
        rows = add_system_prompt(parsed, system_prompt)
        label = source_settings.source if len(prompts.sources) > 1 else None
        offsets, counts = filter_prompts(rows, tokenizer, limits, file, seen, label)
        prompts.offsets.extend(offsets)
        prompts.counts.append(counts)
        prompts.commits.append(opened.commit)
    if not prompts.offsets:
        origin, account = prompts.summary()
        raise InputError(
            f"no prompt is left: {origin}; {account}; see prompts.format, max_prompt_tokens, max_response_tokens, "
            "merge_roles"
        )
    return prompts


def choose_format(policy: ChatConfig, tokenizer: "PreTrainedTokenizerBase", stored: Path) -> ChatFormat:
    """Return the run's chat format. Raise InputError if the settings do not fit the model's chat template."""
    with section("policy"):
        chat = settle_format(tokenizer, policy.chat_template_kwargs, policy.template_date, stored)
        if policy.system_prompt is not None:
            check_system_prompt(tokenizer, chat)
    return chat


def check_room(
    rows: Iterable[dict],
    max_new_tokens: int,
    settings: Sequence[PromptSetConfig],
    model: Path,
    tokenizer: "PreTrainedTokenizerBase",
    chat: ChatFormat,
) -> None:
    """Raise InputError if a prompt with a response of `max_new_tokens` exceeds the positions of the model.

    Prompts are tokenized again only if `max_prompt_tokens` in one of the settings would exceed the positions.
    """
    limit, longest = max_positions(model), max(each.max_prompt_tokens for each in settings)
    if limit is not None and longest + max_new_tokens > limit:
        longest = max(len(prompt_ids(tokenizer, row["messages"], chat)) for row in rows)
        check_positions(model, longest + max_new_tokens)


class NearDuplicates:
    """Compares training rows with the eval prompts while they are written."""

    def __init__(self, evaluated: EvalNGrams, drop: bool) -> None:
        self.evaluated, self.drop = evaluated, drop
        self.count = 0
        """Number of training prompts so far that nearly repeat an eval prompt."""

    @property
    def account(self) -> str:
        """The number of near-duplicates, for the log."""
        what = "dropped" if self.drop else "kept; prompts.drop_near_duplicates drops them"
        return f"{self.count:,} training prompts nearly repeat an eval prompt ({what})"

    def pass_on(self, file: BinaryIO, offsets: Sequence[int]) -> Iterator[dict]:
        """Yield the rows at these offsets, or only those that are kept. Raise InputError if no row is left."""
        remaining, kept = iter(offsets), 0
        while part := [row_at(file, offset) for offset in islice(remaining, PART)]:
            near = self.evaluated.near_duplicates(part)
            self.count += int(near.sum())
            rows = [row for row, is_near in zip(part, near, strict=True) if not (is_near and self.drop)]
            kept += len(rows)
            yield from rows
        if not kept:
            raise InputError(f"no training prompt is left: {self.account}; set prompts.drop_near_duplicates: false")


class Account(NamedTuple):
    """Counts of kept and dropped rows of all sources."""

    prompts: PromptSet
    """Prompts for training and, without `eval_set`, for evaluation."""
    eval_set: PromptSet | None
    """The evaluation set, if it has its own source."""
    near: NearDuplicates
    """Near-duplicates among the training prompts."""
    train: int
    """Training prompts that were written."""
    evaluated: int
    """Eval prompts that were written."""

    def record(self) -> dict[str, Any]:
        """Return the content of sources.json."""
        records = self.prompts.records("train" if self.eval_set else "train and eval")
        return {
            "train": self.train,
            "eval": self.evaluated,
            "near_duplicates": self.near.count,
            "near_duplicates_dropped": self.near.drop,
            "sources": records + (self.eval_set.records("eval") if self.eval_set else []),
        }

    def summary(self) -> Summary:
        """Return a summary of kept and dropped rows, for the log."""
        origin, dropped = self.prompts.summary()
        kept = f"{self.train:,} for training, {self.evaluated:,} for evaluation, of {origin}"
        rows = [counts.rows for counts in self.prompts.counts]
        if self.eval_set:
            eval_origin, eval_dropped = self.eval_set.summary()
            kept = f"{self.train:,} for training of {origin}, {self.evaluated:,} for evaluation of {eval_origin}"
            dropped += f"; of the evaluation set, {eval_dropped}"
            rows += [counts.rows for counts in self.eval_set.counts]
        return Summary(kept, sum(rows), "row", f"{dropped}; {self.near.account}" if self.near.count else dropped)
