"""Acquisition rules compared with hand-computed choices, and with random pairs on planted rewards."""

import numpy as np
import pytest

from prefloop.core.errors import SettingError
from prefloop.methods.acquisition import ACQUISITIONS, acquire
from prefloop.methods.reward_head import fit_rewards, reward_posterior

# The head of test_reward_head has rewards 0.625, 0.125 and −0.75 with variances 0.3, 0.3 and 0.4. The variance of the
# difference is 0.8 for the first two responses, and 1.1 between either of them and the third.
FEATURES = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
HEAD = reward_posterior(FEATURES, np.array([1.0, 0.0, -1.0]), 1.0, 0.8)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


BY_HAND = {
    "delta_ucb": [0, 2],
    "max_uncertainty": [2, 0],
    "infomax": [0, 2],
}


@pytest.mark.parametrize("rule", BY_HAND)
def test_choices_by_hand(rule):
    assert acquire(rule, HEAD, FEATURES, 2, 1.0, rng()) == BY_HAND[rule]


def test_every_rule_without_random_numbers_has_a_test():
    assert ACQUISITIONS.keys() - {"random_pair", "drts"} == BY_HAND.keys()


def test_confidence_moves_delta_ucb_to_uncertain_responses():
    """A fourth response with reward 0 and a large deviation is chosen only if the deviation counts."""
    features = np.vstack([FEATURES, [[-0.5, 2.5]]])  # reward 0, variance 0.1 · (0.75 + 2.5 + 18.75) = 2.2
    assert HEAD.rewards(features)[3] == pytest.approx(0)
    assert acquire("delta_ucb", HEAD, features, 2, 0.0, rng()) == [0, 2]
    assert acquire("delta_ucb", HEAD, features, 2, 1.0, rng()) == [3, 2]


def test_drts_takes_best_and_worst_of_two_draws():
    """If the posterior has almost no variance, both draws equal its mean."""
    head = reward_posterior(FEATURES, np.array([1.0, 0.0, -1.0]), 1.0, 1e-12)
    assert acquire("drts", head, FEATURES, 2, 1.0, rng()) == [0, 2]


@pytest.mark.parametrize("rule", ACQUISITIONS)
@pytest.mark.parametrize("labels", [1, 2, 3, 4, 5, 9])
def test_chosen_responses_are_distinct_and_of_the_requested_number(rule, labels):
    features = np.random.default_rng(1).standard_normal((5, 2))
    for seed in range(20):
        chosen = acquire(rule, HEAD, features, labels, 1.0, np.random.default_rng(seed))
        assert len(set(chosen)) == len(chosen) == min(labels, 5)
        assert set(chosen) <= set(range(5))


@pytest.mark.parametrize("rule", ACQUISITIONS)
def test_without_a_head_every_rule_is_random(rule):
    features = np.random.default_rng(2).standard_normal((6, 3))
    for seed in range(10):
        draws = [acquire(word, None, features, 2, 1.0, np.random.default_rng(seed)) for word in (rule, "random_pair")]
        assert draws[0] == draws[1]


def test_random_pairs_are_uniform():
    counts = np.zeros((4, 4))
    for seed in range(6000):
        first, second = acquire("random_pair", None, np.zeros((4, 1)), 2, 1.0, np.random.default_rng(seed))
        counts[first, second] += 1
    assert counts.diagonal().sum() == 0
    assert np.abs(counts[~np.eye(4, dtype=bool)] - 500).max() < 5 * np.sqrt(500)


def test_unknown_rule_raises():
    with pytest.raises(SettingError, match="acquisition"):
        acquire("best", HEAD, FEATURES, 2, 1.0, rng())


def test_gaps_exceed_random_ones_on_planted_rewards():
    """Rules that maximize the gap find larger gaps than random pairs. Rules that maximize uncertainty need not."""
    source = np.random.default_rng(3)
    weights, known = source.standard_normal(12), source.standard_normal((60, 12))
    head = fit_rewards(known, known @ weights + 0.5 * source.standard_normal(60), np.repeat(np.arange(15), 4).tolist())
    gaps: dict[str, list[float]] = {rule: [] for rule in ACQUISITIONS}
    for prompt in range(300):
        features = source.standard_normal((4, 12))
        features -= features.mean(axis=0)
        for rule, found in gaps.items():
            first, second = acquire(rule, head, features, 2, 1.0, np.random.default_rng(prompt))
            found.append(abs(float((features[first] - features[second]) @ weights)))
    means = {rule: np.mean(found) for rule, found in gaps.items()}
    error = np.std(gaps["random_pair"]) / np.sqrt(300)
    for rule in ("delta_ucb", "drts"):
        assert means[rule] > means["random_pair"] + 5 * error, means
