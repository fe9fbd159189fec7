"""The bandit over prompt clusters, which chooses the prompts to annotate.

In each step, `score_arms` gives every arm a score, and `draw_prompts` draws the prompts. An allocation decides how many
prompts each arm should get, `settle_allocation` makes these numbers feasible, and prompts within an arm are drawn at
random. `update_arms` then adds the rewards h of these prompts. They are normalized pair metrics, not rewards of
responses.

An arm is a cluster. The state of all arms is five arrays of shape [arms], which arms.json stores after every step:
`pulls` (annotated prompts so far), `count` and `reward_sum` (both discounted), `log_weight` (of exp3) and `score` (the
last upper confidence bound).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol

import numpy as np
from annotated_types import Ge, Gt, Le

from prefloop.core.errors import SettingError, short_repr
from prefloop.core.metadata import Choice, OnlyIf, Unit
from prefloop.core.registry import lookup

UNKNOWN_MEAN = 0.5  # mean of a rank-normalized reward, used before any reward is known
ARM_FIELDS = ("pulls", "count", "reward_sum", "log_weight", "score")


@dataclass
class BanditConfig:
    """Which prompts are annotated."""

    allocation: Annotated[str, Choice("methods.bandit.ALLOCATIONS", functions=True)] = "proportional"
    """How the prompts of a step are allocated to clusters."""
    budget: Annotated[int, Ge(1), Unit("prompts per step")] = 512
    """Prompts to annotate. The allocation all ignores it and annotates every prompt once per round."""
    metric: Annotated[str, Choice("methods.pair_metrics.METRICS", functions=True)] = "pfp"
    """Metric that gives the reward of a prompt for its arm, computed on the pair of its best and worst responses."""
    normalize: Literal["rank", "identity"] = "rank"
    """Use the rank of the metric within the step, in [0, 1], or the metric itself."""
    alpha: Annotated[float, Ge(0), Unit("units of an arm's mean reward")] = 1.0
    """Width of the upper confidence bound."""
    gamma: Annotated[float, Gt(0), Le(1), Unit("fraction")] = 1.0
    """Discount of earlier steps, applied once per step; 1 is no discount."""
    top_k: Annotated[int, Ge(1), Unit("arms"), OnlyIf("allocation", ("top_k",))] = 10
    """Arms that share the budget."""
    temperature: Annotated[float, Gt(0), Unit("units of score"), OnlyIf("allocation", ("softmax",))] = 0.1
    """τ of the shares exp(score / τ); a small τ is greedy."""
    exploration: Annotated[float, Gt(0), Le(1), Unit("fraction"), OnlyIf("allocation", ("exp3",))] = 0.1
    """γ': the fraction of draws that are uniform, and the step size of the weights."""
    neighbors: Annotated[int, Ge(0), Unit("arms")] = 0
    """Number of nearest arms whose rewards also count for an arm; 0 keeps arms independent."""
    neighbor_weight: Annotated[float, Ge(0), Le(1), Unit("prompts")] = 0.5
    """Weight of a neighbor's prompts. An arm's own prompts have weight 1."""
    reuse: bool = False
    """Annotate prompts again after all have been annotated; if false, the run stops with an error instead."""


@dataclass
class Arms:
    """The state of all arms (see the module); every array has shape [arms]."""

    pulls: np.ndarray
    count: np.ndarray
    reward_sum: np.ndarray
    log_weight: np.ndarray
    score: np.ndarray

    @classmethod
    def fresh(cls, arms: int) -> "Arms":
        """Arms before any prompt was drawn."""
        return cls(np.zeros(arms, dtype=int), *(np.zeros(arms) for _ in ARM_FIELDS[1:]))

    @property
    def mean(self) -> np.ndarray:
        """Discounted mean reward of each arm; the mean over all arms for an arm that was never pulled."""
        total = self.count.sum()
        unknown = self.reward_sum.sum() / total if total > 0 else UNKNOWN_MEAN
        return np.where(self.count > 0, self.reward_sum / np.maximum(self.count, 1e-12), unknown)

    def select(self, indices: np.ndarray) -> "Arms":
        """The arms with the given indices."""
        return Arms(*(getattr(self, name)[indices] for name in ARM_FIELDS))


class Allocation(Protocol):
    """Decides how many prompts of the budget each arm should get; `settle_allocation` makes that feasible."""

    def __call__(self, arms: Arms, budget: int, rng: np.random.Generator, settings: BanditConfig, /) -> np.ndarray:
        """Number of prompts wanted from each arm, int [arms]; at least one in total."""


def update_arms(arms: Arms, clusters: np.ndarray, rewards: np.ndarray, gamma: float, exploration: float = 0.1) -> Arms:
    """Add one step's prompts: S ← γS + Σh and n ← γn + m for every arm, and the weights of exp3.

    Every prompt multiplies its arm's weight by exp(γ'·h/(K·p)) (LEAD, Auer et al. 2002). This is unbiased as long as
    arms are drawn with probabilities p, that is, until an arm has no fresh prompts left, and with `acquisition.pool` 1.

    Args:
        arms: The state before the step.
        clusters (np.ndarray): [prompts], each prompt's arm.
        rewards (np.ndarray): [prompts], each prompt's h.
        gamma: Discount γ; 1 is no discount.
        exploration: γ' of exp3.
    """
    size = len(arms.count)
    drawn = np.bincount(clusters, minlength=size)
    gained = np.bincount(clusters, weights=rewards, minlength=size)
    weight = arms.log_weight + exploration * gained / (size * exp3_probabilities(arms.log_weight, exploration))
    return replace(
        arms,
        pulls=arms.pulls + drawn,
        count=gamma * arms.count + drawn,
        reward_sum=gamma * arms.reward_sum + gained,
        log_weight=weight - weight.max(),  # only differences matter, and these cannot overflow
    )


def nearest_arms(centroids: np.ndarray, count: int) -> np.ndarray:
    """Indices [arms, count] of the `count` nearest other arms of each arm, by distance of centroids [arms, width]."""
    squares = (centroids**2).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * centroids @ centroids.T
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, : min(count, len(centroids) - 1)]


def pool_neighbors(arms: Arms, neighbors: np.ndarray, weight: float) -> Arms:
    """The arms with `weight` times the counts and rewards of their neighbors [arms, k] added (Quad)."""
    return replace(
        arms,
        count=arms.count + weight * arms.count[neighbors].sum(axis=1),
        reward_sum=arms.reward_sum + weight * arms.reward_sum[neighbors].sum(axis=1),
    )


def ucb_scores(arms: Arms, alpha: float) -> np.ndarray:
    """Upper confidence bounds μ + α·sqrt(2 ln(Σn + 1) / n), shape [arms], in units of the normalized reward.

    DOTA's score: UCB1 (Auer et al. 2002) with the factor α and the summand 1. An arm that was never pulled counts as
    pulled once with the mean reward of all arms, so that its bound is finite and proportional shares exist. If a
    discount or `neighbors` give another arm a count below 1, it has this count: no known arm has a larger bonus.
    """
    known = arms.count > 0
    unknown = arms.count[known].min(initial=1)
    bonus = np.sqrt(2 * np.log(arms.count.sum() + 1) / np.where(known, arms.count, unknown))
    return arms.mean + alpha * bonus


def in_order(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices that sort values [arms] in increasing order; equal ones are in random order.

    All seeds share the clusters. With ties in the order of the clusters, all seeds would prefer the same arms.
    The numbers are of a child of `rng`, so draws that follow are the same with and without ties.
    """
    return np.lexsort((rng.spawn(1)[0].random(len(values)), values))


def proportional(arms: Arms, budget: int, rng: np.random.Generator, settings: BanditConfig) -> np.ndarray:
    """DOTA: max(1, round(s_c / Σs · budget)) prompts of arm c. `settle_allocation` adjusts the sum to the budget."""
    positive = np.maximum(arms.score, 0)
    share = positive / positive.sum() if positive.sum() > 0 else np.full(len(positive), 1 / len(positive))
    return np.maximum(1, np.round(share * budget)).astype(int)


def top_k(arms: Arms, budget: int, rng: np.random.Generator, settings: BanditConfig) -> np.ndarray:
    """Quad: the `top_k` best arms share the budget equally (arXiv 2409.16986)."""
    best = in_order(-arms.score, rng)[: settings.top_k]
    wanted = np.zeros(len(arms.score), dtype=int)
    wanted[best] = budget // len(best)
    wanted[best[: budget % len(best)]] += 1
    return wanted


def softmax(arms: Arms, budget: int, rng: np.random.Generator, settings: BanditConfig) -> np.ndarray:
    """Shares proportional to exp(s/τ) (Boltzmann exploration), rounded to integers with the smallest error."""
    odds = np.exp((arms.score - arms.score.max()) / settings.temperature)
    exact = odds / odds.sum() * budget
    wanted = np.floor(exact).astype(int)
    wanted[in_order(wanted - exact, rng)[: budget - wanted.sum()]] += 1
    return wanted


def exp3(arms: Arms, budget: int, rng: np.random.Generator, settings: BanditConfig) -> np.ndarray:
    """LEAD: each prompt's arm is drawn with p = (1−γ')·w/Σw + γ'/K (Auer et al. 2002)."""
    return rng.multinomial(budget, exp3_probabilities(arms.log_weight, settings.exploration))


def exp3_probabilities(log_weight: np.ndarray, exploration: float) -> np.ndarray:
    """(1−γ')·w/Σw + γ'/K, shape [arms] (Auer et al. 2002)."""
    weight = np.exp(log_weight - log_weight.max())
    return (1 - exploration) * weight / weight.sum() + exploration / len(weight)


def thompson(arms: Arms, budget: int, rng: np.random.Generator, settings: BanditConfig) -> np.ndarray:
    """Each prompt goes to the arm with the largest draw from Beta(1 + S, 1 + n − S); rewards are in [0, 1].

    Source: Agrawal and Goyal 2012 (arXiv 1111.1797), with the reward itself instead of a Bernoulli trial.
    """
    lost = np.maximum(arms.count - arms.reward_sum, 0)
    won = np.zeros(len(lost), dtype=int)
    for done in range(0, budget, 1000):  # draws for the whole budget at once may not fit in memory
        draws = rng.beta(1 + arms.reward_sum, 1 + lost, size=(min(1000, budget - done), len(lost)))
        won += np.bincount(draws.argmax(axis=1), minlength=len(lost))
    return won


# Allocations that are None ignore the arms: `uniform` draws from all fresh prompts, `all` annotates every prompt.
ALLOCATIONS: dict[str, Allocation | None] = {
    "proportional": proportional,
    "top_k": top_k,
    "softmax": softmax,
    "exp3": exp3,
    "thompson": thompson,
    "uniform": None,
    "all": None,
}
AT_RANDOM = ("uniform", "all")  # allocations that ignore the arms


def settle_allocation(
    allocate: Callable[[Arms, int], np.ndarray],
    arms: Arms,
    available: np.ndarray,
    budget: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Turn the wanted numbers of prompts into feasible ones that sum to the budget.

    If an arm has too few fresh prompts, the missing ones are allocated again among the other arms. An excess from
    rounding is removed one prompt at a time from the arms with the lowest scores. An arm loses its last prompt only if
    necessary.

    Args:
        allocate: An allocation: a function from arms and budget to wanted prompts per arm.
        arms: All arms, with scores.
        available (np.ndarray): [arms], fresh prompts of each arm.
        budget: At most Σ available.
        rng: Random numbers for the order of arms with equal scores.

    Returns:
        np.ndarray: [arms], prompts per arm.

    Raises:
        SettingError: The allocation, which may be a function of the user, does not return one count per arm.
    """
    counts = np.zeros(len(available), dtype=int)
    while (missing := budget - counts.sum()) > 0:
        open_arms = np.flatnonzero(available > counts)
        counts[open_arms] += checked_counts(allocate(arms.select(open_arms), missing), len(open_arms))
        counts = np.minimum(counts, available)
    worst_first = in_order(arms.score, rng)
    while (excess := counts.sum() - budget) > 0:
        keep = 1 if (counts > 1).any() else 0
        counts[worst_first[counts[worst_first] > keep][:excess]] -= 1
    return counts


def checked_counts(counts: np.ndarray, arms: int) -> np.ndarray:
    """Return what an allocation returned as integers, [arms]; SettingError if these are no counts or all 0."""
    array = np.asarray(counts)
    if array.shape != (arms,) or array.dtype.kind not in "iuf" or (array < 0).any() or (array % 1 != 0).any():
        raise SettingError(f"allocation: returned {short_repr(counts)}, expected {arms} counts of prompts, one per arm")
    if not array.any():
        raise SettingError("allocation: returned 0 for every arm, expected at least one prompt")
    return array.astype(int)


def draw_prompts(
    arms: Arms, clusters: np.ndarray, times: np.ndarray, budget: int, rng: np.random.Generator, settings: BanditConfig
) -> np.ndarray:
    """Draw the prompts of one step.

    Within an arm, prompts are drawn uniformly without replacement. With `settings.reuse`, a prompt is drawn again only
    after all prompts have been drawn.

    Args:
        arms: All arms, with scores.
        clusters (np.ndarray): [prompts], each prompt's arm.
        times (np.ndarray): [prompts], how often this run has annotated each prompt.
        budget: Prompts to draw.
        rng: Random numbers of this step.
        settings: The allocation, its settings, and whether prompts may be annotated again.

    Returns:
        np.ndarray: Increasing indices of prompts, [budget].

    Raises:
        SettingError: There are fewer prompts than `budget`, or fewer fresh ones without `settings.reuse`.
    """
    fresh = np.flatnonzero(times == (times.min() if settings.reuse else 0))
    if budget > len(times):
        raise SettingError(f"budget: {budget} prompts, but there are only {len(times)}; lower it or add prompts")
    if budget > len(fresh) and not settings.reuse:
        raise SettingError(
            f"budget: {budget} prompts, but only {len(fresh)} of {len(times)} are left to annotate in this run; "
            "lower the budget, rounds or steps, add prompts, or set reuse: true"
        )
    if budget > len(fresh):  # all fresh prompts, and the others from those annotated least often
        rest = np.flatnonzero(times > times.min())
        again = draw_prompts(arms, clusters[rest], times[rest], budget - len(fresh), rng, settings)
        return np.sort(np.concatenate([fresh, rest[again]]))
    allocate = lookup(ALLOCATIONS, settings.allocation, "allocation")
    if allocate is None:
        return np.sort(rng.choice(fresh, size=budget, replace=False))
    available = np.bincount(clusters[fresh], minlength=len(arms.score))
    counts = settle_allocation(
        lambda open_arms, missing: allocate(open_arms, missing, rng, settings), arms, available, budget, rng
    )
    shuffled = rng.permutation(fresh)
    by_arm = shuffled[np.argsort(clusters[shuffled], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(available)[:-1]])
    return np.sort(np.concatenate([by_arm[s : s + n] for s, n in zip(starts, counts, strict=True)]))


def score_arms(arms: Arms, centroids: np.ndarray, settings: BanditConfig) -> Arms:
    """The arms with upper confidence bounds as scores, which include the rewards of neighbors with `neighbors` > 0."""
    if settings.neighbors:
        arms = pool_neighbors(arms, nearest_arms(centroids, settings.neighbors), settings.neighbor_weight)
    return replace(arms, score=ucb_scores(arms, settings.alpha))


def draw_share(prompts: int, step: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Allocation `all`: indices of the prompts of one step (from 1). The steps of a round annotate each prompt once.

    `rng` must be in the same state for every step of a round.
    """
    order = rng.permutation(prompts)
    return np.sort(np.array_split(order, steps)[step - 1])
