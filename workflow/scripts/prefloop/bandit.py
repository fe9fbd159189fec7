"""The bandit over prompt clusters: which prompts are worth annotating next.

In each step `scored` gives every arm a score, `draw` shares the budget out by it (an allocation says how many prompts
it wants of each arm, `settle` makes that possible) and picks prompts within arms by chance, and `update` takes in what
they were worth: their rewards h, which are normalised metrics of pairs and not the rewards of responses.

An arm is a cluster. Its state is five arrays of shape [arms], carried in arms.json over steps and rounds:
`pulls` (prompts drawn so far), `count` and `reward_sum` (discounted), `log_weight` (exp3's), `score` (the last UCB).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefloop.rows import InputError, choice, read_json, write_json

UNKNOWN_MEAN = 0.5  # of a rank-normalised reward, before any was seen
FIELDS = ("pulls", "count", "reward_sum", "log_weight", "score")


@dataclass
class Bandit:
    """How arms are scored and shared out; the names are those of config's `bandit`."""

    allocation: str = "proportional"
    """Word of ALLOCATIONS."""
    alpha: float = 1.0
    """Width of the upper confidence bound."""
    top_k: int = 10
    """top_k: arms that share the budget."""
    temperature: float = 0.1
    """softmax: τ, in units of score; small is greedy."""
    exploration: float = 0.1
    """exp3: γ', the share of draws that is uniform, and the step of the weights."""
    neighbours: int = 0
    """Nearest arms whose rewards count for an arm too; 0 keeps every arm to itself."""
    neighbour_weight: float = 0.5
    """How much a neighbour's prompt counts, where an arm's own counts 1."""


@dataclass
class Arms:
    """What is known of every arm; all arrays have shape [arms]."""

    pulls: np.ndarray
    count: np.ndarray
    reward_sum: np.ndarray
    log_weight: np.ndarray
    score: np.ndarray

    @classmethod
    def fresh(cls, arms: int) -> "Arms":
        return cls(np.zeros(arms, dtype=int), *(np.zeros(arms) for _ in FIELDS[1:]))

    @property
    def mean(self) -> np.ndarray:
        """Discounted mean reward of each arm; that of all arms together where nothing was pulled."""
        total = self.count.sum()
        unknown = self.reward_sum.sum() / total if total > 0 else UNKNOWN_MEAN
        return np.where(self.count > 0, self.reward_sum / np.maximum(self.count, 1e-12), unknown)

    def only(self, which: np.ndarray) -> "Arms":
        """The arms that `which` indexes."""
        return Arms(*(getattr(self, name)[which] for name in FIELDS))


def update(arms: Arms, clusters: np.ndarray, rewards: np.ndarray, gamma: float, exploration: float = 0.1) -> Arms:
    """Add one step's prompts: S ← γS + Σh, n ← γn + m for every arm (γ = 1 forgets nothing), and exp3's weights.

    `clusters` [prompts] is each prompt's arm and `rewards` [prompts] its h. Every prompt multiplies its arm's weight
    by exp(γ'·h/(K·p)), unbiased while the arm was drawn with probability p, that is until arms run out of fresh
    prompts (LEAD, Auer et al. 2002).
    """
    size = len(arms.count)
    drawn = np.bincount(clusters, minlength=size)
    gained = np.bincount(clusters, weights=rewards, minlength=size)
    weight = arms.log_weight + exploration * gained / (size * exp3_probabilities(arms.log_weight, exploration))
    return Arms(
        pulls=arms.pulls + drawn,
        count=gamma * arms.count + drawn,
        reward_sum=gamma * arms.reward_sum + gained,
        log_weight=weight - weight.max(),  # only differences matter, and these cannot overflow
        score=arms.score,
    )


def neighbours_of(centroids: np.ndarray, count: int) -> np.ndarray:
    """The `count` nearest other arms of each arm, by distance of centroids [arms, width]: indices [arms, count]."""
    square = (centroids**2).sum(axis=1)
    distance = square[:, None] + square[None] - 2 * centroids @ centroids.T
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, : min(count, len(centroids) - 1)]


def shared(arms: Arms, neighbours: np.ndarray, weight: float) -> Arms:
    """The arms with `weight` times their neighbours' counts and rewards [arms, k] added to their own (Quad)."""
    return Arms(
        arms.pulls,
        arms.count + weight * arms.count[neighbours].sum(axis=1),
        arms.reward_sum + weight * arms.reward_sum[neighbours].sum(axis=1),
        arms.log_weight,
        arms.score,
    )


def ucb_scores(arms: Arms, alpha: float) -> np.ndarray:
    """Upper confidence bounds μ + α·sqrt(2 ln(Σn + 1) / n), shape [arms], in units of the normalised reward.

    DOTA's score, which is UCB1 (Auer et al. 2002) but for α and the 1. An arm never pulled counts as pulled once with
    the mean of all, which keeps its bound finite, so that proportional shares exist.
    """
    bonus = np.sqrt(2 * np.log(arms.count.sum() + 1) / np.where(arms.count > 0, arms.count, 1))
    return arms.mean + alpha * bonus


def proportional(arms: Arms, budget: int, rng: np.random.Generator, settings: Bandit) -> np.ndarray:
    """DOTA: want_c = max(1, round(s_c / Σs · budget)); `settle` makes the sum the budget."""
    positive = np.maximum(arms.score, 0)
    share = positive / positive.sum() if positive.sum() > 0 else np.full(len(positive), 1 / len(positive))
    return np.maximum(1, np.round(share * budget)).astype(int)


def top_k(arms: Arms, budget: int, rng: np.random.Generator, settings: Bandit) -> np.ndarray:
    """Quad: the `top_k` best arms share the budget equally (arXiv 2409.16986)."""
    best = np.argsort(-arms.score, kind="stable")[: settings.top_k]
    want = np.zeros(len(arms.score), dtype=int)
    want[best] = budget // len(best)
    want[best[: budget % len(best)]] += 1
    return want


def softmax(arms: Arms, budget: int, rng: np.random.Generator, settings: Bandit) -> np.ndarray:
    """Shares proportional to exp(s/τ), Boltzmann exploration, rounded to whole prompts with the least error."""
    odds = np.exp((arms.score - arms.score.max()) / settings.temperature)
    exact = odds / odds.sum() * budget
    want = np.floor(exact).astype(int)
    want[np.argsort(want - exact, kind="stable")[: budget - want.sum()]] += 1
    return want


def exp3(arms: Arms, budget: int, rng: np.random.Generator, settings: Bandit) -> np.ndarray:
    """LEAD: every prompt's arm is drawn with p = (1−γ')·w/Σw + γ'/K (Auer et al. 2002)."""
    return rng.multinomial(budget, exp3_probabilities(arms.log_weight, settings.exploration))


def exp3_probabilities(log_weight: np.ndarray, exploration: float) -> np.ndarray:
    """(1−γ')·w/Σw + γ'/K, shape [arms] (Auer et al. 2002)."""
    weight = np.exp(log_weight - log_weight.max())
    return (1 - exploration) * weight / weight.sum() + exploration / len(weight)


def thompson(arms: Arms, budget: int, rng: np.random.Generator, settings: Bandit) -> np.ndarray:
    """For every prompt the arm whose mean is largest in a draw from Beta(1 + S, 1 + n − S); rewards lie in [0, 1].

    Source: Agrawal and Goyal 2012 (arXiv 1111.1797), with the reward itself in the place of a coin that shows it.
    """
    lost = np.maximum(arms.count - arms.reward_sum, 0)
    won = np.zeros(len(lost), dtype=int)
    for done in range(0, budget, 1000):  # a matrix of the whole budget may not fit in memory
        draws = rng.beta(1 + arms.reward_sum, 1 + lost, size=(min(1000, budget - done), len(lost)))
        won += np.bincount(draws.argmax(axis=1), minlength=len(lost))
    return won


# From config's word to (arms, budget, rng, settings) -> prompts wanted of each arm, int [arms], one or more in all;
# `settle` makes of them what there is and the budget in sum. `uniform` and `all` look at no arm: they draw from the
# prompts themselves.
ALLOCATIONS: dict[str, Callable[..., np.ndarray] | None] = {
    "proportional": proportional,
    "top_k": top_k,
    "softmax": softmax,
    "exp3": exp3,
    "thompson": thompson,
    "uniform": None,
    "all": None,
}
AT_RANDOM = ("uniform", "all")  # of these, the ones that look at no arm


def settle(allocate: Callable[[Arms, int], np.ndarray], arms: Arms, available: np.ndarray, budget: int) -> np.ndarray:
    """Prompts of each arm [arms]: never above its `available` ones, in sum exactly `budget` (at most Σ available).

    What an exhausted arm cannot give is allocated anew among the arms that still have prompts; what rounding
    gave too much is taken back one at a time from the worst arms, from their last prompt only if need be.
    """
    got = np.zeros(len(available), dtype=int)
    while (missing := budget - got.sum()) > 0:
        open_arms = np.flatnonzero(available > got)
        got[open_arms] += allocate(arms.only(open_arms), missing)
        got = np.minimum(got, available)
    worst_first = np.argsort(arms.score, kind="stable")
    while (excess := got.sum() - budget) > 0:
        keep = 1 if (got > 1).any() else 0
        got[worst_first[got[worst_first] > keep][:excess]] -= 1
    return got


def draw(
    arms: Arms,
    clusters: np.ndarray,
    times: np.ndarray,
    budget: int,
    rng: np.random.Generator,
    settings: Bandit,
    *,
    reuse: bool = False,
) -> np.ndarray:
    """Which prompts to annotate in this step: indices [budget] into the prompts, in increasing order.

    `arms` carry their scores; `clusters` [prompts] is each prompt's arm, `times` [prompts] how often this run has
    annotated it. Within an arm prompts are drawn uniformly without replacement, and none twice in a run while
    fresh ones remain. Raises InputError if fewer than `budget` are fresh, unless `reuse`; and if there are
    fewer at all.
    """
    fresh = np.flatnonzero(times == (times.min() if reuse else 0))
    if budget > (len(times) if reuse else len(fresh)):
        raise InputError(
            f"bandit.budget asks for {budget} prompts, but {len(fresh)} of {len(times)} are left that this run has not "
            "annotated; lower bandit.budget, rounds or steps, add prompts, or set bandit.reuse: true"
        )
    if budget > len(fresh):  # the last fresh ones, and the rest from those annotated least often
        rest = np.flatnonzero(times > times.min())
        again = draw(arms, clusters[rest], times[rest], budget - len(fresh), rng, settings, reuse=True)
        return np.sort(np.concatenate([fresh, rest[again]]))
    allocate = choice(ALLOCATIONS, settings.allocation, "bandit.allocation")
    if allocate is None:
        return np.sort(rng.choice(fresh, size=budget, replace=False))
    available = np.bincount(clusters[fresh], minlength=len(arms.score))
    wanted = settle(lambda open_arms, missing: allocate(open_arms, missing, rng, settings), arms, available, budget)
    shuffled = rng.permutation(fresh)
    by_arm = shuffled[np.argsort(clusters[shuffled], kind="stable")]
    start = np.concatenate([[0], np.cumsum(available)[:-1]])
    return np.sort(np.concatenate([by_arm[s : s + n] for s, n in zip(start, wanted, strict=True)]))


def scored(arms: Arms, centroids: np.ndarray, settings: Bandit) -> Arms:
    """The arms with their upper confidence bounds as scores, and their neighbours' rewards counted if asked for."""
    if settings.neighbours:
        arms = shared(arms, neighbours_of(centroids, settings.neighbours), settings.neighbour_weight)
    return Arms(arms.pulls, arms.count, arms.reward_sum, arms.log_weight, ucb_scores(arms, settings.alpha))


def take_share(prompts: int, step: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Allocation `all`: the step's share (1-based) of all prompts, so that a round annotates each exactly once.

    The generator must be the round's, the same for every step.
    """
    order = rng.permutation(prompts)
    return np.sort(np.array_split(order, steps)[step - 1])


def write_arms(path: Path, arms: Arms, **where: int) -> None:
    """Write arms.json: `where` (round and step) and one object an arm, its mean reward included."""
    columns = {name: getattr(arms, name).tolist() for name in (*FIELDS, "mean")}
    rows = [{"cluster": c} | {name: values[c] for name, values in columns.items()} for c in range(len(arms.count))]
    write_json(path, where | {"arms": rows})


def read_arms(path: Path) -> Arms:
    """Read arms.json; InputError if it is none."""
    try:
        rows = read_json(path)["arms"]
        return Arms(*(np.array([row[name] for row in rows]) for name in FIELDS))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not an arms file: missing {error}; make it again") from error


def arms_before(path: Path | None, k: int, clusters: Path) -> Arms:
    """The arms of arms.json, or fresh ones where there is none yet; InputError if there are not `k` of them."""
    if path is None:
        return Arms.fresh(k)
    arms = read_arms(path)
    if len(arms.count) != k:
        raise InputError(f"{path}: {len(arms.count)} arms, expected {k} as {clusters} has clusters; make it again")
    return arms
