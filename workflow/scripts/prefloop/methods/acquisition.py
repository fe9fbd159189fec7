"""Rules that choose which responses of a prompt get a label: one rule per entry of ACQUISITIONS.

A rule reads the features of a prompt's responses and a head fitted to earlier labels (`reward_head`), and returns two
responses. `acquire` calls it again if more responses get labels. Names and formulas follow ActiveUltraFeedback (arXiv
2603.09692).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from prefloop.core.metadata import Choice, OnlyIf, Unit
from prefloop.core.registry import lookup
from prefloop.methods.reward_head import Floats, LinearHead

Pair = tuple[int, int]
# Rule(head, features [responses, features], confidence, rng) returns two different responses.
Rule = Callable[[LinearHead, Floats, float, np.random.Generator], Pair]
ALL = "all"  # the rule that labels every response, without features or a head
ACQUISITION_RULES = ("all", "random_pair", "delta_ucb", "drts", "max_uncertainty", "infomax")
CHOSEN_ONLY = OnlyIf("rule", other_than=(ALL,))


@dataclass
class AcquisitionConfig:
    """Which responses of a prompt get a label."""

    rule: Annotated[str, Choice("methods.acquisition.ACQUISITION_RULES")] = ALL
    """Rule that chooses the responses. The rule all labels every response. Under every other rule, the choice is random
    in the first step of a run."""
    labels: Annotated[int, Ge(2), Unit("responses per prompt"), CHOSEN_ONLY] = 2
    """Responses of a prompt that get a label. A judge compares every two of them."""
    confidence: Annotated[float, Ge(0), Unit("standard deviations"), OnlyIf("rule", ("delta_ucb",))] = 1.0
    """Width of the confidence bounds."""
    pool: Annotated[int, Ge(1), Unit("times bandit.budget"), CHOSEN_ONLY] = 1
    """Prompts that are drawn and answered, as a multiple of bandit.budget. The bandit.budget prompts with the
    largest predicted gaps between their chosen responses get labels; in the first step these prompts are random."""
    layer: Annotated[int | None, Ge(1), Unit("layer, from 1"), CHOSEN_ONLY] = None
    """Layer whose hidden states, averaged over a response, are its features; null is the middle layer. The states are
    those of the initial policy or, with policy.start, of the model itself."""


def random_pair(head: LinearHead, features: Floats, confidence: float, rng: np.random.Generator) -> Pair:
    """Two random responses: the baseline for all other rules."""
    first, second = rng.permutation(len(features))[:2].tolist()
    return first, second


def delta_ucb(head: LinearHead, features: Floats, confidence: float, rng: np.random.Generator) -> Pair:
    """The pair with the largest plausible gap: argmax over i ≠ j of (r_i + c·sd_i) − (r_j − c·sd_j)."""
    rewards, deviations = head.rewards(features), confidence * head.deviations(features)
    gaps = (rewards + deviations)[:, None] - (rewards - deviations)[None, :]
    return largest_pair(gaps)


def drts(head: LinearHead, features: Floats, confidence: float, rng: np.random.Generator) -> Pair:
    """Double reverse Thompson sampling: the best response under one draw of the weights and the worst under another."""
    best = int(np.argmax(features @ head.draw(rng)))
    rewards = features @ head.draw(rng)
    rewards[best] = np.inf  # the worst of the others
    return best, int(np.argmin(rewards))


def max_uncertainty(head: LinearHead, features: Floats, confidence: float, rng: np.random.Generator) -> Pair:
    """The two responses with the largest standard deviations."""
    first, second = np.argsort(-head.deviations(features), kind="stable")[:2].tolist()
    return first, second


def infomax(head: LinearHead, features: Floats, confidence: float, rng: np.random.Generator) -> Pair:
    """The pair with the least certain gap: the largest standard deviation of the difference."""
    count = len(features)
    differences = (features[:, None, :] - features[None, :, :]).reshape(count * count, -1)
    return largest_pair(head.deviations(differences).reshape(count, count))


def largest_pair(values: Floats) -> Pair:
    """Row and column of the largest off-diagonal entry of [responses, responses]; the first one of a tie."""
    masked = np.where(np.eye(len(values), dtype=bool), -np.inf, values)
    row, column = np.unravel_index(int(np.argmax(masked)), values.shape)
    return int(row), int(column)


ACQUISITIONS: dict[str, Rule] = {
    "random_pair": random_pair,
    "delta_ucb": delta_ucb,
    "drts": drts,
    "max_uncertainty": max_uncertainty,
    "infomax": infomax,
}


def acquire(
    rule: str, head: LinearHead | None, features: Floats, labels: int, confidence: float, rng: np.random.Generator
) -> list[int]:
    """The responses of a prompt to label.

    Args:
        rule (str): Key of ACQUISITIONS.
        head (LinearHead | None): None before the first labels. Every rule is then `random_pair`, so that methods with
            the same seed begin with the same labels.
        features (ndarray): [responses, features].
        labels (int): Number of responses to label. For more than two, the rule is called again on the remaining ones.
        confidence (float): c of `delta_ucb`, in standard deviations.
        rng (Generator): Random numbers of this prompt.

    Returns:
        list[int]: Indices of `labels` different responses, or of all if there are fewer.

    Raises:
        SettingError: There is no such rule.
    """
    choose: Rule = lookup(ACQUISITIONS, rule, "acquisition")
    left: list[int] = list(range(len(features)))
    chosen: list[int] = []
    while len(chosen) < labels and left:
        if len(left) == 1:
            chosen.append(left.pop())
            break
        pair = random_pair if head is None else choose
        # Without a head the rules' arguments are not read.
        first, second = pair(head, features[left], confidence, rng)  # type: ignore[arg-type]
        picked = [left[first], left[second]][: labels - len(chosen)]
        chosen += picked
        left = [response for response in left if response not in picked]
    return chosen
