"""Confidence intervals and statistics that compare policies."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from prefloop.core.ranks import Interval
from prefloop.evaluation.inference import (
    RIDGE,
    best,
    bootstrap_mean,
    cost_to_reach,
    exact_zeros,
    first_crossing,
    halfway,
    length_controlled,
    mean_interval,
    paired_difference,
    paired_estimate,
    rate_at_zero,
    rate_interval,
    resample_counts,
    resampled_curves,
    weighted_means,
)
from prefloop.evaluation.random_effects import crossed_mean

nan = np.nan


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def planted(seed: int, seeds: int = 1, prompts: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Return values of two policies on the same prompts with means 0.5 apart; prompts differ far more than policies."""
    draw = rng(seed)
    hard = draw.normal(0, 3, (1, prompts))
    return 0.5 + hard + draw.normal(0, 1, (seeds, prompts)), hard + draw.normal(0, 1, (seeds, prompts))


def by_loop(values: np.ndarray, rng: np.random.Generator, resamples: int) -> Interval:
    """Return the mean and its bootstrap interval from a loop over resamples of prompts and seeds."""
    seeds, prompts = values.shape
    means = []
    for _ in range(resamples):
        drawn = values[:, rng.integers(prompts, size=prompts)]
        drawn = drawn[rng.integers(seeds, size=seeds)] if seeds > 1 else drawn
        valid = drawn[np.isfinite(drawn)]
        means.append(valid.mean() if len(valid) else np.nan)
    low, high = np.nanquantile(means, [0.025, 0.975])
    return Interval(float(np.nanmean(values)), float(low), float(high))


def test_counts_are_equivalent_to_resampling_by_index():
    """A mean weighted by counts is the mean of the values repeated by their counts, without NaN."""
    values = np.array([[1.0, nan, 4.0], [nan, 10.0, 7.0]])
    of_seeds, of_prompts = np.array([[2.0, 0.0], [1.0, 1.0], [2.0, 0.0]]), np.array([[1, 0, 2], [0, 3, 0], [0, 3, 0]])
    gathered = [values[[0, 0]][:, [0, 2, 2]], values[[0, 1]][:, [1, 1, 1]]]
    found = weighted_means(values, of_seeds, of_prompts)
    assert found[:2] == pytest.approx([np.nanmean(part) for part in gathered])
    assert np.isnan(found[2])  # the first seed has no valid judgment on the second prompt


def test_resamples_have_the_original_size():
    of_seeds, of_prompts = resample_counts(3, 7, rng(), 50)
    assert of_seeds.shape == (50, 3) and of_prompts.shape == (50, 7)
    assert (of_seeds.sum(axis=1) == 3).all() and (of_prompts.sum(axis=1) == 7).all()
    assert (resample_counts(1, 7, rng(), 50)[0] == 1).all()  # a single seed is not resampled


@pytest.mark.parametrize("seeds", [1, 3])
def test_vectorized_resamples_match_a_loop(seeds):
    values = rng().normal(0, 1, (seeds, 80)) + np.arange(seeds)[:, None]
    values[0, :10] = nan
    loop, at_once = by_loop(values, rng(1), 8000), bootstrap_mean(values, resamples=8000)
    assert at_once.mean == loop.mean
    assert at_once == pytest.approx(loop, abs=0.06)  # the ends are random with standard errors of 0.015


def test_resamples_are_deterministic():
    a, b = planted(0, 3)
    first = bootstrap_mean(a)
    assert bootstrap_mean(a) == first
    assert bootstrap_mean(a + 1) == pytest.approx(np.add(first, 1))  # another policy has the same draws


def test_repeated_seeds_keep_the_interval_of_one():
    values = planted(0)[0]
    wins = (values > 0).astype(float)
    for interval, table in [(mean_interval, values), (bootstrap_mean, values), (rate_interval, wins)]:
        assert interval(table[[0, 0, 0]]) == pytest.approx(interval(table), rel=1e-12)


def test_interval_without_valid_values_is_nan():
    for interval in (mean_interval, rate_interval, bootstrap_mean):
        assert np.isnan(interval(np.full((2, 3), nan))).all()


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_have_nominal_coverage(seeds):
    """Covers a difference of means and a mean over 100 new prompts; seeds differ only by chance."""
    covered = np.zeros(2)
    for trial in range(600):
        a, b = planted(trial, seeds)
        intervals = [paired_difference(a, b), mean_interval(a)]
        covered += [i.low <= 0.5 <= i.high for i in intervals]
    assert all(0.92 <= share <= 0.985 for share in covered / 600)


@pytest.mark.parametrize(("interval", "coverage"), [(mean_interval, 0.95), (bootstrap_mean, 0.74)])
def test_coverage_of_three_seeds_that_differ(interval, coverage):
    """docs/evaluation.md reports the coverage for these variance components, measured with more tables."""
    covered = 0
    for trial in range(400):
        values = rng(trial).normal(0, 1, (3, 1)) + rng(trial + 1000).normal(0, 0.1, (3, 100))
        found = interval(values)
        covered += found.low <= 0 <= found.high
    assert covered / 400 == pytest.approx(coverage, abs=0.06)


def test_bootstrap_interval_has_nominal_coverage():
    covered = 0
    for seed in range(200):
        generator = rng(seed)
        interval = bootstrap_mean(generator.normal(3, 1, (1, 60)), generator, resamples=400)
        covered += interval.low <= 3 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_bootstrap_draws_whole_families():
    """With two families of two, a resample has both families or one of them twice."""
    families = np.array(["a", "b", "a", "b"])
    _, of_prompts = resample_counts(1, 4, rng(), 100, families)
    assert set(map(tuple, of_prompts)) == {(1, 1, 1, 1), (2, 0, 2, 0), (0, 2, 0, 2)}


def in_families(values: np.ndarray, families: list[str]) -> pd.DataFrame:
    columns = pd.MultiIndex.from_tuples([(name, f"p{i}") for i, name in enumerate(families)])
    return pd.DataFrame(values, columns=columns.set_names(["family", "prompt_id"]))


def test_families_of_a_frame_are_clusters():
    values, families = rng().normal(0, 1, (2, 6)), list("aabbcc")
    clustered = mean_interval(in_families(values, families))
    assert clustered == crossed_mean(values, np.array(families)).interval()
    assert clustered != mean_interval(values) and clustered.mean == pytest.approx(values.mean())
    assert paired_difference(in_families(values, families), values[:1]) == pytest.approx(
        crossed_mean(values - values[:1], np.array(families)).interval()
    )


def test_single_family_is_not_a_cluster():
    values = rng().normal(0, 1, (2, 6))
    assert mean_interval(in_families(values, ["a"] * 6)) == mean_interval(values)


@pytest.mark.parametrize(("wins", "n"), [(0, 8), (3, 8), (40, 60), (60, 60)])
def test_one_seed_without_ties_gives_wilsons_interval(wins, n):
    scores = np.array([[1.0] * wins + [0.0] * (n - wins) + [nan]])
    expected = stats.binomtest(wins, n).proportion_ci(0.95, method="wilson")
    assert rate_interval(scores) == pytest.approx((wins / n, expected.low, expected.high))


def test_wilson_interval_with_ties_solves_its_equation():
    """Five wins, three ties, two losses: (0.65 − μ)² = z²·(μ(1 − μ) − t/4)/10 with t = 0.3·10/(10 + z²)."""
    mean, low, high = rate_interval(np.array([[1.0] * 5 + [0.5] * 3 + [0.0] * 2]))
    assert mean == pytest.approx(0.65)
    square = 1.959964**2
    for end in (low, high):
        assert (mean - end) ** 2 == pytest.approx(square * (end * (1 - end) - 3 / (10 + square) / 4) / 10)


@pytest.mark.parametrize("ties", [0.0, 0.35, 0.9, 1.0])
def test_wilson_interval_with_ties_has_nominal_coverage(ties):
    """60 comparisons; a fifth of the decided ones are losses."""
    draw, truth, covered = rng(9), ties / 2 + 0.8 * (1 - ties), 0
    for _ in range(600):
        interval = rate_interval(draw.choice([1.0, 0.5, 0.0], (1, 60), p=[0.8 * (1 - ties), ties, 0.2 * (1 - ties)]))
        covered += interval.low <= truth <= interval.high
        assert interval.high - interval.low < 0.26
    assert covered / 600 >= 0.92


def test_wilson_interval_with_families_has_fewer_effective_prompts():
    """Scores come in equal pairs, so the design effect is 2, up to the corrections n/(n − 1) of both variances."""
    scores = rng(3).choice([0.0, 1.0], 20).repeat(2)[None]
    families = [f"f{i // 2}" for i in range(40)]
    effective = 40 / (2 * (20 / 19) / (40 / 39) * 39 / 40 * 40 / 39)
    mean = float(scores.mean())
    for end in rate_interval(in_families(scores, families))[1:]:
        assert (mean - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / effective, rel=1e-5)


def test_rates_stay_between_0_and_1():
    wins = np.ones((3, 8))
    wins[0, 0] = wins[1, 3] = 0
    interval = rate_interval(wins)
    assert mean_interval(wins).high > 1 and interval.high == 1
    assert interval[:2] == mean_interval(wins)[:2]


def test_intervals_are_wider_if_seeds_differ():
    same = rng().normal(0, 1, (1, 100)).repeat(3, axis=0)
    shifted = same + np.array([[-1.0], [0.0], [1.0]])
    narrow, wide = (mean_interval(x) for x in (same, shifted))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_invalid_judgments_do_not_count():
    interval = mean_interval(np.array([[1.0, np.nan, 0.0]]))
    assert interval.mean == 0.5


def test_pairing_removes_prompt_effects():
    a, b = planted(0)
    paired = paired_difference(a, b)
    assert paired.mean == pytest.approx(a.mean() - b.mean())
    unpaired = [mean_interval(x) for x in (a, b)]
    assert 2 * (paired.high - paired.low) < unpaired[0].high - unpaired[0].low
    assert paired.low > 0 and unpaired[0].low < unpaired[1].high, "unpaired intervals overlap"


def test_equal_means_have_no_difference():
    """In floating point, the mean of these differences is not 0."""
    a, b = np.array([[0.1, 0.1, 0.3]]), np.array([[0.1, 0.2, 0.2]])
    assert (a - b).mean() != 0
    estimate = paired_estimate(a, b)
    assert estimate.mean == 0 and estimate.p_value == 1 and estimate.standard_error > 0
    assert exact_zeros([(a - b).mean(), 1e-9], a, b).tolist() == [0, 1e-9]
    assert np.isnan(exact_zeros(np.nan, a * np.nan, b))


def test_prompts_invalid_on_one_side_are_left_out_on_both():
    interval = paired_difference(np.array([[1.0, nan, 0.0, 1.0]]), np.array([[0.0, 5.0, nan, 1.0]]))
    assert interval.mean == 0.5  # mean of 1 − 0 and 1 − 1
    assert (interval.low, interval.high) == pytest.approx((0.5 - 12.7062 / 2, 0.5 + 12.7062 / 2), abs=1e-4)  # 1 df


def test_one_seed_is_paired_with_every_seed():
    a, b = planted(0, seeds=3)
    assert paired_difference(a, b[:1]) == paired_difference(a, b[[0, 0, 0]])


def test_best_requires_every_difference_to_be_significant():
    draw = rng()
    hard = draw.normal(0, 3, 200)
    values = {
        "initial": (hard + draw.normal(0, 1, 200))[None],
        "good": hard + 1 + draw.normal(0, 1, (3, 200)),
        "also": hard + 0.98 + draw.normal(0, 1, (3, 200)),
    }
    assert best(values) is None
    assert best({name: values[name] for name in ("initial", "good")}) == "good"
    assert best(values | {"top": hard + 2 + draw.normal(0, 1, (3, 200))}) == "top"
    assert best({"good": values["good"]}) is None  # nothing to compare with
    assert best(values | {"silent": np.full((3, 200), nan), "also": np.full((3, 200), nan)}) == "good"


def test_best_is_corrected_for_the_number_of_rows():
    """A row that is barely significant against one other row is not significant against twenty."""
    b = rng(3).normal(0, 1, 100)
    noise = rng(4).normal(0, 1, 100)
    a = b + (noise - noise.mean()) / noise.std() + 0.25  # 2.5 standard errors
    assert best({"a": a, "b": b}) == "a"
    assert best({"a": a} | {f"b{i}": b for i in range(20)}) is None


def test_best_rarely_names_one_of_equal_rows():
    """If five policies differ only by chance, at most 2.5 % of experiments may name a best one."""
    named = 0
    for trial in range(200):
        draw = rng(trial)
        hard = draw.normal(0, 1, 60)
        named += best({f"m{i}": hard + draw.normal(0, 1, 60) for i in range(5)}) is not None
    assert named / 200 <= 0.025


def by_scikit(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Fit with scikit-learn. A soft label is two weighted rows; the intercept is a column, because it is penalized."""
    rows = np.stack([np.ones_like(x), x], axis=1)
    model = LogisticRegression(C=1 / RIDGE, fit_intercept=False, solver="newton-cholesky", tol=1e-12)
    labels = np.repeat([1, 0], len(y))
    model.fit(np.concatenate([rows, rows]), labels, np.concatenate([weights * y, weights * (1 - y)]))
    return 1 / (1 + np.exp(-model.coef_[0, 0]))


def test_regression_agrees_with_scikit_learn():
    """Includes cases in which length or policy decides all comparisons, so that only the ridge keeps the fit finite."""
    draw = rng()
    x = np.tanh(draw.normal(0, 1, 40))
    outcomes = [draw.choice([0, 0.5, 1], 40), (x > 0).astype(float), (x > -0.9).astype(float), x * 0 + 1]
    outcomes[-1][0] = 0
    weights = draw.multinomial(40, np.full(40, 1 / 40), size=5).astype(float)
    weights[:, 0] = 1
    for y in outcomes:
        assert rate_at_zero(x, y, weights) == pytest.approx([by_scikit(x, y, w) for w in weights], abs=1e-6)


def test_length_controlled_estimate_agrees_with_scikit_learn():
    draw = rng(1)
    wins, differences = draw.choice([0, 0.5, 1, nan], (2, 50)), draw.normal(3, 10, (2, 50)).round()
    valid = np.isfinite(wins)
    x = np.tanh(differences[valid] / differences[valid].std())
    expected = by_scikit(x, wins[valid], np.ones(valid.sum()))
    assert length_controlled(wins, differences, rng(), 100).mean == pytest.approx(expected, abs=1e-6)


def test_planted_length_bias_is_removed():
    """Only length decides and the policy writes more: its win rate is far above 0.5, but 0.5 if length-controlled."""
    draw = rng(2)
    differences = draw.normal(10, 10, (1, 4000))
    rate = 1 / (1 + np.exp(-2 * np.tanh(differences / differences.std())))
    wins = (draw.uniform(size=rate.shape) < rate).astype(float)
    assert wins.mean() > 0.65
    interval = length_controlled(wins, differences, rng(), 500)
    assert interval.low < 0.5 < interval.high and interval.high - interval.low < 0.1


def test_length_control_keeps_the_rate_without_an_effect_of_length():
    """Holds if length differences cancel within each outcome, or if all are zero."""
    wins = np.array([[1, 1, 0, 0, 1, 1, 0.5, 0.5]])
    mirrored = np.array([[5, -5, 5, -5, 9, -9, 2, -2]])
    for differences in (mirrored, mirrored * 0):
        interval = length_controlled(wins, differences, rng())
        assert interval.mean == pytest.approx(wins.mean(), abs=1e-4)
        assert interval.low < wins.mean() < interval.high


def test_policy_that_always_wins_keeps_its_win_rate():
    assert length_controlled(np.ones((1, 50)), rng().normal(0, 5, (1, 50)), rng(), 200).low > 0.99


def test_constant_length_cannot_be_controlled_for():
    assert np.isnan(length_controlled(np.array([[1.0, 0.0]]), np.array([[3.0, 3.0]]), rng())).all()
    assert np.isnan(length_controlled(np.array([[nan]]), np.array([[3.0]]), rng())).all()


def test_length_controlled_interval_has_nominal_coverage():
    covered = 0
    truth = 1 / (1 + np.exp(-0.5))
    for trial in range(200):
        draw = rng(trial)
        differences = draw.normal(5, 10, (1, 150))
        # The code uses the sample's sd, here it is the population's; at difference 0 both give the same rate.
        rate = 1 / (1 + np.exp(-0.5 - np.tanh(differences / 10)))
        wins = (draw.uniform(size=rate.shape) < rate).astype(float)
        interval = length_controlled(wins, differences, draw, 300)
        covered += interval.low <= truth <= interval.high
    assert 0.90 <= covered / 200 <= 0.98


def test_first_crossing_by_hand():
    x = np.array([[0.0, 10, 20, 40]] * 6)
    y = np.array(
        [
            [0.0, 1, 2, 3],  # 1.5 halfway between 10 and 20
            [0, 2, 0, 9],  # first of two crossings: 1.5/2 of the first segment
            [2, 0, 0, 0],  # reached from the start
            [0, 0, 0, 1.5],  # exactly at the end
            [0, 1, 1, 1],  # never
            [0, nan, 2, 2],  # a segment that starts at NaN does not count
        ]
    )
    assert first_crossing(x, y, 1.5).tolist() == [15, 7.5, 0, 40, np.inf, np.inf]
    targets = np.array([0.5, 1, 2, 3, 1, nan])  # one target per curve
    assert first_crossing(x, y, targets).tolist() == [5, 5, 0, np.inf, 10, np.inf]


def test_halfway_by_hand():
    """The best method differs between resamples. There is no target if no method ends above the start."""
    curves = {"a": np.array([[0.0, 9, 2], [1, 1, 1], [2, 3, 1], [0, 0, nan]])}
    curves["b"] = np.array([[0.0, 0, 1], [1, 1, 4], [2, 3, 2], [0, 0, 6]])
    np.testing.assert_array_equal(halfway(curves), [1, 2.5, nan, 3])


def reach(cost: np.ndarray, reward: np.ndarray, target: float | None, draw=None, resamples: int = 2000):
    """Return `cost_to_reach` of a single method; the default target is halfway to its end."""
    curves, of_seeds = resampled_curves({"": reward}, draw, resamples)
    return cost_to_reach(cost, curves[""], of_seeds, halfway(curves) if target is None else target)


def test_cost_to_reach_by_hand():
    """Two seeds have mean costs 0, 30, 50 and mean rewards 0, 1, 4. Reward 2 is at a third of the second segment."""
    cost = np.array([[0.0, 20, 40], [0, 40, 60]])
    reward = np.array([[[0.0, 0], [1, 1], [3, 5]], [[0, 0], [1, 1], [5, 3]]])
    found = reach(cost, reward, 2)
    assert found.cost == pytest.approx(30 + 20 / 3)
    assert found.low <= found.cost <= found.high and found.reached == 1


def test_resamples_that_never_reach_the_target_have_infinite_cost():
    """One of two prompts improves. Half of the resamples contain it once, and a quarter do not contain it."""
    cost, reward = np.array([[0.0, 10]]), np.array([[[0.0, 0.0], [0.0, 2.0]]])
    found = reach(cost, reward, 1, resamples=4000)
    assert found.cost == 10 and found.low == 5 and found.high == np.inf
    assert found.reached == pytest.approx(0.75, abs=0.03)
    never = reach(cost, reward, 3)
    assert never == (np.inf, np.inf, np.inf, 0)


@pytest.mark.parametrize(("target", "crossing"), [(1.2, 9), (None, 7.5)])
def test_cost_to_reach_covers_the_planted_crossing(target, crossing):
    """Also holds for the halfway target, whose true value is 1 but which varies between trials and resamples."""
    covered = 0
    for trial in range(300):
        draw = rng(trial)
        hard = draw.normal(0, 1, (1, 1, 100))
        reward = hard + np.array([0.0, 4 / 3, 2])[None, :, None] + draw.normal(0, 1, (1, 3, 100))
        found = reach(np.array([[0.0, 10, 20]]), reward, target, draw, 300)
        covered += found.low <= crossing <= found.high
    assert 0.90 <= covered / 300 <= 0.98


def test_prompt_difficulty_does_not_widen_halfway():
    """A fixed target at the same level has the interval [0, ∞], because resamples of easy prompts start above it."""
    draw = rng(5)
    hard = draw.normal(0, 20, (1, 1, 100))
    reward = hard + np.array([0.0, 1, 2])[None, :, None] + draw.normal(0, 0.5, (1, 3, 100))
    cost, mean = np.array([[0.0, 10, 20]]), reward.mean(axis=(0, 2))
    number = reach(cost, reward, (mean[0] + mean[-1]) / 2)
    found = reach(cost, reward, None)
    assert found.cost == pytest.approx(number.cost) and (number.low, number.high) == (0, np.inf)
    assert 8 < found.low < found.cost < found.high < 12 and found.reached == 1


def test_methods_are_resampled_together():
    """A copy of a method whose rewards are higher by 1 is higher by 1 in every resample."""
    reward = rng().normal(0, 1, (3, 2, 50))
    curves, of_seeds = resampled_curves({"a": reward, "b": reward + 1})
    assert curves["b"] == pytest.approx(curves["a"] + 1)
    assert curves["a"][0] == pytest.approx(reward.mean(axis=(0, 2))) and (of_seeds[0] == 1).all()
