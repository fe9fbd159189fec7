"""Which responses of a prompt are labeled, before any of them is: one rule per entry of ACQUISITIONS.

A rule sees features of a prompt's responses and a head that was fitted to earlier labels (`reward_head`). It returns
two responses; `acquire` asks it again for more labels. Names and formulas follow ActiveUltraFeedback (arXiv
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
# Rule(head, features [responses, features], confidence, rng): two different responses.
Rule = Callable[[LinearHead, Floats, float, np.random.Generator], Pair]
ALL = "all"  # the rule that labels every response, without features or a head
ACQUISITION_RULES = ("all", "random_pair", "delta_ucb", "drts", "max_uncertainty", "infomax")
CHOSEN_ONLY = OnlyIf("rule", other_than=(ALL,))


@dataclass
class AcquisitionConfig:
    """Which responses of a prompt get a label, before any of them has one."""

    rule: Annotated[str, Choice("methods.acquisition.ACQUISITION_RULES")] = ALL
    """Rule that chooses the responses; all labels every response. The first step of a run is random under every other
    rule."""
    labels: Annotated[int, Ge(2), Unit("responses per prompt"), CHOSEN_ONLY] = 2
    """Responses of a prompt that get a label. A judge compares every two of them."""
    confidence: Annotated[float, Ge(0), Unit("standard deviations"), OnlyIf("rule", ("delta_ucb",))] = 1.0
    """Width of the confidence bounds."""
    pool: Annotated[int, Ge(1), Unit("times bandit.budget"), CHOSEN_ONLY] = 1
    """How many times bandit.budget prompts are drawn and answered. Those with the largest predicted gap between the
    chosen responses get labels, bandit.budget of them; in the first step they are random."""
    layer: Annotated[int | None, Ge(1), Unit("layer, from 1"), CHOSEN_ONLY] = None
    """Layer whose mean state over a response is its features, in the initial policy or, with policy.start, in the model
    itself; null is the middle layer."""


def random_pair(head: LinearHead, features: Floats, confidence: float, rng: np.random.Generator) -> Pair:
    """Two responses at random: what every other rule is compared with."""
    first, second = rng.permutation(len(features))[:2].tolist()
    return first, second


def delta_ucb(head: LinearHead, features: Floats, confidence: float, rng: np.random.Generator) -> Pair:
    """The largest gap that is still plausible: argmax over i ≠ j of (r_i + c·sd_i) − (r_j − c·sd_j)."""
    rewards, deviations = head.rewards(features), confidence * head.deviations(features)
    gaps = (rewards + deviations)[:, None] - (rewards - deviations)[None, :]
    return largest_pair(gaps)


def drts(head: LinearHead, features: Floats, confidence: float, rng: np.random.Generator) -> Pair:
    """Double reverse Thompson sampling: the best response under one draw of the weights, the worst under another."""
    best = int(np.argmax(features @ head.draw(rng)))
    rewards = features @ head.draw(rng)
    rewards[best] = np.inf  # the worst of the others
    return best, int(np.argmin(rewards))


def max_uncertainty(head: LinearHead, features: Floats, confidence: float, rng: np.random.Generator) -> Pair:
    """The two responses with the largest standard deviations."""
    first, second = np.argsort(-head.deviations(features), kind="stable")[:2].tolist()
    return first, second


def infomax(head: LinearHead, features: Floats, confidence: float, rng: np.random.Generator) -> Pair:
    """The pair whose gap is least certain: the largest standard deviation of the difference."""
    count = len(features)
    differences = (features[:, None, :] - features[None, :, :]).reshape(count * count, -1)
    return largest_pair(head.deviations(differences).reshape(count, count))


def largest_pair(values: Floats) -> Pair:
    """Row and column of the largest entry off the diagonal of [responses, responses]; the first one of equal ones."""
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
        rule (str): Word of ACQUISITIONS.
        head (LinearHead | None): None before the first labels: then every rule is `random_pair`, so that methods with
            the same seed begin with the same labels.
        features (ndarray): [responses, features].
        labels (int): How many to label. Above two the rule is asked again about the responses that are left.
        confidence (float): c of `delta_ucb`, in standard deviations.
        rng (Generator): Random numbers of this prompt.

    Returns:
        list[int]: Different responses, `labels` of them, or all if there are fewer.

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
