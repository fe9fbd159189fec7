"""A Bayesian linear head that predicts rewards of responses from frozen features, to choose which ones to label.

Predictions are compared only within a prompt, so features and rewards are centered per prompt. The posterior is exact
for rewards and a Laplace approximation for judgments of pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRECISIONS = tuple(10.0 ** (exponent / 2) for exponent in range(-6, 11))  # candidates for the precision of the prior
NEWTON_STEPS = 50


@dataclass(frozen=True)
class LinearHead:
    """The posterior N(m, S) of the head's weights, with S = v·(I − Vᵀ diag(k) V).

    This form avoids a matrix of features × features; a language model has thousands of features.
    """

    mean: Floats
    """[features], m: the posterior mean."""
    directions: Floats
    """[rank, features], V: orthonormal rows, the directions about which the labels have information."""
    known: Floats
    """[rank], k: for each direction, the fraction of the prior variance that the labels removed."""
    prior_variance: float
    """v: prior variance of each weight, and posterior variance in directions without information."""

    def rewards(self, features: Floats) -> Floats:
        """Expected rewards [responses] for features [responses, features]. Only differences within a prompt matter."""
        return features @ self.mean

    def deviations(self, features: Floats) -> Floats:
        """Posterior standard deviations [rows] of the predictions for features [rows, features]."""
        measured = features @ self.directions.T
        rest = (features**2).sum(axis=1) - (measured**2 * self.known).sum(axis=1)
        return np.sqrt(self.prior_variance * np.maximum(rest, 0))

    def draw(self, rng: np.random.Generator) -> Floats:
        """One draw of the weights [features] from the posterior."""
        normal = rng.standard_normal(len(self.mean))
        removed = (1 - np.sqrt(1 - self.known)) * (self.directions @ normal)
        return self.mean + np.sqrt(self.prior_variance) * (normal - removed @ self.directions)


def center_by_prompt(values: Floats, prompts: Sequence[object]) -> Floats:
    """Values of responses, [responses] or [responses, features], minus the mean over their prompt's responses."""
    _, groups = np.unique(np.asarray(prompts, dtype=str), return_inverse=True)
    sums = np.zeros((groups.max() + 1, *values.shape[1:]))
    np.add.at(sums, groups, values)
    counts = np.bincount(groups).reshape(-1, *[1] * (values.ndim - 1))
    return values - (sums / counts)[groups]


def fit_rewards(features: Floats, rewards: Floats, prompts: Sequence[object]) -> LinearHead:
    """The posterior given the rewards of labeled responses: Bayesian linear regression.

    The prior's precision is the candidate with the smallest leave-one-prompt-out error. This error also estimates the
    variance of a reward around its prediction.

    Args:
        features (ndarray): [responses, features].
        rewards (ndarray): [responses], in any unit.
        prompts (Sequence): [responses], the prompt of each response.

    Raises:
        ValueError: No prompt has two responses with different rewards.
    """
    design, targets = center_by_prompt(features, prompts), center_by_prompt(rewards, prompts)
    if not targets.any():
        raise ValueError("all rewards are equal within each prompt, so there is nothing to learn")
    factors = np.linalg.svd(design, full_matrices=False)
    left, scale, _ = factors
    groups = group_rows(prompts)
    errors = {
        precision: left_out_error(left, scale**2 / (scale**2 + precision), targets, groups) for precision in PRECISIONS
    }
    precision = min(errors, key=errors.__getitem__)
    # Centering removes one degree of freedom per prompt.
    noise = errors[precision] / max(1, len(targets) - len(groups))
    return posterior_of(*factors, targets, precision, noise)


def reward_posterior(design: Floats, targets: Floats, precision: float, noise: float) -> LinearHead:
    """Bayesian linear regression: m = (XᵀX + λI)⁻¹ Xᵀy and S = σ²·(XᵀX + λI)⁻¹.

    Args:
        design (ndarray): [responses, features], X.
        targets (ndarray): [responses], y.
        precision (float): λ, the prior's precision in units of 1/σ².
        noise (float): σ², the variance of a target around its prediction.
    """
    return posterior_of(*np.linalg.svd(design, full_matrices=False), targets, precision, noise)


def posterior_of(
    left: Floats, scale: Floats, directions: Floats, targets: Floats, precision: float, noise: float
) -> LinearHead:
    """`reward_posterior` of a design X = `left` diag(`scale`) `directions`, its singular value decomposition."""
    mean = (left.T @ targets * scale / (scale**2 + precision)) @ directions
    return LinearHead(mean, directions, scale**2 / (scale**2 + precision), noise / precision)


def left_out_error(left: Floats, known: Floats, targets: Floats, groups: list[NDArray[np.intp]]) -> float:
    """Sum of squared errors of a linear fit, where each prompt is predicted without its own labels.

    For a fit that is linear in its targets, ŷ = H y, the error of a left-out group g is (I − H_gg)⁻¹ (y_g − ŷ_g), so
    the fit is not repeated. H = U diag(k) Uᵀ is not formed, because only its blocks of one prompt are needed.

    Args:
        left (ndarray): [responses, rank], U: orthonormal columns.
        known (ndarray): [rank], k.
        targets (ndarray): [responses], y.
        groups (list): Row indices of each prompt.
    """
    residuals, total = targets - left @ (known * (left.T @ targets)), 0.0
    for rows in groups:
        block = np.eye(len(rows)) - (left[rows] * known) @ left[rows].T
        total += float((np.linalg.solve(block, residuals[rows]) ** 2).sum())
    return total


def group_rows(prompts: Sequence[object]) -> list[NDArray[np.intp]]:
    """Row indices of each prompt, in the order in which prompts first occur."""
    rows: dict[object, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    return [np.array(numbers) for numbers in rows.values()]


def fit_judgments(differences: Floats, wins: Floats) -> LinearHead:
    """The posterior given judgments of pairs: a Bradley–Terry model, log-odds of winning = difference · w.

    The mean is the mode, found by Newton's method, and the covariance is the inverse curvature at the mode (Laplace).
    The prior's precision is the candidate with the smallest leave-one-out log-loss, approximated by one Newton step per
    pair.

    Args:
        differences (ndarray): [pairs, features], features of the first response minus those of the second.
        wins (ndarray): [pairs], the first response's share of the judgments: 1, 0, or ½ for a tie.

    Raises:
        ValueError: There are no pairs, or all pairs have equal features.
    """
    if not differences.any():
        raise ValueError("no judged pair has responses with different features, so there is nothing to learn")
    # The fit is in the span of the differences, which has at most as many dimensions as there are pairs.
    left, scale, rotation = np.linalg.svd(differences, full_matrices=False)
    kept = scale > scale[0] * 1e-10
    inputs, rotation = left[:, kept] * scale[kept], rotation[kept]
    modes = {precision: judgment_mode(inputs, wins, precision) for precision in PRECISIONS}
    precision = min(modes, key=lambda value: left_out_log_loss(inputs, wins, value, modes[value]))
    weights = modes[precision]
    curvature = sigmoid(inputs @ weights) * sigmoid(-inputs @ weights)
    eigenvalues, vectors = np.linalg.eigh(inputs.T @ (curvature[:, None] * inputs))
    known = np.maximum(eigenvalues, 0) / (np.maximum(eigenvalues, 0) + precision)
    return LinearHead(weights @ rotation, vectors.T @ rotation, known, 1 / precision)


def judgment_mode(inputs: Floats, wins: Floats, precision: float) -> Floats:
    """The weights [features] with the largest posterior density under a normal prior, by damped Newton steps."""
    weights = np.zeros(inputs.shape[1])

    def loss(candidate: Floats) -> float:
        odds = inputs @ candidate
        return float((np.logaddexp(0, odds) - wins * odds).sum() + precision / 2 * candidate @ candidate)

    for _ in range(NEWTON_STEPS):
        chances = sigmoid(inputs @ weights)
        slope = inputs.T @ (chances - wins) + precision * weights
        if np.abs(slope).max() <= 1e-10 * max(1.0, precision):
            break
        curvature = inputs.T @ ((chances * (1 - chances))[:, None] * inputs) + precision * np.eye(len(weights))
        step, size = np.linalg.solve(curvature, slope), 1.0
        while loss(weights - size * step) > loss(weights) and size > 1e-6:
            size /= 2
        weights = weights - size * step
    return weights


def left_out_log_loss(inputs: Floats, wins: Floats, precision: float, mode: Floats) -> float:
    """Leave-one-out log-loss, summed over judgments; each is left out by one Newton step from the mode.

    Args:
        inputs (ndarray): [pairs, features].
        wins (ndarray): [pairs].
        precision (float): Precision of the prior.
        mode (ndarray): [features], from `judgment_mode` with this precision.
    """
    odds = inputs @ mode
    chances = sigmoid(odds)
    curvature = inputs.T @ ((chances * (1 - chances))[:, None] * inputs) + precision * np.eye(len(mode))
    leverage = np.einsum("ij,ji->i", inputs, np.linalg.solve(curvature, inputs.T))
    without = odds - leverage * (wins - chances) / (1 - leverage * chances * (1 - chances))
    return float((np.logaddexp(0, without) - wins * without).sum())


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + e^−x), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * values))
