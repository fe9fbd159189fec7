"""The bandit over prompt clusters: which prompts are worth annotating next (methods of DOTA, Quad and plain baselines).

An arm is a cluster. Its state is four arrays of shape [arms], carried in arms.json over steps and rounds:
`pulls` (prompts drawn so far), `count` and `reward_sum` (discounted), `score` (the last UCB).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from prefloop.rows import InputError, read_json, write_json

PRIOR_MEAN = 0.5  # the mean of a rank-normalised reward: what an arm never pulled is expected to give


@dataclass
class Arms:
    """What is known of every arm; all arrays have shape [arms]."""

    pulls: np.ndarray
    count: np.ndarray
    reward_sum: np.ndarray
    score: np.ndarray

    @classmethod
    def fresh(cls, arms: int) -> "Arms":
        return cls(np.zeros(arms, dtype=int), np.zeros(arms), np.zeros(arms), np.zeros(arms))

    @property
    def mean(self) -> np.ndarray:
        """Discounted mean reward of each arm; the prior mean where nothing was pulled."""
        return np.where(self.count > 0, self.reward_sum / np.maximum(self.count, 1e-12), PRIOR_MEAN)


def update(arms: Arms, clusters: np.ndarray, rewards: np.ndarray, gamma: float) -> Arms:
    """Add one step's prompts: S ← γS + Σh, n ← γn + m for every arm (γ = 1 forgets nothing).

    `clusters` [prompts] is each prompt's arm and `rewards` [prompts] its h in [0, 1].
    """
    size = len(arms.count)
    drawn = np.bincount(clusters, minlength=size)
    return Arms(
        pulls=arms.pulls + drawn,
        count=gamma * arms.count + drawn,
        reward_sum=gamma * arms.reward_sum + np.bincount(clusters, weights=rewards, minlength=size),
        score=arms.score,
    )


def ucb_scores(arms: Arms, alpha: float) -> np.ndarray:
    """Upper confidence bounds μ + α·sqrt(2 ln(Σn + 1) / n), shape [arms].

    DOTA's score. An arm never pulled counts as pulled once with the prior mean, which keeps its bound
    finite, so that proportional shares exist.
    """
    bonus = np.sqrt(2 * np.log(arms.count.sum() + 1) / np.where(arms.count > 0, arms.count, 1))
    return arms.mean + alpha * bonus


def proportional(scores: np.ndarray, budget: int, *, top_k: int) -> np.ndarray:
    """DOTA: want_c = max(1, round(s_c / Σs · budget)), shape [arms]; `settle` makes the sum the budget."""
    positive = np.maximum(scores, 0)
    share = positive / positive.sum() if positive.sum() > 0 else np.full(len(scores), 1 / len(scores))
    return np.maximum(1, np.round(share * budget)).astype(int)


def top_k(scores: np.ndarray, budget: int, *, top_k: int) -> np.ndarray:
    """Quad: the `top_k` best arms share the budget equally, shape [arms]."""
    best = np.argsort(-scores, kind="stable")[:top_k]
    want = np.zeros(len(scores), dtype=int)
    want[best] = budget // len(best)
    want[best[: budget % len(best)]] += 1
    return want


# From config's word to (scores [arms], budget, top_k) -> prompts wanted of each arm [arms]. `uniform` and `all`
# look at no arm: they draw from the prompts themselves.
ALLOCATIONS: dict[str, Callable[..., np.ndarray] | None] = {
    "proportional": proportional,
    "top_k": top_k,
    "uniform": None,
    "all": None,
}


def settle(allocate: Callable[..., np.ndarray], scores: np.ndarray, available: np.ndarray, budget: int) -> np.ndarray:
    """Prompts of each arm [arms]: never above its `available` ones, in sum exactly `budget` (at most Σ available).

    What an exhausted arm cannot give is allocated anew among the arms that still have prompts; what rounding
    gave too much is taken back one at a time from the worst arms, from their last prompt only if need be.
    """
    got = np.zeros(len(scores), dtype=int)
    while (missing := budget - got.sum()) > 0:
        open_arms = np.flatnonzero(available > got)
        got[open_arms] += allocate(scores[open_arms], missing)
        got = np.minimum(got, available)
    worst_first = np.argsort(scores, kind="stable")
    while (excess := got.sum() - budget) > 0:
        keep = 1 if (got > 1).any() else 0
        got[worst_first[got[worst_first] > keep][:excess]] -= 1
    return got


def draw(
    allocation: str,
    arms: Arms,
    clusters: np.ndarray,
    times: np.ndarray,
    budget: int,
    rng: np.random.Generator,
    *,
    alpha: float = 1.0,
    top_k: int = 10,
    reuse: bool = False,
) -> np.ndarray:
    """Which prompts to annotate in this step: indices [budget] into the prompts, in increasing order.

    `clusters` [prompts] is each prompt's arm, `times` [prompts] how often this run has annotated it. Within
    an arm prompts are drawn uniformly without replacement, and none twice in a run while fresh ones remain.
    Raises InputError if fewer than `budget` are fresh, unless `reuse`; and if there are fewer at all.
    """
    fresh = np.flatnonzero(times == (times.min() if reuse else 0))
    if budget > (len(times) if reuse else len(fresh)):
        raise InputError(
            f"bandit.budget asks for {budget} prompts, but {len(fresh)} of {len(times)} are left that this run has not "
            "annotated; lower bandit.budget, rounds or steps, add prompts, or set bandit.reuse: true"
        )
    if budget > len(fresh):  # the last fresh ones, and the rest from those annotated least often
        again = draw(
            allocation, arms, clusters[times > times.min()], times[times > times.min()], budget - len(fresh), rng,
            alpha=alpha, top_k=top_k, reuse=True,
        )  # fmt: skip
        return np.sort(np.concatenate([fresh, np.flatnonzero(times > times.min())[again]]))
    if ALLOCATIONS[allocation] is None:
        return np.sort(rng.choice(fresh, size=budget, replace=False))
    scores = ucb_scores(arms, alpha)
    available = np.bincount(clusters[fresh], minlength=len(scores))
    wanted = settle(partial(ALLOCATIONS[allocation], top_k=top_k), scores, available, budget)
    shuffled = rng.permutation(fresh)
    by_arm = shuffled[np.argsort(clusters[shuffled], kind="stable")]
    start = np.concatenate([[0], np.cumsum(available)[:-1]])
    return np.sort(np.concatenate([by_arm[s : s + n] for s, n in zip(start, wanted, strict=True)]))


def take_share(prompts: int, step: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Allocation `all`: the step's share (1-based) of all prompts, so that a round annotates each exactly once.

    The generator must be the round's, the same for every step.
    """
    order = rng.permutation(prompts)
    return np.sort(np.array_split(order, steps)[step - 1])


def write_arms(path: Path, arms: Arms, **where: int) -> None:
    """Write arms.json: `where` (round and step) and one object an arm."""
    columns = (
        arms.pulls.tolist(),
        arms.count.tolist(),
        arms.reward_sum.tolist(),
        arms.mean.tolist(),
        arms.score.tolist(),
    )
    names = ("pulls", "count", "reward_sum", "mean", "score")
    rows = [
        {"cluster": c} | dict(zip(names, values, strict=True)) for c, values in enumerate(zip(*columns, strict=True))
    ]
    write_json(path, where | {"arms": rows})


def read_arms(path: Path) -> Arms:
    """Read arms.json; InputError if it is none."""
    try:
        rows = read_json(path)["arms"]
        columns = {name: np.array([row[name] for row in rows]) for name in ("pulls", "count", "reward_sum", "score")}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not an arms file: missing {error}") from error
    return Arms(**columns)
