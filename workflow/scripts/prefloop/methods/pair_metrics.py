"""Metrics that select the pairs of responses to train on. Pairs with larger scores are preferred.

Pairs are a dict of columns, arrays of shape [pairs]:

* `logp_*` and `logp_ref_*` of the chosen and the rejected response: nats, summed over the response
* `n_*`: tokens
* `reward_*`
* `best_worst`: whether the pair consists of its prompt's best and worst responses
* `truncated`: whether either response reached the maximum number of tokens
* `preference_variance` of all responses to the prompt
* `gap_deviation`, for ensembles only: standard deviation of the reward gap over the members
* `beta`: the initial β of the training

A metric raises KeyError if a column is missing. In formulas, w is the chosen (winning) and l the rejected (losing)
response, N is the number of tokens of a response, and PPL = exp(−logp/N) is its perplexity.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from prefloop.core.errors import InputError, short_repr
from prefloop.core.own_functions import describe_exception, is_own
from prefloop.core.ranks import rank_normalize
from prefloop.core.registry import lookup

Pairs = dict[str, np.ndarray]


class Metric(Protocol):
    """Scores pairs. Pairs with larger scores are preferred; pairs with a score of −∞ are never kept."""

    def __call__(self, pairs: Pairs, rng: np.random.Generator, /) -> np.ndarray:
        """Scores [pairs]."""


def ordered_pairs(rewards: Iterable[float]) -> tuple[list[tuple[int, int]], int]:
    """All index pairs (chosen, rejected) with reward(chosen) > reward(rejected), and the number of tied pairs."""
    rewards = list(rewards)
    indices = range(len(rewards))
    pairs = [(w, l) for w in indices for l in indices if rewards[w] > rewards[l]]  # noqa: E741
    return pairs, len(rewards) * (len(rewards) - 1) // 2 - len(pairs)


def best_worst_pair(rewards: Iterable[float]) -> tuple[int, int] | None:
    """Indices of the first best and the first worst response, or None if all are tied."""
    rewards = list(rewards)
    best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
    return (best, worst) if rewards[best] > rewards[worst] else None


def pfp(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """N_w·log PPL_w − N_l·log PPL_l = logp(y_l) − logp(y_w): the reference-free argument of the DPO weight (DOTA)."""
    return pairs["logp_rejected"] - pairs["logp_chosen"]


def pfp_raw(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """N_w·PPL_w − N_l·PPL_l, as in DOTA's released code. It is heavy-tailed and included for comparison."""
    perplexity_chosen = np.exp(-pairs["logp_chosen"] / pairs["n_chosen"])
    perplexity_rejected = np.exp(-pairs["logp_rejected"] / pairs["n_rejected"])
    return pairs["n_chosen"] * perplexity_chosen - pairs["n_rejected"] * perplexity_rejected


def pfp_mean(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """log PPL_w − log PPL_l: PFP per token, so without its dependence on length."""
    return pairs["logp_rejected"] / pairs["n_rejected"] - pairs["logp_chosen"] / pairs["n_chosen"]


def reward_gap(pairs: Pairs, rng: np.random.Generator | None = None) -> np.ndarray:
    """r(y_w) − r(y_l), in units of reward."""
    return pairs["reward_chosen"] - pairs["reward_rejected"]


def random(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """A uniform random number per pair: the baseline for every selector at equal cost."""
    return rng.random(len(pairs["reward_chosen"]))


def best_worst(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """The reward gap for pairs of a prompt's best and worst responses; −∞ for all other pairs, which are never kept."""
    return np.where(pairs["best_worst"], reward_gap(pairs), -np.inf)


def margin(pairs: Pairs) -> np.ndarray:
    """The log-ratio margin M, [pairs], nats; `losses.log_ratio_margin` computes it for tensors."""
    ratio_chosen = pairs["logp_chosen"] - pairs["logp_ref_chosen"]
    return ratio_chosen - (pairs["logp_rejected"] - pairs["logp_ref_rejected"])


def dpo_weight(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """σ(−βM), the weight of the pair in DPO's gradient (Rafailov et al. 2023, arXiv 2305.18290)."""
    return 1 / (1 + np.exp(pairs["beta"] * margin(pairs)))


def difficulty(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """−M: small margins are preferred (arXiv 2508.04149). It orders pairs like `dpo_weight`, without β."""
    return -margin(pairs)


def implicit_margin(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """M: large margins, so small DPO losses, are preferred; the reverse of `difficulty` (arXiv 2502.09650)."""
    return margin(pairs)


def pvar(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """The preference variance of the pair's prompt (arXiv 2510.13022), equal for all pairs of a prompt."""
    return pairs["preference_variance"]


def preference_variance(probabilities: Iterable[float]) -> float:
    """Variance over ordered pairs of the probability that one response of a prompt is preferred to another.

    Args:
        probabilities: p_ij of every two responses, in either order. Since p_ji = 1 − p_ij, the mean over both orders
            is ½, and the variance is the mean of (p_ij − ½)².
    """
    squares = [(probability - 0.5) ** 2 for probability in probabilities]
    return sum(squares) / len(squares)


def length_matched_pfp(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """PFP's rank in [0, 1] among pairs with similar N_w − N_l, so that long chosen responses have no advantage.

    Strata are deciles of the length difference. There are fewer strata if deciles would have fewer than eight pairs.
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

    The external margin is the reward gap, the implicit margin is βM. For each margin m,
    P(m) = (clip(m, M1, M2) − M1) / (M2 − M1), where M1 and M2 are the 5 % and 95 % quantiles over these pairs, so β
    cancels. If Pₑ and Pᵢ are 0 and 1, P is 0.5. If a margin is constant, its P(m) is 0.5.

    The paper's implicit margin is that of a seed model trained on random pairs. Here it is that of the policy before
    the round relative to its reference. If the reference is the initial policy, it is what earlier rounds have learned.
    """
    external, implicit = clipped_share(reward_gap(pairs)), clipped_share(margin(pairs))
    agree = external * implicit
    total = agree + (1 - external) * (1 - implicit)
    return np.where(total > 0, agree / np.where(total > 0, total, 1), 0.5)


def clipped_share(values: np.ndarray) -> np.ndarray:
    """Values [n] clipped to their 5 % and 95 % quantiles and scaled to [0, 1]; 0.5 if the quantiles are equal."""
    low, high = np.quantile(values, [0.05, 0.95]) if len(values) else (0.0, 0.0)
    return (np.clip(values, low, high) - low) / (high - low) if high > low else np.full(len(values), 0.5)


def alignment_potential(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """z(reward gap) − z(|length-normalized logp margin|): prefers pairs not learned yet (arXiv 2503.01864)."""
    implicit = np.abs(pairs["logp_chosen"] / pairs["n_chosen"] - pairs["logp_rejected"] / pairs["n_rejected"])
    return z_score(reward_gap(pairs)) - z_score(implicit)


def z_score(values: np.ndarray) -> np.ndarray:
    """Distances of values [n] from their mean, in standard deviations; 0 if all are equal."""
    sd = values.std() if len(values) else 0.0
    return (values - values.mean()) / sd if sd > 0 else np.zeros(len(values))


def disagreement(pairs: Pairs, rng: np.random.Generator | None = None) -> np.ndarray:
    """Standard deviation of the reward gap over ensemble members: prefers uncertain pairs (arXiv 1706.03741).

    The paper uses the variance of the members' predicted preferences instead.
    """
    return pairs["gap_deviation"]


def agreement(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """Minus `disagreement`: prefers pairs with similar gaps for all members of an ensemble."""
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
# Metrics that compare the policy with its reference. If both are equal, they are constant or depend only on rewards.
NEEDS_REFERENCE = ("dpo_weight", "less_is_more", "difficulty", "implicit_margin")
# Metrics that need the members of an ensemble.
NEEDS_ENSEMBLE = ("disagreement", "agreement")
# Metrics that need the preference variance of a prompt.
NEEDS_VARIANCE = ("pvar",)


def reads_variance(metric: str) -> bool:
    """Whether the metric of this name may read `preference_variance`. Functions of the user may."""
    return metric in NEEDS_VARIANCE or is_own(metric)


def metric_scores(metric: str, setting: str, pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """Score pairs with a metric of METRICS or of the user.

    Args:
        metric: The word or function that the config names.
        setting: The config's key, for messages.
        pairs: Columns of the pairs.
        rng: Random numbers of the metric.

    Returns:
        np.ndarray: [pairs], scores.

    Raises:
        SettingError: There is no such metric.
        InputError: A function of the user raised, or returned something else than one number per pair.
    """
    function = lookup(METRICS, metric, setting)
    if not is_own(metric):
        return function(pairs, rng)
    count = len(pairs["n_chosen"])
    try:
        returned = function(pairs, rng)
        scores = np.asarray(returned, dtype=float)
    except Exception as error:  # whatever the user's function does
        raise InputError(f"{setting}: {metric} failed ({describe_exception(error)})") from error
    if scores.shape != (count,) or np.isnan(scores).any():
        raise InputError(
            f"{setting}: {metric} returned {short_repr(returned)}, expected one number for each of {count} pairs; "
            "−∞ excludes a pair"
        )
    return scores


def keep_top(scores: np.ndarray, top_n: int | None, rng: np.random.Generator) -> np.ndarray:
    """Indices of the `top_n` largest finite scores (all if None), best first. Ties are broken at random."""
    order = np.lexsort((rng.random(len(scores)), -scores))
    order = order[np.isfinite(scores[order])]
    return order if top_n is None else order[:top_n]
