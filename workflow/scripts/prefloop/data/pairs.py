"""Preference pairs of scored responses, and the arrays that metrics use.

A prompt is a row of pfp.jsonl; see `prefloop.data.pfp_rows`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from prefloop.config.feedback_settings import RESERVED_NAMES
from prefloop.core.errors import InputError
from prefloop.core.truncation import is_truncated
from prefloop.methods.pair_metrics import Pairs, best_worst_pair, ordered_pairs, preference_variance
from prefloop.methods.pairings import Pairing

FIELDS = {"logp": "logp", "logp_ref": "logp_ref", "n": "n_tokens", "reward": "reward"}  # field of a response by column
REWARD_COLUMN = "reward_"  # prefix of the columns with the rewards of several sources


class Pair(NamedTuple):
    """Two responses to one prompt, the first preferred to the second."""

    prompt: dict
    """The prompt's row of pfp.jsonl."""
    chosen: dict
    """The preferred response. If a judge decided, `reward` is its probability of winning against `rejected`."""
    rejected: dict
    """The other response. If a judge decided, `reward` is its probability of winning against `chosen`."""

    @property
    def best_worst(self) -> bool:
        """Whether this is the prompt's best response against its worst."""
        ids = self.chosen["response_id"], self.rejected["response_id"]
        return ids == (self.prompt["best"], self.prompt["worst"])


def is_labeled(response: dict) -> bool:
    """Whether a response has feedback. With acquisition, only some responses have."""
    return bool(response.get("labeled", True))


def preferences(responses: Sequence[dict]) -> list[tuple[int, int]]:
    """Return (chosen, rejected) indices of the pairs of a prompt's responses for which the feedback has a preference.

    Without a judge, rewards decide. With a judge, only the judgment of the pair itself decides, so that a tie or an
    invalid answer never becomes a preference through a third response.
    """
    if "beats" not in responses[0]:
        labeled = [i for i, response in enumerate(responses) if is_labeled(response)]
        pairs = ordered_pairs(responses[i]["reward"] for i in labeled)[0]
        return [(labeled[i], labeled[j]) for i, j in pairs]
    index = {response["response_id"]: i for i, response in enumerate(responses)}
    return [(i, index[loser]) for i, response in enumerate(responses) for loser in response["beats"]]


def decided_pairs(responses: Sequence[dict]) -> list[tuple[int, int]]:
    """Return the preferences between different texts.

    A preference between identical responses is noise of the feedback, from which nothing can be learned.
    """
    return [(i, j) for i, j in preferences(responses) if responses[i]["response"] != responses[j]["response"]]


def best_and_worst(responses: Sequence[dict]) -> tuple[int, int] | None:
    """Return the indices of the responses with the highest and lowest reward, or of the best and worst of a tournament.

    Return None if the feedback has not decided this pair, or if both texts are equal: the rewards are then unreliable.
    """
    if "tournament" in responses[0]:
        ranks = [response["tournament"] for response in responses]
        pair = (ranks.index("best"), ranks.index("worst")) if {"best", "worst"} <= set(ranks) else None
        return pair if pair in decided_pairs(responses) else None
    rewarded = [i for i, response in enumerate(responses) if response["reward"] is not None]
    indices = best_worst_pair(responses[i]["reward"] for i in rewarded) if rewarded else None
    if indices is None:
        return None
    best, worst = rewarded[indices[0]], rewarded[indices[1]]
    return (best, worst) if (best, worst) in decided_pairs(responses) else None


ChoosePair = Callable[[dict], tuple[int, int] | None]
"""Returns the indices (chosen, rejected) of the only pair of a prompt's responses that may be used, or None."""


def choose_pair_by(pairing: Pairing, rng_of: Callable[[str], np.random.Generator]) -> ChoosePair:
    """Return a pairing as a function of prompts. `rng_of` returns the random generator of a prompt id."""

    def choose_pair(prompt: dict) -> tuple[int, int] | None:
        rewarded = [(i, row["reward"]) for i, row in enumerate(prompt["responses"]) if row["reward"] is not None]
        chosen = pairing([reward for _, reward in rewarded], rng_of(prompt["prompt_id"])) if rewarded else None
        return chosen and (rewarded[chosen[0]][0], rewarded[chosen[1]][0])

    return choose_pair


def all_pairs(prompts: Iterable[dict], choose_pair: ChoosePair | None = None) -> tuple[list[Pair], int]:
    """Return all decided pairs of each prompt's responses, and the number of undecided pairs (tied or invalid).

    With `choose_pair`, only that pair of a prompt is used. With sampler best_worst, only the best response against the
    worst is used.
    """
    pairs, undecided = [], 0
    for prompt in prompts:
        responses = prompt["responses"]
        only = choose_pair(prompt) if choose_pair else None
        allowed = [pair for pair in decided_pairs(responses) if choose_pair is None or pair == only]
        decided = [make_pair(prompt, responses[i], responses[j]) for i, j in allowed]
        undecided += count_asked(responses) - len(preferences(responses))
        best_worst_only = responses[0].get("sampler") == "best_worst"
        pairs += [pair for pair in decided if pair.best_worst or not best_worst_only]
    return pairs, undecided


def count_asked(responses: Sequence[dict]) -> int:
    """Count the pairs of a prompt's responses that have feedback: those that a judge compared, or all labeled ones."""
    if "judged" in responses[0]:
        return sum(len(response["judged"]) for response in responses)
    return math.comb(sum(map(is_labeled, responses)), 2)


def count_invalid(prompts: Iterable[dict]) -> int:
    """Count the pairs without a valid judgment of the judge."""
    judgments = (judged for prompt in prompts for row in prompt["responses"] for judged in row.get("judged", ()))
    return sum(None in judged for judged in judgments)


def count_identical(prompts: Iterable[dict]) -> int:
    """Count the pairs of identical responses between which the feedback has a preference."""
    groups = [prompt["responses"] for prompt in prompts]
    return sum(len(preferences(responses)) - len(decided_pairs(responses)) for responses in groups)


def best_worst_pairs(prompts: Iterable[dict]) -> list[Pair]:
    """Return the best-against-worst pair of every prompt that has one."""
    return [pair_by_ids(prompt, prompt["best"], prompt["worst"]) for prompt in prompts if prompt["best"] is not None]


def pair_by_ids(prompt: dict, chosen: int, rejected: int) -> Pair:
    """Return the pair of a prompt's responses with these response ids."""
    responses = {response["response_id"]: response for response in prompt["responses"]}
    return make_pair(prompt, responses[chosen], responses[rejected])


def make_pair(prompt: dict, chosen: dict, rejected: dict) -> Pair:
    """Return a pair. With a judge, its rewards are the probabilities of the pair's own judgment.

    Raises:
        InputError: The judge has not compared the two responses.
    """
    if "beats" not in chosen:
        return Pair(prompt, chosen, rejected)
    probability = win_probability(chosen, rejected)
    if probability is None:
        ids = f"{chosen['response_id']} and {rejected['response_id']}"
        raise InputError(f"prompt {prompt['prompt_id']}: no judgment of responses {ids}; make the rewards again")
    return Pair(prompt, chosen | {"reward": probability}, rejected | {"reward": 1 - probability})


def win_probability(response: dict, opponent: dict) -> float | None:
    """Return a judge's probability that a response beats another, averaged over both orders.

    The judgment may be stored with either response. Return None if neither has a valid one.
    """
    for row, other, flipped in [(response, opponent, False), (opponent, response, True)]:
        for response_id, asked_first, asked_second in row["judged"]:
            if response_id == other["response_id"] and None not in (asked_first, asked_second):
                probability = (asked_first + asked_second) / 2
                return 1 - probability if flipped else probability
    return None


def preference_probabilities(responses: Sequence[dict]) -> list[float]:
    """Return the probability that the first response wins, for every labeled pair: σ(r_i − r_j), or the judge's."""
    pairs = combinations(filter(is_labeled, responses), 2)
    if "beats" in responses[0]:
        judged = [win_probability(*pair) for pair in pairs]
        return [probability for probability in judged if probability is not None]
    return [1 / (1 + math.exp(min(b["reward"] - a["reward"], 700.0))) for a, b in pairs]


def member_columns(response: dict) -> list[str]:
    """Return the columns with the rewards of an ensemble's members. Other feedback, such as a sum, has none."""
    if "disagreement" not in response:
        return []
    reserved = [REWARD_COLUMN + name for name in RESERVED_NAMES]
    return [name for name in response if name.startswith(REWARD_COLUMN) and name not in reserved]


def gap_deviations(pairs: Sequence[Pair]) -> np.ndarray:
    """Return the standard deviation of each pair's reward gap over the ensemble's members (ddof 0): [pairs].

    Raises:
        InputError: A member has no reward for a response.
    """
    names = member_columns(pairs[0].chosen)
    for prompt, chosen, rejected in pairs:
        missing = [name for name in names if name not in chosen or name not in rejected]
        if missing:
            raise InputError(f"prompt {prompt['prompt_id']}: a response has no {missing[0]}; make the rewards again")
    gaps = [[pair.chosen[name] - pair.rejected[name] for name in names] for pair in pairs]
    return np.array(gaps, dtype=float).std(axis=1)


def prompt_variances(pairs: Sequence[Pair]) -> np.ndarray:
    """Return the preference variance of each pair's prompt, [pairs], which is computed once per prompt."""
    variances: dict[int, float] = {}
    for prompt in (pair.prompt for pair in pairs):
        if id(prompt) not in variances:
            variances[id(prompt)] = preference_variance(preference_probabilities(prompt["responses"]))
    return np.array([variances[id(pair.prompt)] for pair in pairs], dtype=float)


def to_columns(pairs: Sequence[Pair], beta: float | None = None, variance: bool = True) -> Pairs:
    """Return pairs as the arrays [pairs] that metrics use.

    Args:
        pairs: The pairs.
        beta: β, for metrics that use it.
        variance: Whether to add each prompt's preference variance (1.2 s for 200,000 prompts of 4 responses).
    """
    columns = {
        "best_worst": np.array([pair.best_worst for pair in pairs], dtype=bool),
        "truncated": np.array([is_truncated(p.chosen) or is_truncated(p.rejected) for p in pairs], dtype=bool),
    }
    if variance:
        columns["preference_variance"] = prompt_variances(pairs)
    if pairs and member_columns(pairs[0].chosen):
        columns["gap_deviation"] = gap_deviations(pairs)
    for side in ("chosen", "rejected"):
        responses = [getattr(pair, side) for pair in pairs]
        for name, field in FIELDS.items():
            columns[f"{name}_{side}"] = np.array([response[field] for response in responses], dtype=float)
    return columns | ({} if beta is None else {"beta": np.array(beta)})


def concatenate(parts: Sequence[Pairs], beta: float | None = None) -> Pairs:
    """Concatenate the arrays of several parts and add β. The parts are emptied, so that no number is in memory twice.

    A part without pairs may lack the columns of an ensemble.
    """
    parts = [part for part in parts if len(part["best_worst"])] or parts[:1]
    names = [name for name in parts[0] if all(name in part for part in parts)]
    columns = {name: np.concatenate([part.pop(name) for part in parts]) for name in names}
    return columns | ({} if beta is None else {"beta": np.array(beta)})


def choose(columns: Pairs, indices: np.ndarray) -> Pairs:
    """Return the pairs at these indices."""
    return {name: values[indices] if values.ndim else values for name, values in columns.items()}


def gap_filters(gaps: np.ndarray, min_gap: float | None, quantile: float | None) -> dict[str, np.ndarray]:
    """Return the pairs that each filter keeps, by config key: bool [pairs]. `quantile` is computed over all `gaps`."""
    everything = np.ones(len(gaps), dtype=bool)
    threshold = np.quantile(gaps, quantile) if quantile is not None and len(gaps) else None
    return {
        "min_gap": everything if min_gap is None else gaps >= min_gap,
        "min_gap_quantile": everything if threshold is None else gaps >= threshold,
    }
