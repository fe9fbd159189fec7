"""Which preference pairs teach the most: pairs of a prompt's responses, and the metrics that rank them.

Pairs are columns, a dict of arrays of shape [pairs]: `logp_chosen`, `logp_rejected` (nats, summed over the
response), `n_chosen`, `n_rejected` (tokens), `reward_chosen`, `reward_rejected`, `best_worst` (whether the pair
is its prompt's best against its worst response). A larger score is a pair more worth training on.
"""

from collections.abc import Callable, Iterable

import numpy as np

Pairs = dict[str, np.ndarray]


def ordered_pairs(rewards: Iterable[float]) -> tuple[list[tuple[int, int]], int]:
    """All (chosen, rejected) index pairs with reward(chosen) > reward(rejected), and the number of ties."""
    rewards = list(rewards)
    indices = range(len(rewards))
    pairs = [(w, l) for w in indices for l in indices if rewards[w] > rewards[l]]  # noqa: E741
    return pairs, len(rewards) * (len(rewards) - 1) // 2 - len(pairs)


def best_worst_pair(rewards: Iterable[float]) -> tuple[int, int] | None:
    """The first best response against the first worst, or None if all are tied."""
    rewards = list(rewards)
    best, worst = int(np.argmax(rewards)), int(np.argmin(rewards))
    return (best, worst) if rewards[best] > rewards[worst] else None


def pfp(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """N_w·log PPL_w − N_l·log PPL_l = logp(y_l) − logp(y_w): the DPO weight's argument without the reference (DOTA)."""
    return pairs["logp_rejected"] - pairs["logp_chosen"]


def pfp_raw(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """N_w·PPL_w − N_l·PPL_l, as DOTA's code was released: heavy-tailed, kept for comparison."""
    perplexity_chosen = np.exp(-pairs["logp_chosen"] / pairs["n_chosen"])
    perplexity_rejected = np.exp(-pairs["logp_rejected"] / pairs["n_rejected"])
    return pairs["n_chosen"] * perplexity_chosen - pairs["n_rejected"] * perplexity_rejected


def pfp_mean(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """log PPL_w − log PPL_l, per token: PFP without its coupling to length."""
    return pairs["logp_rejected"] / pairs["n_rejected"] - pairs["logp_chosen"] / pairs["n_chosen"]


def reward_gap(pairs: Pairs, rng: np.random.Generator | None = None) -> np.ndarray:
    """r(y_w) − r(y_l)."""
    return pairs["reward_chosen"] - pairs["reward_rejected"]


def random(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """A uniform draw for every pair: the baseline that every selector must beat at equal cost."""
    return rng.random(len(pairs["reward_chosen"]))


def best_worst(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """The reward gap of each prompt's best-against-worst pair; −∞, so never kept, for every other pair."""
    return np.where(pairs["best_worst"], reward_gap(pairs), -np.inf)


METRICS: dict[str, Callable[[Pairs, np.random.Generator], np.ndarray]] = {
    "pfp": pfp,
    "pfp_raw": pfp_raw,
    "pfp_mean": pfp_mean,
    "reward_gap": reward_gap,
    "random": random,
    "best_worst": best_worst,
}


def keep_top(scores: np.ndarray, top_n: int | None) -> np.ndarray:
    """Indices of the `top_n` largest finite scores (all if None), best first; equal scores keep their order."""
    order = np.argsort(-scores, kind="stable")
    order = order[np.isfinite(scores[order])]
    return order if top_n is None else order[:top_n]
