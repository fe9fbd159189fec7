"""The reward head compared with hand-computed values, dense matrices, explicit refits and planted weights."""

import numpy as np
import pytest

from prefloop.methods.reward_head import (
    PRECISIONS,
    LinearHead,
    center_by_prompt,
    fit_judgments,
    fit_rewards,
    group_rows,
    judgment_mode,
    left_out_error,
    left_out_log_loss,
    reward_posterior,
    sigmoid,
)

# Two centered features of three responses to one prompt, and their rewards.
DESIGN = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
REWARDS = np.array([1.0, 0.0, -1.0])
# XᵀX = [[2, 1], [1, 2]] and Xᵀy = (2, 1). For λ = 1, the inverse of [[3, 1], [1, 3]] is [[3, −1], [−1, 3]] / 8.
MEAN = [5 / 8, 1 / 8]


def by_hand(noise: float = 0.8) -> LinearHead:
    return reward_posterior(DESIGN, REWARDS, 1.0, noise)


def dense_covariance(head: LinearHead) -> np.ndarray:
    identity = np.eye(len(head.mean))
    return head.prior_variance * (identity - head.directions.T @ np.diag(head.known) @ head.directions)


def planted(prompts: int, features: int, seed: int, noise: float = 0.1):
    """Return features, rewards from planted weights and noise, prompts and weights; four responses per prompt."""
    rng = np.random.default_rng(seed)
    weights, design = rng.standard_normal(features), rng.standard_normal((4 * prompts, features))
    rewards = design @ weights + noise * rng.standard_normal(len(design)) + np.repeat(rng.normal(0, 5, prompts), 4)
    return design, rewards, np.repeat(np.arange(prompts), 4).tolist(), weights


def test_posterior_by_hand():
    head = by_hand()
    assert head.mean.tolist() == pytest.approx(MEAN)
    assert dense_covariance(head).ravel().tolist() == pytest.approx([0.3, -0.1, -0.1, 0.3])
    assert head.rewards(DESIGN).tolist() == pytest.approx([0.625, 0.125, -0.75])
    assert head.deviations(DESIGN).tolist() == pytest.approx(np.sqrt([0.3, 0.3, 0.4]).tolist())


def test_centering_is_within_prompts():
    values = np.array([1.0, 5.0, 3.0, 9.0])
    assert center_by_prompt(values, ["a", "b", "a", "b"]).tolist() == [-1.0, -2.0, 1.0, 2.0]


@pytest.mark.parametrize("features", [3, 200])
def test_posterior_equals_dense_matrices(features):
    """Includes a case with many more features than responses, as with a language model."""
    design, rewards, prompts, _ = planted(10, features, seed=1)
    head = reward_posterior(design, rewards, 2.0, 0.5)
    inverse = np.linalg.inv(design.T @ design + 2.0 * np.eye(features))
    assert head.mean == pytest.approx(inverse @ design.T @ rewards)
    assert dense_covariance(head) == pytest.approx(0.5 * inverse)
    rows = np.random.default_rng(2).standard_normal((5, features))
    assert head.deviations(rows) ** 2 == pytest.approx(np.einsum("ij,jk,ik->i", rows, 0.5 * inverse, rows))


def test_draws_have_the_posterior_moments():
    design, rewards, _, _ = planted(3, 4, seed=3)
    head, rng = reward_posterior(design, rewards, 5.0, 2.0), np.random.default_rng(0)
    draws = np.stack([head.draw(rng) for _ in range(40_000)])
    scale = np.sqrt(np.diag(dense_covariance(head)))
    assert np.abs(draws.mean(axis=0) - head.mean).max() < 0.03 * scale.max()
    assert np.cov(draws.T) == pytest.approx(dense_covariance(head), abs=0.03 * scale.max() ** 2)


def test_left_out_error_equals_refits():
    design, rewards, prompts, _ = planted(6, 5, seed=4)
    design, rewards = center_by_prompt(design, prompts), center_by_prompt(rewards, prompts)
    left, scale, _ = np.linalg.svd(design, full_matrices=False)
    expected = 0.0
    for rows in group_rows(prompts):
        others = np.setdiff1d(np.arange(len(rewards)), rows)
        mean = reward_posterior(design[others], rewards[others], 3.0, 1.0).mean
        expected += ((rewards[rows] - design[rows] @ mean) ** 2).sum()
    found = left_out_error(left, scale**2 / (scale**2 + 3.0), rewards, group_rows(prompts))
    assert found == pytest.approx(expected)


def test_planted_rewards_are_recovered():
    design, rewards, prompts, weights = planted(60, 8, seed=5)
    head = fit_rewards(design, rewards, prompts)
    assert head.mean == pytest.approx(weights, abs=0.05)
    errors = (head.mean - weights) / np.sqrt(np.diag(dense_covariance(head)))
    assert np.abs(errors).max() < 4


def test_pure_noise_is_shrunk():
    """The precision is chosen on left-out prompts, so features without information lead to small predictions."""
    sizes = []
    for seed in range(20):
        design, _, prompts, _ = planted(30, 40, seed)
        rewards = np.random.default_rng(100 + seed).standard_normal(len(design))
        sizes.append(np.sqrt((fit_rewards(design, rewards, prompts).rewards(design) ** 2).mean()))
    assert np.median(sizes) < 0.25, "least squares without a prior would give sqrt(40 / 90) = 0.67"


def test_equal_rewards_raise():
    with pytest.raises(ValueError, match="nothing to learn"):
        fit_rewards(DESIGN, np.ones(3), ["a"] * 3)


def judged(pairs: int, features: int, seed: int):
    """Return feature differences, wins drawn from a Bradley–Terry model with planted weights, and the weights."""
    rng = np.random.default_rng(seed)
    weights, differences = rng.standard_normal(features), rng.standard_normal((pairs, features))
    return differences, (rng.random(pairs) < sigmoid(differences @ weights)).astype(float), weights


def log_density(differences: np.ndarray, wins: np.ndarray, precision: float, weights: np.ndarray) -> float:
    odds = differences @ weights
    return float((wins * odds - np.logaddexp(0, odds)).sum() - precision / 2 * weights @ weights)


@pytest.mark.parametrize(("pairs", "features"), [(40, 3), (6, 30)])
def test_judgments_posterior_is_mode_and_curvature(pairs, features):
    """At the mean the log-density has zero slope. The covariance is the inverse of its negative second differences."""
    differences, wins, _ = judged(pairs, features, seed=8)
    head = fit_judgments(differences, wins)
    precision, step, identity = 1 / head.prior_variance, 1e-3, np.eye(features)

    def density(offset: np.ndarray) -> float:
        return log_density(differences, wins, precision, head.mean + offset)

    curvature = np.zeros((features, features))
    for i in range(features):
        assert density(step * identity[i]) - density(-step * identity[i]) == pytest.approx(0, abs=1e-6)
        for j in range(features):
            sides = [(a, b) for a in (1, -1) for b in (1, -1)]
            total = sum(a * b * density(step * (a * identity[i] + b * identity[j])) for a, b in sides)
            curvature[i, j] = -total / (4 * step**2)
    assert dense_covariance(head) @ curvature == pytest.approx(identity, abs=2e-3)


def test_judgments_posterior_is_close_to_the_exact_one():
    """With one feature, the posterior can be integrated on a grid."""
    differences, wins, _ = judged(60, 1, seed=9)
    head = fit_judgments(differences, wins)
    grid = np.linspace(-10, 10, 40_001)[:, None]
    densities = np.array([log_density(differences, wins, 1 / head.prior_variance, point) for point in grid])
    chances = np.exp(densities - densities.max())
    chances /= chances.sum()
    mean = chances @ grid[:, 0]
    deviation = np.sqrt(chances @ (grid[:, 0] - mean) ** 2)
    assert head.mean[0] == pytest.approx(mean, abs=0.2 * deviation)
    assert head.deviations(np.ones((1, 1)))[0] == pytest.approx(deviation, rel=0.1)


def test_judged_weights_are_recovered():
    differences, wins, weights = judged(2000, 4, seed=10)
    head = fit_judgments(differences, wins)
    assert head.mean == pytest.approx(weights, abs=0.35)


def test_left_out_log_loss_is_close_to_refits():
    differences, wins, _ = judged(40, 3, seed=11)
    mode, expected = judgment_mode(differences, wins, 1.0), 0.0
    for pair in range(40):
        others = np.arange(40) != pair
        odds = differences[pair] @ judgment_mode(differences[others], wins[others], 1.0)
        expected += np.logaddexp(0, odds) - wins[pair] * odds
    assert left_out_log_loss(differences, wins, 1.0, mode) == pytest.approx(expected, rel=0.02)


def test_separable_judgments_give_finite_weights():
    """Without a prior the weights would be infinite."""
    head = fit_judgments(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([1.0, 1.0]))
    assert np.isfinite(head.mean).all()
    assert 1 / head.prior_variance == pytest.approx(min(PRECISIONS, key=lambda p: abs(p * head.prior_variance - 1)))


def test_no_differences_raise():
    with pytest.raises(ValueError, match="nothing to learn"):
        fit_judgments(np.zeros((3, 2)), np.ones(3))
