"""Feedback on responses: rows of rewards.jsonl for training, and outcomes against an opponent for evaluation.

A source of feedback is a `RewardSource`, which gives every response a number, or a `Judge`, which compares two
responses to a prompt.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.config.prompt_settings import ChatConfig
from prefloop.core.costs import CostMeter
from prefloop.core.errors import SettingError, section
from prefloop.core.jsonl import by_prompt
from prefloop.core.own_functions import EXPECTED, is_own, load_own
from prefloop.core.progress import Progress
from prefloop.core.registry import lookup
from prefloop.core.reward_parameters import PROMPT_COLUMNS
from prefloop.core.shards import Shard, add_counts
from prefloop.feedback.combined import Ensemble, WeightedSum, members_of, reward_columns
from prefloop.feedback.comparison_plans import PairsToAsk
from prefloop.feedback.judged_rows import ALL_PAIRS, compare_rows, judge_responses, raw_answers
from prefloop.feedback.judgments import Judge, Judgment, Messages, invalid_warning
from prefloop.feedback.local_judge import LocalJudge
from prefloop.feedback.model_chat import share_date
from prefloop.feedback.penalties import penalized
from prefloop.feedback.reward_sources import DatasetRewards, FunctionRewards, Request, RewardSource
from prefloop.feedback.server_judge import ServerJudge
from prefloop.feedback.thinking import count_open_blocks

Feedback = RewardSource | Judge


def load_function(settings: FeedbackConfig, threads: int) -> RewardSource:
    """The function of the user; SettingError if `function` does not name one."""
    if not is_own(settings.function):
        raise SettingError(f"function: {settings.function!r}, expected {EXPECTED}")
    return FunctionRewards(load_own(settings.function, "function"), settings.concurrency)


def load_reward_model(settings: FeedbackConfig, threads: int) -> RewardSource:
    """The classifier `model`; SettingError if it is missing, or has several outputs and `output` names none."""
    from prefloop.feedback.reward_model import RewardModel

    if settings.model is None:
        raise SettingError("model: missing; a reward model as feedback needs one")
    options = settings.output, settings.dtype, chat_config(settings)
    return RewardModel(Path(settings.model), settings.batch_size, threads, *options)


def load_judge(settings: FeedbackConfig, threads: int) -> Judge:
    """The server at `judge.base_url`, or else the language model `model`; SettingError if both are missing."""
    if settings.judge.base_url is not None:
        return ServerJudge(settings.judge, chat_config(settings))
    if settings.model is None:
        raise SettingError("model: missing; a judge needs a model, or judge.base_url for a server")
    return LocalJudge(settings.judge, Path(settings.model), threads, settings.batch_size, chat_config(settings))


def chat_config(settings: FeedbackConfig) -> ChatConfig:
    """The chat settings of a judge or reward model."""
    return ChatConfig(settings.chat_template_kwargs, settings.system_prompt, settings.template_date)


def load_dataset(settings: FeedbackConfig, threads: int) -> RewardSource:
    """The preferences of the data set."""
    return DatasetRewards()


def load_sum(settings: FeedbackConfig, threads: int) -> RewardSource:
    """The weighted sum of `sources`."""
    return WeightedSum(members_of(settings, partial(load_feedback, threads=threads)))


def load_ensemble(settings: FeedbackConfig, threads: int) -> RewardSource:
    """The mean of `sources`."""
    return Ensemble(members_of(settings, partial(load_feedback, threads=threads)))


# By feedback.kind: (settings, CPU threads) -> RewardSource or Judge. Settings of one kind only have the kind's name.
FEEDBACK: dict[str, Callable[[FeedbackConfig, int], Feedback]] = {
    "function": load_function,
    "reward_model": load_reward_model,
    "judge": load_judge,
    "dataset": load_dataset,
    "sum": load_sum,
    "ensemble": load_ensemble,
}


def load_feedback(settings: FeedbackConfig, threads: int, key: str, chat: Path | None = None) -> Feedback:
    """Load a source of feedback.

    Args:
        settings: Settings of the source.
        threads: CPU threads, for a model.
        key: Config key of the settings, for error messages.
        chat: A chat.json. The templates of judges and reward models print its date.

    Raises:
        InputError: The kind does not exist, or the source cannot be loaded.
    """
    with section(key):
        source = lookup(FEEDBACK, settings.kind, "kind")(settings, threads)
    share_date(source, chat)
    if isinstance(source, WeightedSum):
        source.key, source.chat = key, chat
    return source


class FeedbackRows(NamedTuple):
    """Rewards or outcomes of responses."""

    rows: list[dict]
    judge_report: dict | None
    """Outcomes and biases of a judge (`judge_report`) and its numbers of requests; None without a judge."""
    warning: str = ""
    """One line about the problem if most judgments are invalid, else empty."""
    unfinished: int = 0
    """Number of responses that start with an unclosed block of thoughts. They are scored unchanged."""

    def add_notes(self, meter: CostMeter) -> None:
        """Add the judge's report and the number of unfinished responses to a stage's cost, and print them."""
        if self.judge_report is not None:
            meter.notes["judge"] = self.judge_report
            print(f"{meter.stage}: judge {self.judge_report}")
        if self.unfinished:
            meter.notes["unfinished_thoughts"] = self.unfinished
            print(f"{meter.stage}: {self.unfinished} responses are unfinished thoughts and are scored unchanged")


def annotate(
    feedback: Feedback,
    prompts: dict[str, Messages],
    rows: Sequence[dict],
    shard: Shard | None = None,
    truncation_penalty: float | None = None,
    length_penalty: float | None = None,
    pairs_to_ask: PairsToAsk = ALL_PAIRS,
) -> FeedbackRows:
    """The rows of rewards.jsonl for the responses of a shard.

    A row has the `reward` and, with several sources, their columns (`WeightedSum`). With a judge, the reward is the
    mean probability that the response is better than those it was compared with, or null without a valid judgment. A
    judge adds these fields:

    * `beats`: ids of the responses that it wins against.
    * `judged`: one entry per pair that starts with this response, [other response_id, probability that this response is
      better if shown first, the same if shown second].
    * `answers`: for each of these pairs, the two answers as [text, problem].
    * `tournament`, with the plan `best_worst_tournament` only: best, worst or null.

    Args:
        feedback: Source of feedback.
        prompts: Messages of all rows, by prompt_id.
        rows: Rows of generations.jsonl. A function also needs the columns from `with_prompt_columns`.
        shard: The shard of the batches; all batches if None.
        truncation_penalty: See `penalized` and `compare_rows`.
        length_penalty: See `penalized`. A judge ignores it.
        pairs_to_ask: The pairs of a prompt's responses that a judge compares.
    """
    fields: dict[tuple[str, int], dict] = {}
    reports: list[dict] = []
    judgments: list[Judgment] = []
    batches = form_batches(rows, prompts, feedback.batch_size, shard or Shard())
    calls = (requests_of([prompts[row["prompt_id"]] for row in batch], batch) for batch in batches)
    columns_of_batches = iter(()) if isinstance(feedback, Judge) else reward_columns(feedback, calls)
    is_combined = isinstance(feedback, WeightedSum)  # it shows the progress of each source itself
    with Progress("reward", sum(map(len, batches)), "response", silent=is_combined) as progress:
        for batch in batches:
            if isinstance(feedback, Judge):
                messages = [prompts[row["prompt_id"]] for row in batch]
                judged = judge_responses(feedback, messages, batch, truncation_penalty, pairs_to_ask)
                batch_fields, batch_judgments, report = judged
                reports.append(report)
                judgments += batch_judgments
            else:
                columns = next(columns_of_batches)
                columns["reward"] = penalized(columns["reward"], batch, truncation_penalty, length_penalty)
                rows_of_columns = zip(*columns.values(), strict=True)
                batch_fields = [dict(zip(columns, values, strict=True)) for values in rows_of_columns]
            fields |= dict(zip(map(key_of, batch), batch_fields, strict=True))
            progress.update(len(batch))
    annotated = [
        {name: row[name] for name in ("prompt_id", "cluster", "response_id")} | fields[key_of(row)]
        for row in rows
        if key_of(row) in fields
    ]
    unfinished = sum(map(count_open_blocks, batches))
    return FeedbackRows(annotated, combined_report(feedback, reports), invalid_warning(judgments), unfinished)


def count_labels(rows: Sequence[dict]) -> int:
    """Labels in rows of rewards.jsonl: one per response, or one per question to a judge, which are two per pair."""
    return sum(2 * len(row["judged"]) if "judged" in row else 1 for row in rows)


def key_of(row: dict) -> tuple[str, int]:
    return row["prompt_id"], row["response_id"]


def with_prompt_columns(rows: Sequence[dict], prompts: dict[str, dict]) -> list[dict]:
    """Rows of responses with the columns of their prompts that a reward function may use."""
    return [row | {name: prompts[row["prompt_id"]].get(name) for name in PROMPT_COLUMNS} for row in rows]


def requests_of(messages: Sequence[Messages], rows: Sequence[dict]) -> list[Request]:
    return [
        Request(*key_of(row), prompt, row["response"], row.get("component", ""), row)
        for prompt, row in zip(messages, rows, strict=True)
    ]


def form_batches(
    rows: Sequence[dict], prompts: dict[str, Messages], batch_size: int | None, shard: Shard
) -> list[list[dict]]:
    """The rows of a shard in batches. All responses to a prompt are in the same batch.

    With a batch size, the prompts of a batch have similar lengths, and batches do not depend on the number of shards.
    Without a batch size, all rows of the shard are one batch.
    """
    groups = list(by_prompt(rows).values())
    if batch_size is None:
        shard_rows = [row for group in shard.select(groups) for row in group]
        return [shard_rows] if shard_rows else []
    from prefloop.models.batching import batches_by_length

    def characters(group: list[dict]) -> int:
        prompt_length = sum(len(message["content"]) for message in prompts[group[0]["prompt_id"]])
        return prompt_length + max(len(row["response"]) for row in group)

    prompts_per_batch = max(1, batch_size // max(map(len, groups)))
    batches = shard.select(batches_by_length(list(map(characters, groups)), prompts_per_batch))
    return [[row for i in batch for row in groups[i]] for batch in batches]


def combined_report(feedback: Feedback, reports: Sequence[dict]) -> dict | None:
    """The sum of a judge's reports, with the numbers of its requests; None without a report."""
    return add_counts(reports) | feedback.usage.requests if reports else None


def compare_responses(
    feedback: Feedback,
    messages: Sequence[Messages],
    ours: Sequence[dict],
    theirs: Sequence[dict],
    truncation_penalty: float | None = None,
    length_penalty: float | None = None,
) -> FeedbackRows:
    """Outcomes of `ours` against `theirs`, response by response. Identical responses tie.

    A row has `outcome` (win, tie, loss or invalid), `reward` and `reward_opponent`. With a judge, both rewards are
    null, and the row also has `preference` (the probability that ours is better, null if an answer is invalid) and
    `answers`, as in `annotate`.
    """
    unfinished = count_open_blocks([*ours, *theirs])
    if isinstance(feedback, Judge):
        judgments, report = compare_rows(feedback, messages, ours, theirs, truncation_penalty)
        outcomes = {"A": "win", "B": "loss", "tie": "tie", "invalid": "invalid"}
        rows: list[dict[str, Any]] = [
            {
                "outcome": outcomes[judgment.outcome],
                "reward": None,
                "reward_opponent": None,
                "preference": judgment.preference,
                "answers": raw_answers(judgment),
            }
            for judgment in judgments
        ]
        return FeedbackRows(rows, combined_report(feedback, [report]), invalid_warning(judgments), unfinished)
    columns = reward_columns(feedback, (requests_of(messages, side) for side in (ours, theirs)))
    rewards = [penalized(next(columns)["reward"], side, truncation_penalty, length_penalty) for side in (ours, theirs)]
    identical = [row["response"] == other["response"] for row, other in zip(ours, theirs, strict=True)]
    rows = [
        {
            "outcome": "tie" if same or a == b else "win" if a > b else "loss",
            "reward": a,
            "reward_opponent": b,
        }
        for same, a, b in zip(identical, *rewards, strict=True)
    ]
    return FeedbackRows(rows, None, unfinished=unfinished)
