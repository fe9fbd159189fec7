"""The bandit finds planted good arms, and the books are right."""

import numpy as np
import pytest

from prefloop.bandit import (
    Arms,
    draw,
    proportional,
    read_arms,
    settle,
    take_share,
    top_k,
    ucb_scores,
    update,
    write_arms,
)
from prefloop.rows import InputError
from prefloop.stats import rank_normalise

ARMS, STEPS, PULLS = 100, 36, 1000


def share_of_best_ten(allocation: str, alpha: float, seed: int) -> float:
    """Share of pulls that go to the truly best ten arms; arm sd is half the noise sd, prompts do not run out."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(0, 0.5, ARMS)
    clusters = np.repeat(np.arange(ARMS), PULLS)
    arms, times = Arms.fresh(ARMS), np.zeros(len(clusters), dtype=int)
    for _ in range(STEPS):
        chosen = clusters[draw(allocation, arms, clusters, times, PULLS, rng, alpha=alpha, top_k=10)]
        values = quality[chosen] + rng.normal(0, 1, len(chosen))
        arms = update(arms, chosen, rank_normalise(values), gamma=1.0)
    return arms.pulls[np.argsort(-quality)[:10]].sum() / arms.pulls.sum()


def test_planted_bandit():
    """top_k concentrates on the best arms, proportional hardly, uniform not at all."""
    shares = {
        name: np.mean([share_of_best_ten(name, alpha, seed) for seed in range(20)])
        for name, alpha in [("top_k", 0.3), ("proportional", 0.3), ("uniform", 0.0)]
    }
    assert shares["top_k"] > 0.35
    assert shares["proportional"] > 0.11
    assert shares["uniform"] == pytest.approx(0.10, abs=0.01)


def test_update_by_hand():
    """γ = ½ halves the past; two prompts of arm 0 with rewards .2 and .6, none of arm 1."""
    arms = Arms(np.array([4, 2]), np.array([4.0, 2.0]), np.array([2.0, 1.5]), np.zeros(2))
    after = update(arms, np.array([0, 0]), np.array([0.2, 0.6]), gamma=0.5)
    assert after.pulls.tolist() == [6, 2]
    assert after.count.tolist() == [4.0, 1.0]
    assert after.reward_sum.tolist() == pytest.approx([1.8, 0.75])
    assert after.mean.tolist() == pytest.approx([0.45, 0.75])


def test_ucb_by_hand():
    """μ + α·sqrt(2 ln(Σn + 1)/n): n = (3, 1), means (.5, .9), α = .5."""
    arms = Arms(np.array([3, 1]), np.array([3.0, 1.0]), np.array([1.5, 0.9]), np.zeros(2))
    bonus = np.sqrt(2 * np.log(5) / np.array([3.0, 1.0]))
    assert ucb_scores(arms, 0.5) == pytest.approx(np.array([0.5, 0.9]) + 0.5 * bonus)


def test_an_arm_never_pulled_outranks_an_equal_one():
    arms = Arms(np.array([5, 0]), np.array([5.0, 0.0]), np.array([2.5, 0.0]), np.zeros(2))
    scores = ucb_scores(arms, 1.0)
    assert np.isfinite(scores).all()
    assert scores[1] > scores[0]


def test_discounted_counts_below_one_keep_their_bound():
    arms = Arms(np.array([1, 4]), np.array([0.25, 1.0]), np.array([0.1, 0.5]), np.zeros(2))
    bonus = np.sqrt(2 * np.log(2.25) / np.array([0.25, 1.0]))
    assert ucb_scores(arms, 1.0) == pytest.approx(np.array([0.4, 0.5]) + bonus)


def test_proportional_by_hand():
    assert proportional(np.array([0.5, 0.3, 0.2, 0.0]), 10, top_k=0).tolist() == [5, 3, 2, 1]


def test_top_k_by_hand():
    assert top_k(np.array([0.1, 0.9, 0.5, 0.7]), 7, top_k=3).tolist() == [0, 3, 2, 2]


@pytest.mark.parametrize("allocation", [proportional, top_k])
def test_settled_allocations_are_possible_and_exact(allocation):
    rng = np.random.default_rng(1)
    for _ in range(200):
        arms = rng.integers(1, 30)
        available = rng.integers(0, 8, arms)
        budget = rng.integers(1, max(2, available.sum() + 1))
        if budget > available.sum():
            continue
        got = settle(lambda s, b: allocation(s, b, top_k=3), rng.random(arms), available, budget)
        assert got.sum() == budget
        assert (got <= available).all()
        assert (got >= 0).all()


def test_no_prompt_twice_while_fresh_ones_remain():
    rng = np.random.default_rng(0)
    clusters, times = rng.integers(0, 4, 40), np.zeros(40, dtype=int)
    for _ in range(4):
        chosen = draw("proportional", Arms.fresh(4), clusters, times, 10, rng)
        assert (times[chosen] == 0).all()
        assert len(set(chosen)) == 10
        times[chosen] += 1
    assert (times == 1).all()


def test_budget_beyond_the_fresh_prompts_is_an_error_or_reuses_the_least_used():
    clusters, times = np.zeros(10, dtype=int), np.array([0] * 3 + [1] * 5 + [2] * 2)
    with pytest.raises(InputError, match="budget asks for 6 prompts, but 3 of 10"):
        draw("uniform", Arms.fresh(1), clusters, times, 6, np.random.default_rng(0))
    for allocation in ("uniform", "top_k"):
        chosen = draw(allocation, Arms.fresh(1), clusters, times, 6, np.random.default_rng(0), reuse=True)
        assert len(set(chosen)) == 6
        assert {0, 1, 2} <= set(chosen)
        assert times[chosen].max() == 1


def test_all_annotates_everything_once_a_round():
    shares = [take_share(10, step, 3, np.random.default_rng(5)) for step in (1, 2, 3)]
    assert sorted(np.concatenate(shares)) == list(range(10))


def test_arms_survive_their_file(tmp_path):
    arms = update(Arms.fresh(3), np.array([0, 2, 2]), np.array([0.1, 0.2, 0.9]), 1.0)
    arms.score = ucb_scores(arms, 1.0)
    write_arms(tmp_path / "arms.json", arms, round=1, step=2)
    again = read_arms(tmp_path / "arms.json")
    for name in ("pulls", "count", "reward_sum", "score"):
        assert getattr(again, name).tolist() == getattr(arms, name).tolist()
