"""Online DPO on a table: one prompt, A actions, a softmax over them, and the samplers of arXiv 2409.19605.

Action a has reward r_a, and the reference is uniform. x_ab = β(log π_a − log π_b) is the policy's implicit reward
difference of a pair, and δ_ab = (r_a − r_b) − x_ab is its error. Arrays have a dimension for many draws of the rewards
(seeds): [seeds, A] for actions and [seeds, pairs] for pairs a < b. The state is not θ but the centered `gap`
v = r − βθ, so that δ_ab = v_a − v_b. The gap converges to 0, so small differences keep their precision; computed from
θ, they would be lost to rounding at 1e−16.

A sampler draws the pair (a, b) with weight W_ab = 2 + e^z + e^−z = 1/(σ(z)σ(−z)). This is the paper's mixture of
component ① (both actions uniform, weight 2) and component ② (weight e^z + e^−z). Samplers differ in z.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Ge, Gt, MinLen

from prefloop.core.metadata import Choice, Unique, Unit
from prefloop.core.registry import lookup

LOWER_BOUND_REWARDS = (0.0, 1 / 3, 1.0)  # the paper's instance on which uniform sampling converges linearly
# Upper bounds of |δ| after T updates in paper mode, with rewards in [0, 1] (arXiv 2409.19605).
BOUNDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "unif": lambda updates: 0.588**updates,
    "mix_r": lambda updates: 0.5 ** (2.0**updates - 1),
    "mix_p": lambda updates: 0.611 ** (2.0**updates - 1),
}
TABULAR_MEASURES = ("param_diff", "max_diff", "value", "value_diff")
# Function from W and σ(r_a − r_b), both [seeds, pairs], and the number W_aa to two fractions of the sampled pairs, both
# [seeds, pairs]: those in which a won and those in which b won.
PairDraw = Callable[[np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]


@dataclass
class NormalizedConfig:
    """Exact gradients as in the released code: the weights of the pairs sum to 1."""

    steps: Annotated[int, Ge(1), Unit("updates")] = 100
    """Number of updates."""
    learning_rate: Annotated[float, Gt(0), Unit("logits per unit of gradient")] = 10.0
    """Constant learning rate of the logits."""
    every: Annotated[int, Ge(1), Unit("updates")] = 2
    """Updates between two rows of tabular.csv."""


@dataclass
class PaperConfig:
    """Exact gradients as in the theorems: pair weights not normalized, learning rate 1/(β²A), rewards in [0, 1]."""

    steps: Annotated[int, Ge(1), Unit("updates")] = 13
    """Number of updates."""


@dataclass
class EmpiricalConfig:
    """Gradients of sampled pairs, as in the released code."""

    steps: Annotated[int, Ge(1), Unit("updates")] = 3000
    """Number of updates."""
    learning_rate: Annotated[float, Gt(0), Unit("logits per unit of gradient")] = 0.05
    """Constant learning rate of the logits."""
    pairs: Annotated[int, Ge(1), Unit("pairs")] = 8192
    """Pairs sampled per update."""
    every: Annotated[int, Ge(1), Unit("updates")] = 50
    """Updates between two rows of tabular.csv."""


@dataclass
class TabularConfig:
    """Samplers on a table of actions, without prompts or a model, for figure tabular (arXiv 2409.19605)."""

    samplers: Annotated[tuple[Annotated[str, Choice("methods.tabular.TABULAR_SAMPLERS")], ...], MinLen(1), Unique()] = (
        "unif",
        "mix_r",
        "mix_p",
        "mix_p_star",
    )
    """Samplers of the pairs; mix_1, mix_r_2 and mix_p_2 are single components of the mixtures."""
    actions: Annotated[int, Ge(2), Unit("actions")] = 20
    """Number of actions A."""
    beta: Annotated[float, Gt(0), Unit("units of reward per nat")] = 3.0
    """Strength of the pull toward the uniform reference."""
    reward_scale: Annotated[float, Gt(0), Unit("units of reward")] = 1.0
    """Standard deviation of the normally distributed rewards; paper mode scales them to [0, 1]."""
    seeds: Annotated[int, Ge(1), Unit("draws")] = 100
    """Number of draws of the rewards."""
    first_seed: Annotated[int, Ge(0), Unit("seed")] = 1234567
    """Seed of the first draw; the others follow it. Rewards are drawn with torch.manual_seed and torch.randn."""
    normalized: NormalizedConfig = field(default_factory=NormalizedConfig)
    """Exact gradients as in the released code: the weights of the pairs sum to 1."""
    paper: PaperConfig = field(default_factory=PaperConfig)
    """Exact gradients as in the theorems: pair weights not normalized, learning rate 1/(β²A), rewards in [0, 1]."""
    empirical: EmpiricalConfig = field(default_factory=EmpiricalConfig)
    """Gradients of sampled pairs, as in the released code."""


class TabularSampler(Protocol):
    """Computes the weights of the pairs."""

    def __call__(self, reward: np.ndarray, policy: np.ndarray, /) -> np.ndarray:
        """W [seeds, pairs], not normalized, from e^(r_a − r_b) and e^(x_ab), both [seeds, pairs]; W_ba = W_ab."""


def unif(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """z = 0: all pairs are equally likely."""
    return np.full_like(policy, 4.0)


def mix_r(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """z = r_a − r_b, the difference of the true rewards."""
    return 2.0 + mix_r_2(reward, policy)


def mix_p(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """z = x_ab, the difference of the policy's implicit rewards."""
    return 2.0 + mix_p_2(reward, policy)


def mix_p_star(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """z = x_ab clipped to ±(max r − min r), so that rejection sampling can draw it."""
    largest = np.maximum(reward, 1 / reward).max(axis=1, keepdims=True)
    return mix_p(reward, np.clip(policy, 1 / largest, largest))


def mix_1(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Component ① of every mixture: both actions are uniform."""
    return np.full_like(policy, 2.0)


def mix_r_2(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Component ② of Mix-R: one action with weight e^r, the other with e^−r, in both orders."""
    return reward + 1 / reward


def mix_p_2(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Component ② of Mix-P: one action with weight π^β, the other with π^−β, in both orders."""
    return policy + 1 / policy


TABULAR_SAMPLERS: dict[str, TabularSampler] = {
    "unif": unif,
    "mix_r": mix_r,
    "mix_p": mix_p,
    "mix_p_star": mix_p_star,
    "mix_1": mix_1,
    "mix_r_2": mix_r_2,
    "mix_p_2": mix_p_2,
}
SAMPLER_LABELS = {
    "unif": "Unif",
    "mix_r": "Mix-R",
    "mix_p": "Mix-P",
    "mix_p_star": "Mix-P*",
    "mix_1": "①",
    "mix_r_2": "Mix-R ②",
    "mix_p_2": "Mix-P ②",
}


def normal_rewards(seeds: list[int], actions: int) -> np.ndarray:
    """Standard normal rewards [seeds, actions], equal to those of torch.manual_seed(seed) and torch.randn.

    They equal the rewards of the released script, which draws them in float32.
    """
    import torch

    drawn = [torch.randn(actions, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).double().numpy()


def unit_rewards(rewards: np.ndarray) -> np.ndarray:
    """Rewards [seeds, A] scaled linearly so that each row's minimum is 0 and its maximum 1, as paper mode assumes."""
    low, high = rewards.min(axis=1, keepdims=True), rewards.max(axis=1, keepdims=True)
    return (rewards - low) / (high - low)


def incidence(actions: int) -> np.ndarray:
    """A matrix [actions, pairs] with 1 at a and −1 at b for each pair a < b: v @ matrix is v_a − v_b."""
    a, b = np.triu_indices(actions, 1)
    matrix = np.zeros((actions, len(a)))
    matrix[a, range(len(a))], matrix[b, range(len(a))] = 1, -1
    return matrix


def preference_gap(delta: np.ndarray, policy: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """Δ_ab = σ(r_a − r_b) − σ(x_ab) from δ_ab, e^(x_ab) and σ(r_a − r_b), all [seeds, pairs].

    It is computed as σ(r_a − r_b)·σ(−x_ab)·(1 − e^−δ_ab), which is accurate for small δ.
    """
    return preference * np.expm1(-delta) / (-1 - policy)


def exact_gradient(weights: np.ndarray, difference: np.ndarray, incident: np.ndarray, beta: float) -> np.ndarray:
    """The ascent direction 2β·Σ_b W_ab·Δ_ab of θ, [seeds, A]: minus the gradient of the expected DPO loss.

    This loss is −Σ_ab W_ab·[σ(r_a − r_b)·log σ(x_ab) + σ(r_b − r_a)·log σ(−x_ab)] over ordered pairs, where W does not
    depend on θ. `weights` and `difference` are W and Δ, both [seeds, pairs].
    """
    return 2 * beta * ((weights * difference) @ incident.T)


def empirical_gradient(
    won: np.ndarray, lost: np.ndarray, policy: np.ndarray, incident: np.ndarray, beta: float
) -> np.ndarray:
    """The ascent direction of θ for the mean loss −log σ(x) of sampled pairs, [seeds, A].

    `won` and `lost` [seeds, pairs] are the fractions of the sampled pairs in which a won against b, and b against a.
    `policy` is e^(x_ab). If a wins, θ_a rises and θ_b falls by β·σ(−x_ab). If b wins, θ_b rises and θ_a falls by
    β·σ(x_ab).
    """
    return beta * (((won - lost * policy) / (1 + policy)) @ incident.T)


def simulate(
    rewards: np.ndarray,
    sampler: str,
    *,
    steps: int,
    beta: float,
    learning_rate: float | None = None,
    draw: PairDraw | None = None,
    every: int = 1,
) -> dict[str, np.ndarray]:
    """Simulate training, starting from the uniform policy.

    With a learning rate, updates are those of the released code: W sums to 1 over all A² pairs, and gradients are exact
    (mode `normalized`) or, with `draw`, those of sampled pairs (mode `empirical`). Without a learning rate, updates are
    those of the theorems (mode `paper`): W is not normalized and η = 1/(β²A), so θ_a changes by η·β·Σ_b W_ab·Δ_ab.

    Args:
        rewards (np.ndarray): [seeds, A].
        sampler: Key of TABULAR_SAMPLERS.
        steps: Number of updates.
        beta: Strength of the pull toward the reference, in units of reward per nat.
        learning_rate: Learning rate of θ; None for paper mode.
        draw: How pairs are sampled; None for exact gradients.
        every: Updates between two records.

    Returns:
        Curves of TABULAR_MEASURES, each [seeds, records]. Records are taken before updates.
    """
    actions, gap, recorded = rewards.shape[1], center(rewards), []
    incident = incidence(actions)
    reward_difference = rewards @ incident
    reward = np.exp(reward_difference)
    preference = reward / (1 + reward)
    own_weight = float(lookup(TABULAR_SAMPLERS, sampler, "samplers")(np.ones((1, 1)), np.ones((1, 1)))[0, 0])
    for step in range(steps):
        if step % every == 0:
            recorded.append(gap)
        delta = gap @ incident
        policy = np.exp(reward_difference - delta)
        weights = TABULAR_SAMPLERS[sampler](reward, policy)
        if draw is not None:
            won, lost = draw(weights, preference, own_weight)
            ascent = learning_rate * empirical_gradient(won, lost, policy, incident, beta)
        else:
            ascent = exact_gradient(weights, preference_gap(delta, policy, preference), incident, beta)
            if learning_rate is None:
                ascent /= 2 * beta**2 * actions  # paper mode counts each pair once, not in both orders
            else:
                ascent *= learning_rate / (actions * own_weight + 2 * weights.sum(axis=1, keepdims=True))
        gap = center(gap - beta * ascent)
    return measures(rewards[:, None], np.stack(recorded, axis=1), beta)


def center(values: np.ndarray) -> np.ndarray:
    """Values [seeds, A] minus the mean of their row."""
    return values - values.mean(axis=1, keepdims=True)


def measures(rewards: np.ndarray, gap: np.ndarray, beta: float) -> dict[str, np.ndarray]:
    """TABULAR_MEASURES of policies, each […] in units of reward, from `rewards` and `gap` […, A].

    They are the mean of |δ| over all A² pairs, the largest |δ|, the value V = Σπ(r − β log π), and the distance of V
    from the optimum β·log Σ e^(r/β). With π ∝ e^((r − v)/β), the value is Σπv + β·log Σ e^((r − v)/β).
    """
    size, ordered = gap.shape[-1], np.sort(gap, axis=-1)
    unnormalized = np.exp((rewards - gap) / beta)
    total = np.einsum("...a->...", unnormalized)
    value = np.einsum("...a,...a->...", unnormalized, gap) / total + beta * np.log(total)
    return {
        # In pairs, the smallest of A values is the smaller one A − 1 times. The next is the smaller one A − 2 times and
        # the larger one once, and so on.
        "param_diff": ordered @ np.arange(1.0 - size, size, 2) * (2 / size**2),
        "max_diff": ordered[..., -1] - ordered[..., 0],
        "value": value,
        "value_diff": beta * np.logaddexp.reduce(rewards / beta, axis=-1) - value,
    }


def multinomial_draw(pairs: int, actions: int, rng: np.random.Generator) -> PairDraw:
    """A function that draws `pairs` pairs from W with Bernoulli(σ(r_a − r_b)) labels, for all seeds at once.

    The gradient depends only on how often each action won against each other action. These counts are multinomial: the
    pair {a, b} has a probability proportional to 2W_ab, and a wins with probability σ(r_a − r_b).
    """

    def draw(weights: np.ndarray, preference: np.ndarray, own_weight: float) -> tuple[np.ndarray, np.ndarray]:
        wins, own = 2 * weights * preference, np.full((len(weights), 1), actions * own_weight)
        counts = multinomial(pairs, np.hstack([wins, 2 * weights - wins, own]), rng)
        won, lost = np.split(counts[:, :-1] / pairs, 2, axis=1)
        return won, lost

    return draw


def multinomial(total: int, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Multinomial counts of `total` draws for each row of weights [rows, cells].

    Independent Poisson counts are multinomial given their sum. So most of the total is drawn as Poisson counts, which
    is much faster, and the rest is drawn one by one.
    """
    weights = weights / weights.sum(axis=1, keepdims=True)
    most = max(0.0, total - 3 * total**0.5)  # three standard deviations: a sum above the total is rare
    counts = rng.poisson(most * weights)
    while (over := counts.sum(axis=1) > total).any():
        counts[over] = rng.poisson(most * weights[over])
    # The cells of row k divide the interval from k to k + 1; sorted positions are searched faster.
    row = np.arange(len(weights))
    ends = weights.cumsum(axis=1)
    ends[:, -1] = 1
    rest = np.repeat(row, total - counts.sum(axis=1))
    positions = np.sort(rest + rng.random(len(rest)))
    cells = np.searchsorted((ends + row[:, None]).ravel(), positions, side="right")
    return counts + np.bincount(cells, minlength=counts.size).reshape(counts.shape)
