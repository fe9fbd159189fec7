"""Who says what a response is worth: a function, a reward model, a judge of two, or the data set itself.

Functions and reward models give every response a number, larger is better. A judge compares a prompt's responses two
by two. `annotate` turns either into the fields of rewards.jsonl, `contest` into the verdicts of evaluation.
"""

import importlib
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from prefloop.judges import Judging, LocalJudge, ServerJudge
from prefloop.progress import Progress
from prefloop.rows import InputError, by_prompt, choice
from prefloop.shards import Shard, add
from prefloop.verdicts import Messages, Verdict, report

if TYPE_CHECKING:  # torch is not needed for functions, which are most of what is asked
    from prefloop.classifiers import RewardModel


@dataclass
class Settings:
    """Which feedback; the names are those of config's `feedback` and `evaluation.evaluator`."""

    kind: str = "function"
    """Word of FEEDBACK."""
    function: str | None = None
    """`module:function`, called with (prompts, responses), for kind function."""
    model: Path | None = None
    """Manifest of a one-logit sequence classifier for kind reward_model, of a causal language model for judge."""
    batch_size: int = 32
    """Responses, or questions to a judge, that a model reads at once."""
    judge: Judging = field(default_factory=Judging)
    """How kind judge asks."""


def load_function(settings: Settings, threads: int) -> Callable:
    """The function that `module:function` names, importable from the working directory or the environment.

    It takes the prompts (each a list of messages) and the responses (texts) and returns one number a response, the
    larger the better. Raises InputError if there is no such function or its module cannot be imported.
    """
    module_name, _, name = (settings.function or "").partition(":")
    if not module_name or not name:
        raise InputError(f"feedback.function: {settings.function!r}, expected module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a person's module does at import
        absent = isinstance(error, ModuleNotFoundError) and error.name == module_name
        hint = f"; expected {module_name}.py in this folder, or a package" if absent else ""
        raise InputError(f"feedback.function: cannot import {module_name} ({what(error)}){hint}") from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        found = f"has no {name}" if function is None else f"has {type(function).__name__} {name}"
        raise InputError(
            f"feedback.function: module {module_name} {found}, expected a function of prompts and responses"
        )
    return function


def what(error: BaseException) -> str:
    """An error's kind and words, and the line of a person's file that raised it."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(f, line) for f, line in frames if f.is_relative_to(Path.cwd()) and "site-packages" not in f.parts]
    own = [(f, line) for f, line in own if f != Path(__file__)]
    return f"{text}, in {own[-1][0].name}, line {own[-1][1]}" if own else text


def load_reward_model(settings: Settings, threads: int) -> "RewardModel":
    """The classifier `model` as a function of (prompts, responses); InputError if none is given."""
    from prefloop.classifiers import RewardModel

    if settings.model is None:
        raise InputError("feedback.model: kind reward_model needs a model")
    return RewardModel(settings.model, settings.batch_size, threads)


def load_judge(settings: Settings, threads: int) -> LocalJudge | ServerJudge:
    """The server that `judge.base_url` names, or else the language model `model`; InputError if neither is given."""
    if settings.judge.base_url is not None:
        return ServerJudge(settings.judge)
    if settings.model is None:
        raise InputError("feedback.model: kind judge needs a model, or judge.base_url for a server")
    return LocalJudge(settings.judge, settings.model, threads, settings.batch_size)


def load_nothing(settings: Settings, threads: int) -> None:
    """The data set's own preference needs nobody."""


# From config's word to (settings, threads) -> who rewards: a function of (prompts, responses), something with `compare`
# (prefloop.judges), or None for the data set's own preference. What one kind alone is told has a setting of its name.
FEEDBACK: dict[str, Callable[[Settings, int], object]] = {
    "function": load_function,
    "reward_model": load_reward_model,
    "judge": load_judge,
    "dataset": load_nothing,
}


def annotate(
    settings: Settings, threads: int, prompts: dict[str, Messages], rows: list[dict], meter, shard: Shard | None = None
) -> list[dict]:
    """What rewards.jsonl says of each response of the shard, in the order of `rows`; the meter counts what it took.

    `reward`, and of a judge also `beats` (responses to the same prompt that it wins against) and `judged`, each as
    [the other's response_id, probability that this one is better asked first, and asked second]. A judge's reward
    is the mean of these probabilities, null for a response without a valid verdict.
    """
    feedback = choice(FEEDBACK, settings.kind, "feedback.kind")(settings, threads)
    unknown = [row["prompt_id"] for row in rows if row["prompt_id"] not in prompts]
    if unknown:
        raise InputError(f"no prompt {unknown[0]} among the prompts, which a response answers")
    found: dict[tuple[str, int], dict] = {}
    batches = dealt(rows, prompts, getattr(feedback, "batch_size", None), shard or Shard())
    with Progress("reward", sum(map(len, batches)), "response") as progress:
        for batch in batches:
            messages, ids = [prompts[row["prompt_id"]] for row in batch], [key_of(row) for row in batch]
            if feedback is None:
                fields = [{"reward": float(row["component"] == "chosen")} for row in batch]
            elif hasattr(feedback, "compare"):
                fields = compared(feedback, messages, batch, meter)
            else:
                rewards = rewards_of(feedback, messages, [row["response"] for row in batch], ids)
                fields = [{"reward": reward} for reward in rewards]
            found |= dict(zip(ids, fields, strict=True))
            progress.update(len(batch))
    meter.feedback(feedback)
    return [
        {name: row[name] for name in ("prompt_id", "cluster", "response_id")} | found[key_of(row)]
        for row in rows
        if key_of(row) in found
    ]


def key_of(row: dict) -> tuple[str, int]:
    return row["prompt_id"], row["response_id"]


def dealt(rows: list[dict], prompts: dict[str, Messages], batch_size: int | None, shard: Shard) -> list[list[dict]]:
    """The rows of a shard as batches that are asked about together, all responses to a prompt in one.

    For a model here (`batch_size` responses) prompts of like length stand together, and the batches are the same in
    every number of shards. Functions and servers get all of a shard at once.
    """
    groups = list(by_prompt(rows).values())
    if batch_size is None:
        mine = [row for group in shard.take(groups) for row in group]
        return [mine] if mine else []
    from prefloop.batching import batches_by_length

    def characters(group: list[dict]) -> int:
        asked = sum(len(message["content"]) for message in prompts[group[0]["prompt_id"]])
        return asked + max(len(row["response"]) for row in group)

    size = max(1, batch_size // max(map(len, groups)))
    batches = shard.take(batches_by_length(list(map(characters, groups)), size))
    return [[row for i in batch for row in groups[i]] for batch in batches]


def compared(judge: LocalJudge | ServerJudge, messages: list[Messages], rows: list[dict], meter) -> list[dict]:
    """The fields of every response after each two of a prompt's responses have met."""
    places = by_prompt({"prompt_id": row["prompt_id"], "place": i} for i, row in enumerate(rows)).values()
    pairs = [(one["place"], other["place"]) for group in places for one, other in combinations(group, 2)]
    verdicts = ask(
        judge, [messages[a] for a, _ in pairs], [rows[a] for a, _ in pairs], [rows[b] for _, b in pairs], meter
    )
    fields = [{"reward": None, "beats": [], "judged": []} for _ in rows]
    shares: list[list[float]] = [[] for _ in rows]
    for (a, b), verdict in zip(pairs, verdicts, strict=True):
        fields[a]["judged"].append([rows[b]["response_id"], verdict.first, verdict.second])
        if verdict.preference is not None:
            shares[a].append(verdict.preference)
            shares[b].append(1 - verdict.preference)
        if verdict.outcome in ("A", "B"):
            winner, loser = (a, b) if verdict.outcome == "A" else (b, a)
            fields[winner]["beats"].append(rows[loser]["response_id"])
    for row, share in zip(fields, shares, strict=True):
        row["reward"] = sum(share) / len(share) if share else None
    return fields


def contest(
    settings: Settings, threads: int, messages: list[Messages], ours: list[dict], theirs: list[dict], meter
) -> list[dict]:
    """`outcome` (win, tie, loss or invalid), `reward` and `reward_opponent` of each row of `ours` against `theirs`.

    A judge rewards nothing: both are null, and beside them stands `preference`, the probability that ours is better,
    null where its answer was none.
    """
    feedback = choice(FEEDBACK, settings.kind, "feedback.kind")(settings, threads)
    names = ["outcome", "reward", "reward_opponent"]
    if hasattr(feedback, "compare"):
        verdicts = ask(feedback, messages, ours, theirs, meter)
        words = {"A": "win", "B": "loss", "tie": "tie", "invalid": "invalid"}
        found = [(words[verdict.outcome], None, None, verdict.preference) for verdict in verdicts]
        names.append("preference")
    else:
        sides = []
        for rows in (ours, theirs):
            ids = [(row["prompt_id"], row["response_id"]) for row in rows]
            sides.append(rewards_of(feedback, messages, [row["response"] for row in rows], ids))
        found = [("win" if a > b else "loss" if a < b else "tie", a, b) for a, b in zip(*sides, strict=True)]
    meter.feedback(feedback)
    return [dict(zip(names, row, strict=True)) for row in found]


def ask(
    judge: LocalJudge | ServerJudge, messages: list[Messages], a: list[dict], b: list[dict], meter
) -> list[Verdict]:
    """Verdicts on responses a against b; how the judge judged goes to the meter's file."""
    verdicts = judge.compare(messages, [row["response"] for row in a], [row["response"] for row in b])
    counts = {name: getattr(judge, name) for name in ("asked", "cached", "retried") if hasattr(judge, name)}
    told = report(verdicts, [row["n_tokens"] for row in a], [row["n_tokens"] for row in b]) | counts
    before = meter.notes.get("judge")
    meter.notes["judge"] = add([before, told]) if before else told
    return verdicts


def rewards_of(
    function: Callable, prompts: Sequence[Messages], responses: Sequence[str], ids: Sequence[tuple[str, int]]
) -> list[float]:
    """Rewards [responses] of a feedback function, checked: one finite number a response.

    `ids` are (prompt_id, response_id), for the messages. Raises InputError if the function raises, returns
    another count, or returns something that is not a finite number.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        rewards = function(prompts, responses)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        culprit = find_culprit(function, prompts, responses, ids)
        raise InputError(f"feedback {name} raised {what(error)}; first for {culprit}") from error
    try:
        rewards = list(rewards)
    except TypeError as error:
        raise InputError(f"feedback {name} returned {type(rewards).__name__}, expected a list of numbers") from error
    if len(rewards) != len(responses):
        raise InputError(
            f"feedback {name} returned {len(rewards)} rewards for {len(responses)} responses, expected one for each"
        )
    for reward, (prompt_id, response_id) in zip(rewards, ids, strict=True):
        if not is_finite(reward):
            raise InputError(
                f"feedback {name} returned {reward!r} for prompt {prompt_id}, response {response_id}: "
                "every response needs a finite number"
            )
    return [float(reward) for reward in rewards]


def is_finite(reward) -> bool:
    try:
        return math.isfinite(reward)
    except (TypeError, ValueError, RuntimeError):  # of text, of a list, of a tensor with several numbers
        return False


def find_culprit(function: Callable, prompts, responses, ids) -> str:
    """The first response for which a raising function raises alone."""
    for prompt, response, (prompt_id, response_id) in zip(prompts, responses, ids, strict=True):
        try:
            function([prompt], [response])
        except (Exception, SystemExit):
            return f"prompt {prompt_id}, response {response_id}"
    return "no single response: it raises only on all together"
