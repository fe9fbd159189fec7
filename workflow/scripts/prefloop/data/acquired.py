"""Chooses the responses of a step that get a label. The choice learns from the labels of earlier steps."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prefloop.core.errors import InputError
from prefloop.core.jsonl import iterate_rows
from prefloop.core.seeds import rng_for
from prefloop.data.feature_rows import Key, key_of_row, read_features
from prefloop.methods.acquisition import acquire
from prefloop.methods.reward_head import Floats, LinearHead, center_by_prompt, fit_judgments, fit_rewards

MAX_LABELS = 4000  # the newest labels, to which a head is fitted; memory grows with the square of their number


class StepFiles(NamedTuple):
    """Files of one step."""

    logprobs: Path
    """logprobs.jsonl. The features have the same order."""
    features: Path
    rewards: Path


class History(NamedTuple):
    """The labels of earlier steps."""

    scale: Floats
    """[features], the standard deviation within prompts of each feature, over all responses of these steps."""
    rows: Floats
    """[labels, features], standardized features of a rewarded response, or the difference between two judged ones."""
    targets: Floats
    """[labels], the reward, or the probability that the first of two judged responses is better."""
    prompts: list[str]
    """[labels], the prompt and its step."""
    judged: bool
    """Whether the labels are judgments of pairs."""

    def fit(self) -> LinearHead | None:
        """Fit a head to the labels. Return None if they carry no information, such as equal rewards."""
        rows, targets = self.rows[-MAX_LABELS:], self.targets[-MAX_LABELS:]
        try:
            return (
                fit_judgments(rows, targets) if self.judged else fit_rewards(rows, targets, self.prompts[-MAX_LABELS:])
            )
        except ValueError:
            return None


class Candidates(NamedTuple):
    """The responses of a step."""

    rows: list[dict]
    """[responses], each with prompt_id, cluster and response_id."""
    features: Floats
    """[responses, features], minus the mean over the prompt's responses."""


def read_candidate_features(logprobs: Path, features: Path) -> Candidates:
    """Read the responses of a step with their features, centered by prompt."""
    names = ("prompt_id", "cluster", "response_id")
    rows = [{name: row[name] for name in names} for row in iterate_rows(logprobs, names)]
    values = read_features(features, len(rows)).astype(np.float64)
    return Candidates(rows, center_by_prompt(values, [row["prompt_id"] for row in rows]))


def read_history(steps: Sequence[StepFiles]) -> History | None:
    """Read the labels of earlier steps, oldest first; None if there are none.

    Raises:
        InputError: A label belongs to a response that its step does not have.
    """
    rows: list[Floats] = []
    targets: list[float] = []
    prompts: list[str] = []
    squares, count, judged = np.zeros(0), 0, False
    for number, step in enumerate(steps):
        candidates = read_candidate_features(step.logprobs, step.features)
        index = {key_of_row(row): i for i, row in enumerate(candidates.rows)}
        squares = (candidates.features**2).sum(axis=0) + (squares if count else 0)
        count += len(candidates.rows)
        for row in iterate_rows(step.rewards, ["prompt_id", "response_id", "reward"]):
            key = key_of_row(row)
            response_features = candidates.features[index_of(index, key, step)]
            judged = judged or "judged" in row
            if "judged" not in row and row["reward"] is not None:
                rows.append(response_features)
                targets.append(row["reward"])
                prompts.append(f"{number} {key[0]}")
            for response_id, first, second in row.get("judged", ()):
                if None not in (first, second):
                    rows.append(response_features - candidates.features[index_of(index, (key[0], response_id), step)])
                    targets.append((first + second) / 2)
                    prompts.append(f"{number} {key[0]}")
    if not rows:
        return None
    scale = np.sqrt(squares / count)
    scale[scale == 0] = 1.0
    return History(scale, np.stack(rows) / scale, np.array(targets), prompts, judged)


def index_of(index: dict[Key, int], key: Key, step: StepFiles) -> int:
    """Return the index of a response in its step. Raise InputError if the step does not have it."""
    if key not in index:
        raise InputError(
            f"{step.rewards}: response {key[1]} to prompt {key[0]} is not in {step.logprobs}; make the step again"
        )
    return index[key]


class LabelChoice(NamedTuple):
    """How responses are chosen."""

    rule: str
    labels: int
    """Number of labels per prompt."""
    confidence: float
    seed: int
    stream: tuple[str | int, ...]
    """Names of the step, from which its random numbers are derived."""
    prompts: int | None = None
    """Number of prompts whose responses get labels; None for all."""


def choose_responses(candidates: Candidates, history: History | None, choice: LabelChoice) -> tuple[list[dict], bool]:
    """Choose the responses to label, and keep their order.

    Args:
        candidates: The step's responses.
        history: Labels of earlier steps.
        choice: Rule, number of labels, and the source of random numbers.

    Returns:
        tuple: The chosen rows, and whether a head was fitted. Each row has `predicted`, the expected reward minus the
            mean over the prompt, and `deviation`, its standard deviation, in units of the labels; None without a head.
    """
    head = history.fit() if history else None
    values = candidates.features / history.scale if history else candidates.features
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(candidates.rows):
        groups.setdefault(row["prompt_id"], []).append(i)
    chosen = []
    for prompt_id, group in groups.items():
        rng = rng_for(choice.seed, "acquisition", *choice.stream, prompt_id)
        picked = acquire(choice.rule, head, values[group], choice.labels, choice.confidence, rng)
        chosen.append(predictions(candidates.rows, values, [group[i] for i in sorted(picked)], head))
    if choice.prompts is not None:
        rng = rng_for(choice.seed, "acquisition", *choice.stream)
        chosen = [chosen[i] for i in widest(chosen, choice.prompts, rng)]
    return [row for rows in chosen for row in rows], head is not None


def predictions(rows: list[dict], values: Floats, indices: list[int], head: LinearHead | None) -> list[dict]:
    """Return the rows of some responses with the head's predictions."""
    features = values[indices]
    rewards = head.rewards(features).tolist() if head else [None] * len(indices)
    deviations = head.deviations(features).tolist() if head else [None] * len(indices)
    return [
        rows[i] | {"predicted": reward, "deviation": deviation}
        for i, reward, deviation in zip(indices, rewards, deviations, strict=True)
    ]


def widest(prompts: list[list[dict]], count: int, rng: np.random.Generator) -> list[int]:
    """Return sorted indices of the prompts with the largest predicted reward gaps, or of random ones without a head."""
    order = rng.permutation(len(prompts))
    if prompts[0][0]["predicted"] is not None:
        gaps = np.array([np.ptp([row["predicted"] for row in rows]) for rows in prompts])
        order = np.argsort(-gaps, kind="stable")
    return sorted(order[:count].tolist())


def keep_acquired(rows: Iterable[dict], acquired: Path) -> list[dict]:
    """Return the responses that a step's acquired.jsonl lists.

    Raises:
        InputError: A listed response is not among `rows`.
    """
    wanted = {key_of_row(row) for row in iterate_rows(acquired, ["prompt_id", "response_id"])}
    kept = [row for row in rows if key_of_row(row) in wanted]
    if len(kept) < len(wanted):
        prompt_id, response_id = min(wanted - {key_of_row(row) for row in kept})
        raise InputError(f"{acquired}: no response {response_id} to prompt {prompt_id}; make the step again")
    return kept
