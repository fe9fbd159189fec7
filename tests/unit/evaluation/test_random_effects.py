"""The crossed random-effects interval and test for a table [seeds, prompts]."""

import numpy as np
import pytest
from scipy import stats

from prefloop.evaluation.random_effects import (
    MeanEstimate,
    complete_table,
    crossed_mean,
    estimate_mean,
    holm,
    mean_squares,
)

nan = np.nan


def planted(draw: np.random.Generator, shape: tuple[int, int], deviations: tuple[float, float, float]) -> np.ndarray:
    """Draw a table [seeds, prompts] with mean 0 and the given sds of seed effects, prompt effects and residuals."""
    seeds, prompts = shape
    of_seed, of_prompt, residual = deviations
    return (
        draw.normal(0, of_seed, (seeds, 1)) + draw.normal(0, of_prompt, (1, prompts)) + draw.normal(0, residual, shape)
    )


def test_two_by_three_by_hand():
    """Row means 2 and 4, column means 2, 3 and 4, mean 3; the residuals are −1, 1, 0 and 1, −1, 0."""
    squares = mean_squares(np.array([[0.0, 3.0, 3.0], [4.0, 3.0, 5.0]]))
    assert (squares.mean, squares.of_seeds, squares.of_prompts, squares.residual) == (3, 6, 2, 2)
    assert squares.seed_variance == pytest.approx((6 - 2) / 3) and squares.prompt_variance == 0
    estimate = estimate_mean(squares)  # MS_p is not above MS_r, so Var = MS_s/6 with one degree of freedom
    assert estimate.standard_error == pytest.approx(1) and estimate.degrees_of_freedom == pytest.approx(1)
    assert estimate.interval() == pytest.approx((3, 3 - 12.7062, 3 + 12.7062), abs=1e-4)
    assert estimate.p_value == pytest.approx(2 * stats.t.sf(3, 1))


def test_satterthwaite_by_hand():
    """MS_s = 12, MS_p = 8 and MS_r = 2: Var = (12 + 8 − 2)/6, df = 18²/(12²/1 + 8²/2 + 2²/2)."""
    deviations = np.sqrt(2) * np.array([[-1.0], [1.0]]) + 2 * np.array([[-1.0, 0.0, 1.0]])
    residuals = np.array([[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0]])
    squares = mean_squares(deviations + residuals)
    assert (squares.of_seeds, squares.of_prompts, squares.residual) == pytest.approx((12, 8, 2))
    estimate = estimate_mean(squares)
    assert estimate.standard_error == pytest.approx(np.sqrt(18 / 6))
    assert estimate.degrees_of_freedom == pytest.approx(18**2 / (144 + 32 + 2))


def test_one_seed_gives_the_t_interval_over_prompts():
    values = np.random.default_rng(0).normal(1, 2, 40)
    found = crossed_mean(values)
    expected = stats.ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.9)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval(0.9) == pytest.approx((values.mean(), interval.low, interval.high))


def test_one_prompt_gives_the_t_interval_over_seeds():
    values = np.array([1.0, 2.0, 4.0])
    assert crossed_mean(values[:, None]).p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_single_value_has_no_interval():
    assert np.isnan(crossed_mean(np.array([[3.0]])).interval()[1:]).all()
    assert np.isnan(crossed_mean(np.array([[3.0, nan]])).p_value)
    assert np.isnan(crossed_mean(np.full((2, 3), nan)).interval()).all()


def test_equal_values_have_no_uncertainty():
    assert crossed_mean(np.zeros((3, 4))).p_value == 1
    assert crossed_mean(np.full((3, 4), 0.5)).interval() == (0.5, 0.5, 0.5)
    assert MeanEstimate(0.5, 0.0, nan).p_value == 0


def test_repeated_seeds_change_nothing():
    values = np.random.default_rng(1).normal(0, 1, (1, 30))
    assert crossed_mean(values[[0, 0, 0]]).interval() == pytest.approx(crossed_mean(values).interval())


@pytest.mark.parametrize("deviations", [(0.3, 1.0, 0.5), (1.0, 0.2, 0.5), (0.0, 1.0, 1.0)])
def test_planted_variances_are_recovered(deviations):
    draw = np.random.default_rng(2)
    tables = [mean_squares(planted(draw, (12, 80), deviations)) for _ in range(300)]
    # Without the lower limit of 0, which would bias the estimate of a zero variance.
    found = np.mean(
        [((s.of_seeds - s.residual) / s.prompts, (s.of_prompts - s.residual) / s.seeds, s.residual) for s in tables],
        axis=0,
    )
    assert found == pytest.approx(np.square(deviations), rel=0.06, abs=0.002)


@pytest.mark.parametrize(
    ("shape", "deviations"), [((10, 60), (0.3, 1.0, 1.0)), ((5, 100), (1.0, 1.0, 1.0)), ((1, 50), (0.0, 1.0, 1.0))]
)
def test_p_values_are_uniform_under_the_null(shape, deviations):
    draw = np.random.default_rng(3)
    p_values = [crossed_mean(planted(draw, shape, deviations)).p_value for _ in range(500)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.05


def test_missing_cells_keep_the_mean_of_valid_values():
    values = np.array([[1.0, nan, 3.0], [5.0, 2.0, nan]])
    table = complete_table(values)
    # m = 2.75, four of six cells are valid: 2.75 + (y − 2.75)·1.5
    np.testing.assert_allclose(table, [[0.125, 2.75, 3.125], [6.125, 1.625, 2.75]])
    assert crossed_mean(values).mean == pytest.approx(np.nanmean(values))


def test_prompts_and_seeds_without_a_value_are_left_out():
    values = np.random.default_rng(4).normal(0, 1, (2, 9))
    padded = np.full((3, 11), nan)
    padded[:2, 1:10] = values
    assert crossed_mean(padded) == crossed_mean(values)


@pytest.mark.parametrize("missing", [0.1, 0.4])
def test_intervals_with_missing_cells_have_nominal_coverage(missing):
    draw = np.random.default_rng(5)
    covered = 0
    for _ in range(600):
        values = planted(draw, (5, 60), (0.3, 1.0, 1.0))
        values[draw.uniform(size=values.shape) < missing] = nan
        interval = crossed_mean(values).interval()
        covered += interval.low <= 0 <= interval.high
    assert 0.925 <= covered / 600 <= 0.975


def test_families_of_one_prompt_change_nothing():
    values = np.random.default_rng(6).normal(0, 1, (3, 20))
    assert crossed_mean(values, np.arange(20)).interval() == pytest.approx(crossed_mean(values).interval())


def test_families_are_cluster_robust():
    """For one seed, the result is the sandwich standard error of a mean with the correction families/(families − 1)."""
    values = np.array([[1.0, 2.0, 6.0, 3.0, 8.0]])
    families = np.array(["a", "a", "b", "b", "c"])
    residuals = values[0] - values.mean()
    scores = np.array([residuals[families == name].sum() for name in "abc"])
    found = crossed_mean(values, families)
    assert found.mean == values.mean() and found.degrees_of_freedom == pytest.approx(2)
    assert found.standard_error == pytest.approx(np.sqrt(3 / 2 * (scores**2).sum()) / 5)


def test_intervals_with_families_have_nominal_coverage():
    """Prompts of a family share an effect, so intervals that ignore families have far too low coverage."""
    draw = np.random.default_rng(7)
    families = np.repeat(np.arange(25), 4)
    covered = np.zeros(2)
    for _ in range(600):
        values = planted(draw, (3, 100), (0.1, 0.5, 0.5)) + draw.normal(0, 1, 25)[families]
        intervals = [crossed_mean(values, families).interval(), crossed_mean(values).interval()]
        covered += [interval.low <= 0 <= interval.high for interval in intervals]
    assert 0.925 <= covered[0] / 600 <= 0.975 and covered[1] / 600 < 0.85


def test_holm_by_hand():
    """Sorted p-values 0.01, 0.02, 0.03, 0.2 are multiplied by 4, 3, 2, 1; the results must not decrease."""
    assert holm(np.array([0.03, 0.01, nan, 0.2, 0.02])) == pytest.approx([0.06, 0.04, nan, 0.2, 0.06], nan_ok=True)
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]
    assert len(holm(np.array([]))) == 0
