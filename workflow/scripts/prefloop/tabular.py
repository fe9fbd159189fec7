"""Online DPO on a table: one prompt, A actions, a softmax over them, and the samplers of arXiv 2409.19605.

Action a has reward r_a; the reference is uniform; x_ab = β(log π_a − log π_b) is what the policy says of a pair, and
δ_ab = (r_a − r_b) − x_ab what it still lacks. Everything runs for many rewards (seeds) at once: what belongs to
actions has shape [seeds, A], what belongs to pairs a < b has [seeds, pairs]. The state is not θ but the `gap`
v = r − βθ, centred, so that δ_ab = v_a − v_b: it goes to 0, and small differences keep their digits, where r − βθ
would round them to 1e−16.

A sampler draws the pair (a, b) with weight W_ab = 2 + e^z + e^−z, which is 1/(σ(z)σ(−z)): the paper's mixture of
component ① (both uniform, weight 2) and component ② (weight e^z + e^−z). Samplers differ in z.
"""

from collections.abc import Callable

import numpy as np

from prefloop.rows import choice

LOWER_BOUND_REWARDS = (0.0, 1 / 3, 1.0)  # of the paper's instance on which uniform sampling stays linear
# Upper bounds of |δ| after T updates in paper mode, rewards in [0, 1] (arXiv 2409.19605).
BOUNDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "unif": lambda updates: 0.588**updates,
    "mix_r": lambda updates: 0.5 ** (2.0**updates - 1),
    "mix_p": lambda updates: 0.611 ** (2.0**updates - 1),
}
MEASURES = ("param_diff", "max_diff", "value", "value_diff")
# From W and σ(r_a − r_b) of the pairs, and W_aa of an action with itself, to the shares of the sampled pairs that a
# won and that b won; all [seeds, pairs] but W_aa.
Draw = Callable[[np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]


def unif(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """z = 0: all pairs alike."""
    return np.full_like(policy, 4.0)


def mix_r(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """z = r_a − r_b: the true rewards say which pairs need more draws."""
    return 2.0 + mix_r_2(reward, policy)


def mix_p(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """z = x_ab: the policy says so itself."""
    return 2.0 + mix_p_2(reward, policy)


def mix_p_star(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """z = x_ab within ±m, m = max r − min r: what rejection sampling can draw."""
    largest = np.maximum(reward, 1 / reward).max(axis=1, keepdims=True)
    return mix_p(reward, np.clip(policy, 1 / largest, largest))


def mix_1(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Component ① of every mixture: both actions uniform."""
    return np.full_like(policy, 2.0)


def mix_r_2(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Component ② of Mix-R: one action by e^r, the other by e^−r, in both orders."""
    return reward + 1 / reward


def mix_p_2(reward: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Component ② of Mix-P: one action by π^β, the other by π^−β, in both orders."""
    return policy + 1 / policy


# From config's word to (reward, policy) -> weights W, all [seeds, pairs]; `reward` is e^(r_a − r_b) and `policy`
# e^(x_ab). W_ba = W_ab, and W is not normalised.
SAMPLERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "unif": unif,
    "mix_r": mix_r,
    "mix_p": mix_p,
    "mix_p_star": mix_p_star,
    "mix_1": mix_1,
    "mix_r_2": mix_r_2,
    "mix_p_2": mix_p_2,
}
NAMES = {
    "unif": "Unif",
    "mix_r": "Mix-R",
    "mix_p": "Mix-P",
    "mix_p_star": "Mix-P*",
    "mix_1": "①",
    "mix_r_2": "Mix-R ②",
    "mix_p_2": "Mix-P ②",
}


def normal_rewards(seeds: list[int], actions: int) -> np.ndarray:
    """Standard normal rewards [seeds, actions], each drawn by torch.randn right after torch.manual_seed(seed).

    So they are those of the released script, which draws them in float32.
    """
    import torch

    drawn = [torch.randn(actions, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).double().numpy()


def unit_rewards(rewards: np.ndarray) -> np.ndarray:
    """Rewards [seeds, A] moved and scaled so that each row's least is 0 and its largest 1, as paper mode supposes."""
    low, high = rewards.min(axis=1, keepdims=True), rewards.max(axis=1, keepdims=True)
    return (rewards - low) / (high - low)


def incidence(actions: int) -> np.ndarray:
    """For every pair a < b a column [actions, pairs] with 1 at a and −1 at b: v @ incidence is v_a − v_b."""
    a, b = np.triu_indices(actions, 1)
    found = np.zeros((actions, len(a)))
    found[a, range(len(a))], found[b, range(len(a))] = 1, -1
    return found


def preference_gap(delta: np.ndarray, policy: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """Δ_ab = σ(r_a − r_b) − σ(x_ab) from δ_ab, e^(x_ab) and σ(r_a − r_b), all [seeds, pairs].

    Written as σ(r_ab)·σ(−x_ab)·(1 − e^−δ_ab), which does not cancel where δ is small.
    """
    return preference * np.expm1(-delta) / (-1 - policy)


def exact_gradient(weights: np.ndarray, difference: np.ndarray, incident: np.ndarray, beta: float) -> np.ndarray:
    """The ascent direction 2β·Σ_b W_ab·Δ_ab of θ, shape [seeds, A]: minus the gradient of the expected DPO loss.

    That loss is −Σ_ab W_ab·[σ(r_a − r_b)·log σ(x_ab) + σ(r_b − r_a)·log σ(−x_ab)] over ordered pairs, and W does not
    move with θ. `weights` and `difference` are W and Δ [seeds, pairs].
    """
    return 2 * beta * ((weights * difference) @ incident.T)


def empirical_gradient(
    won: np.ndarray, lost: np.ndarray, policy: np.ndarray, incident: np.ndarray, beta: float
) -> np.ndarray:
    """The same for the mean loss −log σ(x) of sampled pairs, shape [seeds, A].

    `won` and `lost` [seeds, pairs] are the shares of the sampled pairs in which a was preferred to b, and b to a;
    `policy` is e^(x_ab). A win of a's moves θ_a up and θ_b down by β·σ(−x_ab), one of b's the other way by β·σ(x_ab).
    """
    return beta * (((won - lost * policy) / (1 + policy)) @ incident.T)


def simulate(
    rewards: np.ndarray,
    sampler: str,
    *,
    steps: int,
    beta: float,
    learning_rate: float | None = None,
    draw: Draw | None = None,
    every: int = 1,
) -> dict[str, np.ndarray]:
    """Curves of MEASURES, from the uniform policy on, recorded before every `every`th update: [seeds, recorded] each.

    With a learning rate, as released (`normalised`): W sums to 1 over all A² pairs, and gradients are exact or, with
    `draw`, of sampled pairs. Without one, `paper` mode: W as it is and η = 1/(β²A), so that θ_a moves by
    η·β·Σ_b W_ab·Δ_ab.

    Args:
        rewards: Of every seed's actions, [seeds, A].
        sampler: Word of SAMPLERS.
        steps: Updates.
        beta: Strength β of the pull to the reference, in units of reward per nat.
        learning_rate: Of θ, per update; none for paper mode.
        draw: How pairs are sampled; none for exact gradients.
        every: Updates between two records.
    """
    actions, gap, recorded = rewards.shape[1], centred(rewards), []
    incident = incidence(actions)
    apart = rewards @ incident
    reward = np.exp(apart)
    preference = reward / (1 + reward)
    itself = float(choice(SAMPLERS, sampler, "tabular.samplers")(np.ones((1, 1)), np.ones((1, 1)))[0, 0])
    for step in range(steps):
        if step % every == 0:
            recorded.append(gap)
        delta = gap @ incident
        policy = np.exp(apart - delta)
        weights = SAMPLERS[sampler](reward, policy)
        if draw is not None:
            won, lost = draw(weights, preference, itself)
            ascent = learning_rate * empirical_gradient(won, lost, policy, incident, beta)
        else:
            ascent = exact_gradient(weights, preference_gap(delta, policy, preference), incident, beta)
            if learning_rate is None:
                ascent /= 2 * beta**2 * actions  # paper mode counts a pair once, not once in either order
            else:
                ascent *= learning_rate / (actions * itself + 2 * weights.sum(axis=1, keepdims=True))
        gap = centred(gap - beta * ascent)
    return measures(rewards[:, None], np.stack(recorded, axis=1), beta)


def centred(values: np.ndarray) -> np.ndarray:
    """Values [seeds, A] less their row's mean."""
    return values - values.mean(axis=1, keepdims=True)


def measures(rewards: np.ndarray, gap: np.ndarray, beta: float) -> dict[str, np.ndarray]:
    """MEASURES of policies, each of shape […], in units of reward, from rewards and gap […, A].

    Mean |δ| over all A² pairs, largest |δ|, value V = Σπ(r − β log π), and what it lacks of its best, β·log Σ e^(r/β).
    As π ∝ e^((r − v)/β), the value is Σπv + β·log Σ e^((r − v)/β).
    """
    size, ordered = gap.shape[-1], np.sort(gap, axis=-1)
    share = np.exp((rewards - gap) / beta)
    total = np.einsum("...a->...", share)
    value = np.einsum("...a,...a->...", share, gap) / total + beta * np.log(total)
    return {
        # The smallest of A is the smaller one of A − 1 pairs, the next the smaller one of A − 2 and the larger of 1.
        "param_diff": ordered @ np.arange(1.0 - size, size, 2) * (2 / size**2),
        "max_diff": ordered[..., -1] - ordered[..., 0],
        "value": value,
        "value_diff": beta * np.logaddexp.reduce(rewards / beta, axis=-1) - value,
    }


def multinomial_draw(pairs: int, actions: int, rng: np.random.Generator) -> Draw:
    """A draw of `pairs` pairs from W with Bernoulli(σ(r_a − r_b)) labels, for all seeds at once.

    The gradient asks only how often each action beat each other one, and that is multinomial: the pair {a, b} has
    probability 2W_ab, and a wins it with probability σ(r_a − r_b).
    """

    def draw(weights: np.ndarray, preference: np.ndarray, itself: float) -> tuple[np.ndarray, np.ndarray]:
        wins, alone = 2 * weights * preference, np.full((len(weights), 1), actions * itself)
        counts = multinomial(pairs, np.hstack([wins, 2 * weights - wins, alone]), rng)
        won, lost = np.split(counts[:, :-1] / pairs, 2, axis=1)
        return won, lost

    return draw


def multinomial(total: int, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Multinomial counts of `total` draws by weights [rows, cells], each row on its own.

    Given their sum, independent Poisson counts are multinomial, whatever the sum. So most of the total is drawn as
    Poisson counts, which is much faster, and the rest one by one.
    """
    weights = weights / weights.sum(axis=1, keepdims=True)
    most = max(0.0, total - 3 * total**0.5)  # three standard deviations: a sum above the total is rare, and redrawn
    counts = rng.poisson(most * weights)
    while (over := counts.sum(axis=1) > total).any():
        counts[over] = rng.poisson(most * weights[over])
    # Row k's cells share the interval from k to k + 1; in order, places are found faster.
    row = np.arange(len(weights))
    ends = weights.cumsum(axis=1)
    ends[:, -1] = 1
    rest = np.repeat(row, total - counts.sum(axis=1))
    places = np.sort(rest + rng.random(len(rest)))
    cells = np.searchsorted((ends + row[:, None]).ravel(), places, side="right")
    return counts + np.bincount(cells, minlength=counts.size).reshape(counts.shape)
