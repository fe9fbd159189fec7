"""Power matches simulation, planted variance parts are recovered, and the number of seeds inverts the power."""

import math

import numpy as np
import pytest
from scipy import stats

from prefloop.evaluation.power import (
    Design,
    VarianceParts,
    _variance_and_df,
    detectable_difference,
    mean_variance,
    power_of_test,
    power_with_all_seeds,
    seeds_needed,
    variance_parts,
)
from prefloop.evaluation.random_effects import MeanSquares, crossed_mean, estimate_mean

TRIALS = 2000
PARTS = VarianceParts(seed=0.002, prompt=0.01, interaction=0.02, sample=0.08)
CASES = {
    "all parts": (PARTS, Design(5, 40, 2)),
    "no seed part": (PARTS._replace(seed=0.0), Design(3, 64, 1)),
    "no prompt part": (PARTS._replace(prompt=0.0), Design(4, 30, 1)),
    "samples alone": (VarianceParts(0.0, 0.0, 0.0, 0.1), Design(3, 20, 2)),
    "two seeds": (PARTS, Design(2, 60, 1)),
    "seeds alone": (VarianceParts(0.01, 0.0, 0.0, 0.0), Design(6, 10, 1)),
    "many seeds": (PARTS._replace(prompt=0.1), Design(12, 16, 4)),
    "families": (PARTS._replace(family=0.02, family_interaction=0.004), Design(4, 60, 1, families=12)),
    "families that do not differ": (PARTS, Design(3, 40, 2, families=10)),
}


def planted(parts: VarianceParts, design: Design, mean: float, draw: np.random.Generator) -> np.ndarray:
    """Draw differences [seeds, prompts, samples] with these variance parts around `mean`."""
    seeds, prompts, samples, _ = design
    families = family_labels(design)
    of_families = draw.normal(0, math.sqrt(parts.family), prompts)
    of_families = of_families + draw.normal(0, math.sqrt(parts.family_interaction), (seeds, prompts))
    return (
        mean
        + (of_families[:, families] if families is not None else of_families)[:, :, None]
        + draw.normal(0, math.sqrt(parts.seed), (seeds, 1, 1))
        + draw.normal(0, math.sqrt(parts.prompt), (1, prompts, 1))
        + draw.normal(0, math.sqrt(parts.interaction or 0), (seeds, prompts, 1))
        + draw.normal(0, math.sqrt(parts.sample), (seeds, prompts, samples))
    )


def family_labels(design: Design) -> np.ndarray | None:
    """Return the family of each prompt, in families of equal size."""
    return None if design.families is None else np.arange(design.prompts) % design.families


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("wanted", [0.5, 0.8])
def test_power_matches_simulation(case, wanted):
    """The test in random_effects detects the difference in the stated fraction of tables, within 0.03."""
    parts, design = CASES[case]
    difference = detectable_difference(parts, design, wanted)
    assert power_of_test(parts, design, difference) == pytest.approx(wanted, abs=1e-6)
    draw = np.random.default_rng(1)
    tables = (planted(parts, design, difference, draw).mean(axis=2) for _ in range(TRIALS))
    detected = np.mean([crossed_mean(table, family_labels(design)).p_value < 0.05 for table in tables])
    assert detected == pytest.approx(wanted, abs=0.03)


def test_noncentral_t_is_wrong_without_a_seed_part():
    """For 3 seeds and 64 prompts it gives 0.79 at the expected mean squares, and simulation gives 0.54."""
    parts, design = VarianceParts(0.0, 0.01, 0.0, 0.1), Design(3, 64, 1)
    difference = 2.8 * math.sqrt(mean_variance(parts, design))
    critical = stats.t.isf(0.025, 63)  # the seeds' mean square is at its lower limit, so the prompts determine the df
    assert stats.nct.sf(critical, 63, 2.8) == pytest.approx(0.79, abs=0.01)
    assert power_of_test(parts, design, difference) == pytest.approx(0.54, abs=0.01)
    draw = np.random.default_rng(5)
    tables = (planted(parts, design, difference, draw)[:, :, 0] for _ in range(TRIALS))
    assert np.mean([crossed_mean(table).p_value < 0.05 for table in tables]) == pytest.approx(0.54, abs=0.03)


@pytest.mark.parametrize("squares", [(3.0, 2.0, 1.0), (0.5, 2.0, 1.0), (3.0, 0.5, 1.0), (0.5, 0.6, 1.0)])
def test_variance_and_df_match_random_effects(squares):
    design = Design(4, 7, 1)
    expected = estimate_mean(MeanSquares(4, 7, 0.0, *squares))
    variance, df = _variance_and_df(*map(np.array, squares), design)
    assert math.sqrt(variance) == pytest.approx(expected.standard_error)
    assert df == pytest.approx(expected.degrees_of_freedom)


def test_variance_of_the_mean_by_hand():
    """0.02/4 + 0.1/10 + (0.2 + 0.4/2)/40 = 0.005 + 0.01 + 0.01."""
    assert mean_variance(VarianceParts(0.02, 0.1, 0.2, 0.4), Design(4, 10, 2)) == pytest.approx(0.025)


@pytest.mark.parametrize("samples", [1, 4])
def test_seeds_needed_inverts_the_detectable_difference(samples):
    for seeds in (3, 5, 8, 12, 16):
        detectable = detectable_difference(PARTS, Design(seeds, 100, samples))
        design = Design(0, 100, samples)
        assert seeds_needed(PARTS, detectable * 1.0001, design) == seeds
        assert seeds_needed(PARTS, -detectable * 1.0001, design) == seeds
        assert seeds_needed(PARTS, detectable * 0.9999, design) == seeds + 1


def test_prompt_variance_limits_what_more_seeds_can_detect():
    """With 20 prompts of sd 0.3 no number of seeds detects 0.1. Without prompt variance some number does."""
    parts = PARTS._replace(prompt=0.09)
    design = Design(2, 20, 1)
    assert seeds_needed(parts, 0.1, design) is None
    assert detectable_difference(parts, Design(100_000, 20, 1)) > 0.1
    enough = seeds_needed(parts._replace(prompt=0.0), 0.1, design)
    assert 2 < enough < 100 and seeds_needed(parts, 0.1, design._replace(prompts=2000)) < 20


@pytest.mark.parametrize("difference", [0.3, 0.7, 0.8, 2.0, 10.0, 1e6])
def test_power_with_all_seeds_matches_many_seeds(difference):
    """With two families the test has one degree of freedom, so it misses differences of many standard errors."""
    parts, design = VarianceParts(0.001, 0.01, None, 0.05, family=0.01), Design(3, 40, 2, families=2)
    limit = power_with_all_seeds(parts, difference, design)
    critical, center = stats.t.isf(0.025, 1), difference / math.sqrt((0.01 + 0.01 / 20) / 2)
    assert limit == pytest.approx(stats.nct.sf(critical, 1, center), abs=1e-6)
    needed = seeds_needed(parts, difference, design)
    assert needed is None if limit <= 0.8 else needed == 2


def test_seeds_needed_end_where_the_difference_is_tiny():
    """Without prompt variance, the seed variance of 0.002 hides 1e-9 from millions of seeds."""
    assert seeds_needed(PARTS._replace(prompt=0.0), 1e-9, Design(3, 100, 1)) is None


def test_difference_of_zero_is_never_detected():
    assert seeds_needed(PARTS, 0.0, Design(3, 100, 1)) is None


def test_zero_variance_detects_any_difference():
    """The smallest number of seeds is enough."""
    parts = VarianceParts(0.0, 0.0, 0.0, 0.0)
    assert detectable_difference(parts, Design(3, 5, 1)) == 0
    assert power_of_test(parts, Design(3, 5, 1), 0.1) == 1 and seeds_needed(parts, 0.1, Design(3, 5, 1)) == 2


def test_planted_variance_parts_are_recovered():
    """The means over 200 tables are within a tenth of the planted values."""
    planted_parts = VarianceParts(seed=0.3, prompt=0.2, interaction=0.15, sample=0.4)
    draw = np.random.default_rng(2)
    found = [variance_parts(planted(planted_parts, Design(8, 40, 3), 1.0, draw)) for _ in range(200)]
    np.testing.assert_allclose(np.mean(found, axis=0), planted_parts, rtol=0.1)


@pytest.mark.parametrize(("sizes", "tolerance"), [([5] * 12, 0.1), ([2, 8] * 6, 0.2)])
def test_planted_parts_of_families_are_recovered(sizes, tolerance):
    """Checks means over 400 tables. Families of unequal sizes count roughly by their weight in the mean, F Σn²/P²."""
    planted_parts = VarianceParts(0.3, 0.2, 0.15, 0.4, family=0.5, family_interaction=0.25)
    families, draw, found = np.repeat(np.arange(12), sizes), np.random.default_rng(4), []
    weight = 12 * sum(size**2 for size in sizes) / 60**2
    for _ in range(400):
        of_families = draw.normal(0, math.sqrt(0.5), 12) + draw.normal(0, math.sqrt(0.25), (6, 12))
        plain = planted_parts._replace(family=0.0, family_interaction=0.0)
        table = planted(plain, Design(6, 60, 2), 0.0, draw) + of_families[:, families][:, :, None]
        found.append(variance_parts(table, families))
    found = np.mean(found, axis=0)
    np.testing.assert_allclose(found[:5], [0.3, 0.2, 0.15, 0.4, 0.5 * weight], rtol=tolerance)
    # With unequal sizes, some of the seed variance appears as seed x family variance.
    np.testing.assert_allclose(found[5], 0.25 * weight + 0.3 * (weight - 1), rtol=tolerance)


def test_families_of_one_prompt_equal_prompts():
    """12 families of one prompt are equivalent to 12 prompts."""
    parts = PARTS._replace(family=0.02, family_interaction=0.005)
    merged = PARTS._replace(prompt=PARTS.prompt + 0.02, interaction=PARTS.interaction + 0.005)
    of_families = detectable_difference(parts, Design(4, 12, 2, families=12))
    assert of_families == pytest.approx(detectable_difference(merged, Design(4, 12, 2)))


def test_variance_parts_by_hand():
    """Cell means are [[0, 2], [4, 10]]: seed means 1 and 7, prompt means 2 and 6, mean 4, residuals ±1.

    Mean squares 36, 16 and 4 give the seed part (36 − 4)/2 and the prompt part (16 − 4)/2. Two samples at ±1 around
    their cell's mean have variance 2. Half of it is in the residual, so the interaction is 4 − 1.
    """
    cells = np.array([[0.0, 2.0], [4.0, 10.0]])
    assert variance_parts(cells[:, :, None] + np.array([-1.0, 1.0])) == pytest.approx((16.0, 6.0, 3.0, 2.0, 0.0, 0.0))
    assert variance_parts(cells[:, :, None]) == (16.0, 6.0, None, 4.0, 0.0, 0.0)


def test_negative_parts_are_zero():
    """Cell means [[1, -1], [-1, 1]] have equal row and column means, and samples vary more than cells."""
    cells = np.array([[1.0, -1.0], [-1.0, 1.0]])[:, :, None]
    assert variance_parts(cells + np.array([-5.0, 5.0])) == pytest.approx((0.0, 0.0, 0.0, 50.0, 0.0, 0.0))


def test_invalid_values_are_left_out():
    """With a tenth of the samples missing at random, the means of 200 estimates are within a tenth."""
    planted_parts = VarianceParts(seed=0.3, prompt=0.2, interaction=0.1, sample=0.4)
    draw, found = np.random.default_rng(3), []
    for _ in range(200):
        table = planted(planted_parts, Design(6, 40, 3), 1.0, draw)
        table[draw.uniform(size=table.shape) < 0.1] = np.nan
        found.append(variance_parts(table))
    np.testing.assert_allclose(np.mean(found, axis=0), planted_parts, rtol=0.1)


@pytest.mark.parametrize("shape", [(1, 9, 1), (3, 1, 2)])
def test_too_few_seeds_or_prompts_raise(shape):
    with pytest.raises(ValueError, match="at least two of each"):
        variance_parts(np.random.default_rng(0).normal(size=shape))
    with pytest.raises(ValueError, match="at least two of each"):
        power_of_test(PARTS, Design(*shape), 0.1)


def test_no_valid_value_raises():
    with pytest.raises(ValueError, match="no valid difference"):
        variance_parts(np.full((3, 4, 1), np.nan))


def test_families_with_one_prompt_each_raise():
    with pytest.raises(ValueError, match="no family has two prompts"):
        variance_parts(np.random.default_rng(0).normal(size=(3, 4, 1)), np.arange(4))
