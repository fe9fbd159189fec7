"""Pairs of a prompt's responses, and the metrics that select which of them to train on.

Pairs are columns, a dict of arrays of shape [pairs]: `logp_*` and `logp_ref_*` of chosen and rejected (nats, summed
over the response), `n_*` (tokens), `reward_*`, `best_worst` (whether the pair is its prompt's best response against its
worst), `truncated` (whether either response reached the maximum number of tokens), `preference_variance` (of all
responses to its prompt), with an ensemble `gap_deviation` (standard deviation of the reward gap over its members); and
`beta`, the β that training starts with. Pairs with larger scores are preferred. A metric whose column is missing raises
KeyError. In formulas w is the chosen (winning) and l the rejected (losing) response, N the tokens of a response and
PPL = exp(−logp/N) its perplexity.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from prefloop.core.own_functions import is_own
from prefloop.core.ranks import rank_normalize

Pairs = dict[str, np.ndarray]


class Metric(Protocol):
    """Scores pairs: larger for pairs more worth training on, −∞ for pairs never to be kept."""

    def __call__(self, pairs: Pairs, rng: np.random.Generator, /) -> np.ndarray:
        """Scores [pairs]."""


def ordered_pairs(rewards: Iterable[float]) -> tuple[list[tuple[int, int]], int]:
    """All (chosen, rejected) index pairs with reward(chosen) > reward(rejected), and the number of tied pairs."""
    rewards = list(rewards)
    indices = range(len(rewards))
    pairs = [(w, l) for w in indices for l in indices if rewards[w] > rewards[l]]  # noqa: E741
    return pairs, len(rewards) * (len(rewards) - 1) // 2 - len(pairs)


def best_worst_pair(rewards: Iterable[float]) -> tuple[int, int] | None:
    """The first best response against the first worst, or None if all are tied."""
    rewards = list(rewards)
    best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
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
    """r(y_w) − r(y_l), in units of reward."""
    return pairs["reward_chosen"] - pairs["reward_rejected"]


def random(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """A uniform random number per pair: the baseline of every selector at equal cost."""
    return rng.random(len(pairs["reward_chosen"]))


def best_worst(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """The reward gap of each prompt's best-against-worst pair; −∞, so never kept, for every other pair."""
    return np.where(pairs["best_worst"], reward_gap(pairs), -np.inf)


def margin(pairs: Pairs) -> np.ndarray:
    """The log-ratio margin M, [pairs], nats; `losses.log_ratio_margin` computes it for tensors."""
    ratio_chosen = pairs["logp_chosen"] - pairs["logp_ref_chosen"]
    return ratio_chosen - (pairs["logp_rejected"] - pairs["logp_ref_rejected"])


def dpo_weight(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """σ(−βM), the exact weight of the pair in DPO's gradient (Rafailov et al. 2023, arXiv 2305.18290)."""
    return 1 / (1 + np.exp(pairs["beta"] * margin(pairs)))


def difficulty(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """−M: the smallest margin first (arXiv 2508.04149); the order of `dpo_weight`, without β."""
    return -margin(pairs)


def implicit_margin(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """M: the largest margin, and so the smallest DPO loss, first; the reverse of `difficulty` (arXiv 2502.09650)."""
    return margin(pairs)


def pvar(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """The preference variance of the pair's prompt (arXiv 2510.13022): equal for all pairs of a prompt."""
    return pairs["preference_variance"]


def preference_variance(probabilities: Iterable[float]) -> float:
    """Variance of the probability that a response of a prompt is preferred to another one, over ordered pairs.

    Args:
        probabilities: p_ij of every two responses in one of both orders. Since p_ji = 1 − p_ij, the mean over both
            orders is ½, and the variance is the mean of (p_ij − ½)².
    """
    squares = [(probability - 0.5) ** 2 for probability in probabilities]
    return sum(squares) / len(squares)


def length_matched_pfp(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """PFP's rank in [0, 1] among pairs with similar N_w − N_l, so that a long chosen response is no advantage.

    Strata are deciles of the length difference; there are fewer if they would hold less than eight pairs.
    """
    difference = pairs["n_chosen"] - pairs["n_rejected"]
    strata = max(1, min(10, len(difference) // 8))
    edges = np.quantile(difference, np.arange(1, strata) / strata) if len(difference) else []
    stratum_of, values = np.searchsorted(edges, difference, side="right"), pfp(pairs, rng)
    scores = np.empty(len(values))
    for stratum in np.unique(stratum_of):
        scores[stratum_of == stratum] = rank_normalize(values[stratum_of == stratum])
    return scores


def less_is_more(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """Agreement of external and implicit margin: P = PₑPᵢ / (PₑPᵢ + (1−Pₑ)(1−Pᵢ)) (arXiv 2502.14560).

    Each P(m) = (clip(m, M1, M2) − M1) / (M2 − M1), of the reward gap and of βM, with M1 and M2 the 5 % and 95 %
    quantiles of these pairs, so β cancels. Complete disagreement, 0 against 1, gives 0.5, and a constant margin
    P(m) = 0.5.

    The paper's implicit margin is that of a seed model trained on random pairs. Here it is that of the policy before
    the round against its reference: with the initial policy as reference, what the earlier rounds have learned.
    """
    external, implicit = clipped_share(reward_gap(pairs)), clipped_share(margin(pairs))
    agree = external * implicit
    total = agree + (1 - external) * (1 - implicit)
    return np.where(total > 0, agree / np.where(total > 0, total, 1), 0.5)


def clipped_share(values: np.ndarray) -> np.ndarray:
    """Values [n] clipped to their 5 % and 95 % quantiles and scaled to [0, 1]; 0.5 if these are equal."""
    low, high = np.quantile(values, [0.05, 0.95]) if len(values) else (0.0, 0.0)
    return (np.clip(values, low, high) - low) / (high - low) if high > low else np.full(len(values), 0.5)


def alignment_potential(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """z(reward gap) − z(|length-normalized logp margin|): what the policy has not learned yet (arXiv 2503.01864)."""
    implicit = np.abs(pairs["logp_chosen"] / pairs["n_chosen"] - pairs["logp_rejected"] / pairs["n_rejected"])
    return z_score(reward_gap(pairs)) - z_score(implicit)


def z_score(values: np.ndarray) -> np.ndarray:
    """Values [n] in standard deviations from their mean; 0 if all are equal."""
    sd = values.std() if len(values) else 0.0
    return (values - values.mean()) / sd if sd > 0 else np.zeros(len(values))


def disagreement(pairs: Pairs, rng: np.random.Generator | None = None) -> np.ndarray:
    """Standard deviation of the reward gap over the members of an ensemble: uncertain pairs first (arXiv 1706.03741).

    The paper takes the variance of the preferences that the members predict.
    """
    return pairs["gap_deviation"]


def agreement(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """Minus `disagreement`: pairs whose gap is the same for all members of an ensemble first."""
    return -disagreement(pairs)


METRICS: dict[str, Metric] = {
    "pfp": pfp,
    "pfp_raw": pfp_raw,
    "pfp_mean": pfp_mean,
    "length_matched_pfp": length_matched_pfp,
    "dpo_weight": dpo_weight,
    "reward_gap": reward_gap,
    "random": random,
    "best_worst": best_worst,
    "less_is_more": less_is_more,
    "difficulty": difficulty,
    "implicit_margin": implicit_margin,
    "alignment_potential": alignment_potential,
    "pvar": pvar,
    "disagreement": disagreement,
    "agreement": agreement,
}
NEEDS_BETA = ("dpo_weight",)
# Metrics that compare the policy with its reference: constant, or no more than the reward gap, if the two are equal.
NEEDS_REFERENCE = ("dpo_weight", "less_is_more", "difficulty", "implicit_margin")
# Metrics of the members of an ensemble; other feedback has none.
NEEDS_ENSEMBLE = ("disagreement", "agreement")
# Metrics of a prompt's preference variance.
NEEDS_VARIANCE = ("pvar",)


def reads_variance(metric: str) -> bool:
    """Whether the metric of this name reads `preference_variance`, as functions of the user may."""
    return metric in NEEDS_VARIANCE or is_own(metric)


def keep_top(scores: np.ndarray, top_n: int | None, rng: np.random.Generator) -> np.ndarray:
    """Indices of the `top_n` largest finite scores (all if None), best first; ties are broken at random."""
    order = np.lexsort((rng.random(len(scores)), -scores))
    order = order[np.isfinite(scores[order])]
    return order if top_n is None else order[:top_n]
