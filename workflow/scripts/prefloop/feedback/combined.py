"""Rewards from several sources: a weighted sum, or the mean of an ensemble and the disagreement of its members."""

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.config.feedback_identity import column_names
from prefloop.config.feedback_settings import MEMBER_KINDS, FeedbackConfig
from prefloop.core.costs import Usage
from prefloop.core.errors import SettingError
from prefloop.core.progress import Progress
from prefloop.feedback.reward_sources import Request, RewardSource

Columns = dict[str, list[float]]
"""Columns of rewards.jsonl for several responses, with `reward` first."""


@dataclass(frozen=True)
class Member:
    """A source of a sum or an ensemble."""

    name: str
    """Its rewards are stored in the column reward_<name>."""
    weight: float
    batch_size: int | None
    """Responses per batch; None if it accepts any number."""
    load: Callable[..., RewardSource]
    """Function that loads it; it takes `key` and `chat` of `load_feedback`."""


def members_of(settings: FeedbackConfig, load: Callable[..., Any]) -> list[Member]:
    """The sources of a sum or an ensemble.

    Args:
        settings: Settings with `sources`.
        load: `load_feedback`; it loads a source from its settings.

    Raises:
        SettingError: There are no sources, or one does not give rewards to single responses.
    """
    if not settings.sources:
        raise SettingError(f"sources: empty, but kind {settings.kind} needs functions or reward models; list them")
    members = []
    names = column_names([vars(source) for source in settings.sources])
    for name, source in zip(names, settings.sources, strict=True):
        if source.kind not in MEMBER_KINDS:
            raise SettingError(f"sources: kind {source.kind} is not one of {', '.join(MEMBER_KINDS)}; use one of these")
        options = {key: value for key, value in vars(source).items() if key not in ("weight", "name")}
        batch_size = source.batch_size if source.kind == "reward_model" else None
        members.append(Member(name, source.weight, batch_size, partial(load, FeedbackConfig(**options))))
    return members


class WeightedSum:
    """A `RewardSource` whose rewards are the weighted sum of its members' rewards.

    Members are loaded one after another: the memory of one is freed before the next is loaded.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Store the members without loading them."""
        self.members = list(members)
        sizes = (member.batch_size for member in members)
        self.batch_size: int | None = min((size for size in sizes if size is not None), default=None)
        # Config key of the settings and a chat.json, for loading the members.
        self.key = "feedback"
        self.chat: Path | None = None
        self.usage = Usage()

    def rewards(self, requests: Sequence[Request]) -> list[float]:
        """The combined reward of each response."""
        return self.columns([requests])[0]["reward"]

    def columns(self, calls: Sequence[Sequence[Request]]) -> list[Columns]:
        """The combined rewards and those of each member. Members are called once per entry of `calls`."""
        by_member = []
        for member in self.members:
            source = member.load(key=f"{self.key}.sources", chat=self.chat)
            with Progress(member.name, sum(map(len, calls)), "response") as progress:
                rewards = []
                for requests in calls:
                    rewards.append(source.rewards(requests))
                    progress.update(len(requests))
            by_member.append(rewards)
            self.usage.parts.append(source.usage)
            del source
            free_memory()
        return [self.combine(np.array(rewards)) for rewards in zip(*by_member, strict=True)]

    def combine(self, rewards: np.ndarray) -> Columns:
        """Columns from `rewards` [members, responses]."""
        weights = np.array([[member.weight] for member in self.members])
        return {"reward": (weights * rewards).sum(axis=0).tolist()} | self.own_columns(rewards)

    def own_columns(self, rewards: np.ndarray) -> Columns:
        """The unweighted rewards of each member."""
        names = [f"reward_{member.name}" for member in self.members]
        return dict(zip(names, rewards.tolist(), strict=True))


class Ensemble(WeightedSum):
    """A `RewardSource` whose rewards are the mean of its members' rewards.

    The column `disagreement` is the standard deviation of a response's rewards over the members, with the number of
    members in the denominator.
    """

    def combine(self, rewards: np.ndarray) -> Columns:
        """Columns from `rewards` [members, responses]."""
        means, deviations = rewards.mean(axis=0), rewards.std(axis=0)
        return {"reward": means.tolist()} | self.own_columns(rewards) | {"disagreement": deviations.tolist()}


def free_memory() -> None:
    """Free the memory of models that are no longer used."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def reward_columns(source: RewardSource, calls: Iterable[Sequence[Request]]) -> Iterator[Columns]:
    """The columns of rewards.jsonl for each call: `reward`, and for a `WeightedSum` those of its members."""
    if isinstance(source, WeightedSum):
        yield from source.columns(list(calls))
        return
    for requests in calls:
        yield {"reward": source.rewards(requests)}
