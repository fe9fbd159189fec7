"""The bandit finds planted good arms, and its counts are correct."""

import numpy as np
import pytest

from prefloop.core.errors import InputError, SettingError
from prefloop.core.ranks import rank_normalize
from prefloop.methods.bandit import (
    ALLOCATIONS,
    Arms,
    BanditConfig,
    draw_prompts,
    draw_share,
    exp3_probabilities,
    nearest_arms,
    pool_neighbors,
    proportional,
    score_arms,
    settle_allocation,
    softmax,
    thompson,
    top_k,
    ucb_scores,
    update_arms,
)

ARMS, STEPS, PULLS = 100, 36, 1000


def arms_of(count, reward_sum, score=None, log_weight=None) -> Arms:
    count = np.array(count, dtype=float)
    zeros = np.zeros(len(count))
    return Arms(
        count.astype(int),
        count,
        np.array(reward_sum, dtype=float),
        zeros if log_weight is None else np.array(log_weight, dtype=float),
        zeros if score is None else np.array(score, dtype=float),
    )


def share_of_best_ten(settings: BanditConfig, seed: int) -> float:
    """Return the share of pulls for the best ten arms. The arms' sd is half the noise sd; prompts do not run out."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(0, 0.5, ARMS)
    clusters = np.repeat(np.arange(ARMS), PULLS)
    arms, times = Arms.fresh(ARMS), np.zeros(len(clusters), dtype=int)
    for _ in range(STEPS):
        arms = score_arms(arms, np.zeros((ARMS, 1)), settings)
        chosen = clusters[draw_prompts(arms, clusters, times, PULLS, rng, settings)]
        values = quality[chosen] + rng.normal(0, 1, len(chosen))
        arms = update_arms(arms, chosen, rank_normalize(values), 1.0, settings.exploration)
    return arms.pulls[np.argsort(-quality)[:10]].sum() / arms.pulls.sum()


# Bounds of each allocation's share of pulls for the best ten of a hundred arms. Random pulls give 0.1.
PLANTED = {
    "uniform": (BanditConfig("uniform"), 0.09, 0.11),
    "proportional": (BanditConfig("proportional", alpha=0.3), 0.11, 0.2),
    "exp3": (BanditConfig("exp3", exploration=0.1), 0.13, 1.0),
    "softmax": (BanditConfig("softmax", alpha=0.1, temperature=0.05), 0.3, 1.0),
    "top_k": (BanditConfig("top_k", alpha=0.3), 0.35, 1.0),
    "thompson": (BanditConfig("thompson"), 0.35, 1.0),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_bandit(name):
    """Every allocation that uses the arms pulls the best ten more often than random. top_k and thompson do so most."""
    settings, least, most = PLANTED[name]
    assert least < np.mean([share_of_best_ten(settings, seed) for seed in range(5)]) < most


def test_every_allocation_has_a_test():
    assert set(PLANTED) == set(ALLOCATIONS) - {"all"}


def test_update_by_hand():
    """γ = ½ halves past counts. Arm 0 has two prompts with rewards 0.2 and 0.6, and arm 1 has none."""
    arms = arms_of([4, 2], [2.0, 1.5])
    after = update_arms(arms, np.array([0, 0]), np.array([0.2, 0.6]), gamma=0.5)
    assert after.pulls.tolist() == [6, 2]
    assert after.count.tolist() == [4.0, 1.0]
    assert after.reward_sum.tolist() == pytest.approx([1.8, 0.75])
    assert after.mean.tolist() == pytest.approx([0.45, 0.75])


def test_ucb_by_hand():
    """μ + α·sqrt(2 ln(Σn + 1)/n): n = (3, 1), means (0.5, 0.9), α = 0.5."""
    arms = arms_of([3, 1], [1.5, 0.9])
    bonus = np.sqrt(2 * np.log(5) / np.array([3.0, 1.0]))
    assert ucb_scores(arms, 0.5) == pytest.approx(np.array([0.5, 0.9]) + 0.5 * bonus)


def test_unpulled_arm_outranks_an_equal_one():
    arms = arms_of([5, 0], [2.5, 0.0])
    scores = ucb_scores(arms, 1.0)
    assert np.isfinite(scores).all()
    assert scores[1] > scores[0]


def test_discounted_counts_below_one_keep_their_bound():
    arms = arms_of([0.25, 1.0], [0.1, 0.5])
    bonus = np.sqrt(2 * np.log(2.25) / np.array([0.25, 1.0]))
    assert ucb_scores(arms, 1.0) == pytest.approx(np.array([0.4, 0.5]) + bonus)


def test_unpulled_arm_has_the_mean_of_the_others():
    assert Arms.fresh(2).mean.tolist() == [0.5, 0.5]
    assert arms_of([4, 0, 1], [1.0, 0.0, 0.5]).mean.tolist() == pytest.approx([0.25, 0.3, 0.5])


def test_exp3_weights_by_hand():
    """With γ' = 0.2 and weights 3 : 1, p = (0.7, 0.3).

    The arms gain 0.5 and 0.9, each from two prompts. These sums, divided by p and multiplied by γ'/K, are added to the
    log weights.
    """
    arms = arms_of([0, 0], [0, 0], log_weight=np.log([3.0, 1.0]))
    assert exp3_probabilities(arms.log_weight, 0.2) == pytest.approx([0.7, 0.3])
    after = update_arms(arms, np.array([0, 0, 1, 1]), np.array([0.2, 0.3, 0.4, 0.5]), 1.0, exploration=0.2)
    by_hand = np.log([3.0, 1.0]) + 0.2 / 2 * np.array([0.5 / 0.7, 0.9 / 0.3])
    assert np.diff(after.log_weight) == pytest.approx(np.diff(by_hand))


def test_exp3_estimates_do_not_favor_the_arms_drawn_often():
    """Equally good arms keep equal weights on average, even if they are drawn unequally."""
    rng = np.random.default_rng(0)
    arms = arms_of([0, 0], [0, 0], log_weight=np.log([9.0, 1.0]))
    p = exp3_probabilities(arms.log_weight, 0.2)
    drifts = []
    for _ in range(4000):
        clusters = rng.choice(2, size=8, p=p)
        after = update_arms(arms, clusters, np.full(8, 0.5), 1.0, exploration=0.2)
        drifts.append(np.diff(after.log_weight) - np.diff(arms.log_weight))
    assert np.mean(drifts) == pytest.approx(0, abs=4 * np.std(drifts) / np.sqrt(len(drifts)))


def test_neighbors_share_their_rewards():
    """The arms are at 0, 1 and 5 on a line. Half of the nearest neighbor's count and sum is added."""
    near = nearest_arms(np.array([[0.0], [1.0], [5.0]]), 1)
    assert near.tolist() == [[1], [0], [1]]
    assert nearest_arms(np.zeros((3, 1)), 7).shape == (3, 2)
    arms = pool_neighbors(arms_of([4, 2, 0], [1.0, 2.0, 0.0]), near, 0.5)
    assert arms.count.tolist() == [5, 4, 1]
    assert arms.mean.tolist() == pytest.approx([2 / 5, 2.5 / 4, 1.0])
    settings = BanditConfig(alpha=0.0, neighbors=1)
    again = score_arms(arms_of([4, 2, 0], [1.0, 2.0, 0.0]), np.array([[0.0], [1.0], [5.0]]), settings)
    assert again.score == pytest.approx(arms.mean)


def wanted(allocate, budget: int, score, settings: BanditConfig | None = None) -> list[int]:
    arms = arms_of(np.zeros(len(score)), np.zeros(len(score)), score)
    return allocate(arms, budget, np.random.default_rng(0), settings or BanditConfig()).tolist()


def test_proportional_by_hand():
    assert wanted(proportional, 10, [0.5, 0.3, 0.2, 0.0]) == [5, 3, 2, 1]


def test_top_k_by_hand():
    assert wanted(top_k, 7, [0.1, 0.9, 0.5, 0.7], BanditConfig(top_k=3)) == [0, 3, 2, 2]


def test_softmax_by_hand():
    """Shares 0.6, 0.3 and 0.1 of 14 are 8.4, 4.2 and 1.4. One arm with remainder 0.4 gets the last prompt."""
    assert wanted(softmax, 14, np.log([6.0, 3.0, 1.0]), BanditConfig(temperature=1.0)) == [9, 4, 1]
    assert wanted(softmax, 5, [0.0, 800.0], BanditConfig(temperature=0.1)) == [0, 5]


def test_thompson_draws_arms_with_their_probability_to_be_the_best():
    """Beta(31, 11) exceeds Beta(21, 21) in 98.9 % of 400,000 draws."""
    arms = arms_of([40, 40], [30.0, 20.0])
    got = thompson(arms, 4000, np.random.default_rng(3), BanditConfig())
    assert got.sum() == 4000
    assert got[0] / 4000 == pytest.approx(0.989, abs=0.005)


def test_thompson_draws_do_not_depend_on_chunks():
    """A budget of 2,500 over 3 arms gives the same result as a single matrix of draws."""
    arms = arms_of([4, 9, 2], [3.0, 4.0, 1.0])
    draws = np.random.default_rng(5).beta([4.0, 5.0, 2.0], [2.0, 6.0, 2.0], size=(2500, 3))
    whole = np.bincount(draws.argmax(axis=1), minlength=3)
    assert thompson(arms, 2500, np.random.default_rng(5), BanditConfig()).tolist() == whole.tolist()


@pytest.mark.parametrize("allocation", [name for name, function in ALLOCATIONS.items() if function])
def test_settled_allocations_are_feasible_and_use_the_budget(allocation):
    rng, settings, allocate = np.random.default_rng(1), BanditConfig(top_k=3), ALLOCATIONS[allocation]
    for _ in range(200):
        size = rng.integers(1, 30)
        available = rng.integers(0, 8, size)
        budget = rng.integers(1, max(2, available.sum() + 1))
        if budget > available.sum():
            continue
        count = rng.integers(0, 9, size)
        arms = arms_of(count, count * rng.random(size), rng.normal(size=size), rng.normal(size=size))
        got = settle_allocation(lambda a, b: allocate(a, b, rng, settings), arms, available, budget, rng)
        assert got.sum() == budget
        assert (got <= available).all()
        assert (got >= 0).all()


@pytest.mark.parametrize(
    ("settings", "budget"),
    [
        (BanditConfig("top_k", top_k=3), 12),
        (BanditConfig("softmax"), 20),
        (BanditConfig("proportional"), 20),
        (BanditConfig("proportional"), 3),
    ],
)
def test_equal_arms_are_drawn_equally_often(settings, budget):
    """The clusters are the same for all seeds, so their order must not decide."""
    clusters, size = np.repeat(np.arange(8), 20), 400
    arms = score_arms(Arms.fresh(8), np.zeros((8, 1)), settings)
    drawn = np.zeros((size, 8))
    for seed in range(size):
        rng = np.random.default_rng(seed)
        chosen = draw_prompts(arms, clusters, np.zeros(160, dtype=int), budget, rng, settings)
        drawn[seed] = np.bincount(clusters[chosen], minlength=8)
    standard_errors = drawn.std(axis=0) / np.sqrt(size)
    assert (np.abs(drawn.mean(axis=0) - budget / 8) < 4 * standard_errors).all()


def test_order_of_ties_does_not_change_later_draws():
    """A child of the generator decides, so the same prompts are drawn from the same arms with and without ties."""
    clusters, times, settings = np.repeat(np.arange(2), 20), np.zeros(40, dtype=int), BanditConfig("proportional")
    drawn = [
        draw_prompts(arms_of([0, 0], [0, 0], score), clusters, times, 5, np.random.default_rng(3), settings).tolist()
        for score in ([0.5, 0.5], [0.5, 0.5 + 1e-9], [0.5 + 1e-9, 0.5])
    ]
    assert drawn[0] in drawn[1:] and drawn[1] != drawn[2]


def test_forgotten_arms_do_not_keep_others_from_being_drawn():
    """With a discount, counts fall below 1, which must not give known arms a larger bonus than unknown ones."""
    settings, clusters = BanditConfig("top_k", top_k=4, gamma=0.5), np.repeat(np.arange(40), 100)
    rng, arms, times = np.random.default_rng(0), Arms.fresh(40), np.zeros(4000, dtype=int)
    for _ in range(40):
        arms = score_arms(arms, np.zeros((40, 1)), settings)
        chosen = draw_prompts(arms, clusters, times, 32, rng, settings)
        times[chosen] += 1
        arms = update_arms(arms, clusters[chosen], rng.random(32), settings.gamma)
    assert (arms.pulls > 0).all()


def test_unknown_arm_has_the_smallest_count():
    scores = ucb_scores(arms_of([0.0, 0.25, 4.0], [0.0, 0.125, 2.0]), 1.0)
    assert scores.tolist() == pytest.approx([0.5 + np.sqrt(2 * np.log(5.25) / n) for n in (0.25, 0.25, 4)])


def test_prompts_are_not_reused_while_fresh_ones_remain():
    rng = np.random.default_rng(0)
    clusters, times = rng.integers(0, 4, 40), np.zeros(40, dtype=int)
    for _ in range(4):
        chosen = draw_prompts(Arms.fresh(4), clusters, times, 10, rng, BanditConfig("proportional"))
        assert (times[chosen] == 0).all()
        assert len(set(chosen)) == 10
        times[chosen] += 1
    assert (times == 1).all()


def test_budget_beyond_the_fresh_prompts():
    clusters, times = np.zeros(10, dtype=int), np.array([0] * 3 + [1] * 5 + [2] * 2)
    with pytest.raises(InputError, match="^budget: 6 prompts, but only 3 of 10"):
        draw_prompts(Arms.fresh(1), clusters, times, 6, np.random.default_rng(0), BanditConfig("uniform"))
    for allocation in ("uniform", "top_k"):
        settings = BanditConfig(allocation, reuse=True)
        chosen = draw_prompts(Arms.fresh(1), clusters, times, 6, np.random.default_rng(0), settings)
        assert len(set(chosen)) == 6
        assert {0, 1, 2} <= set(chosen)
        assert times[chosen].max() == 1
        with pytest.raises(InputError, match="^budget: 11 prompts, but there are only 10; lower it or add prompts$"):
            draw_prompts(Arms.fresh(1), clusters, times, 11, np.random.default_rng(0), settings)


def test_allocation_all_annotates_everything_once_per_round():
    shares = [draw_share(10, step, 3, np.random.default_rng(5)) for step in (1, 2, 3)]
    assert sorted(np.concatenate(shares)) == list(range(10))


@pytest.mark.parametrize("counts", [[0, 0], [1], [1.5, 1], [-1, 2], ["a", "b"], None, [np.nan, 1]])
def test_allocations_that_return_no_counts_raise(counts):
    """An allocation may be a function of the user. One that returns only zeros would never use the budget."""
    with pytest.raises(SettingError, match="allocation: returned .*, expected"):
        settle_allocation(lambda arms, budget: counts, Arms.fresh(2), np.array([5, 5]), 4, np.random.default_rng(0))
