"""The tabular simulation agrees with the released script, the paper and autograd."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from conftest import ROOT
from prefloop.methods.tabular import (
    BOUNDS,
    LOWER_BOUND_REWARDS,
    SAMPLER_LABELS,
    TABULAR_MEASURES,
    TABULAR_SAMPLERS,
    PairDraw,
    empirical_gradient,
    exact_gradient,
    incidence,
    multinomial,
    multinomial_draw,
    normal_rewards,
    preference_gap,
    simulate,
    unit_rewards,
)

# Param Diff of the released script and of an independent recomputation in float64, for seed 1234567.
REFERENCE = json.loads((ROOT / "tests/golden/tabular_seed1234567.json").read_text())
SEED, BETA, MIXTURES = 1234567, 3.0, ["mix_r", "mix_p", "mix_p_star"]
RELEASED = {"steps": 100, "beta": BETA, "learning_rate": 10.0}
SAMPLED = {"beta": BETA, "learning_rate": 0.05}


INCIDENT = incidence(4)


def some_state(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards and θ of one seed with four actions, each [1, 4]."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(1, 4)), rng.normal(size=(1, 4)) / 2


def odds(values: np.ndarray) -> np.ndarray:
    """Return e^(z_a − z_b) for the pairs a < b of four actions."""
    return np.exp(values @ INCIDENT)


def loss_weights(rewards: np.ndarray, theta: np.ndarray, sampler: str) -> torch.Tensor:
    """Return W of one seed by definition: 1/(σ(z)σ(−z)) with the sampler's z, normalized to sum 1."""
    r, x = torch.tensor(rewards[0]), BETA * torch.tensor(theta[0]).log_softmax(0)
    r, x = r[:, None] - r, x[:, None] - x
    z = {"unif": 0 * x, "mix_r": r, "mix_p": x, "mix_p_star": x.clamp(-r.max(), r.max())}[sampler]
    weights = 1 / (torch.sigmoid(z) * torch.sigmoid(-z))
    return weights / weights.sum()


def random_instances() -> list[np.ndarray]:
    """Return 300 instances of rewards in [0, 1] for 2 to 50 actions. Those with two actions are (0, 1), the hardest."""
    sizes = [2, 3, 5, 10, 20, 50]
    return [unit_rewards(np.random.default_rng(size).random((50, size))) for size in sizes]


def released_draw(pairs: int, actions: int, independent: bool) -> PairDraw:
    """Return the released script's draw for one seed, with the same random numbers in the same order.

    It uses torch's global generator. Seed it, draw the rewards, then run the samplers one after the other without
    seeding again. With `independent`, a and b are drawn one after the other, as in the script for Unif. Otherwise
    flattened pairs are drawn at once.
    """
    upper = np.triu_indices(actions, 1)

    def draw(weights: np.ndarray, preference: np.ndarray, own_weight: float) -> tuple[np.ndarray, np.ndarray]:
        table, prefer = np.full((actions, actions), own_weight), np.full((actions, actions), 0.5)
        table[upper], prefer[upper] = weights[0], preference[0]
        table.T[upper], prefer.T[upper] = weights[0], 1 - preference[0]
        chance = torch.from_numpy(table / table.sum()).float()
        if independent:
            a = torch.multinomial(chance.sum(dim=1), pairs, replacement=True)
            b = torch.multinomial(chance.sum(dim=0), pairs, replacement=True)
        else:
            drawn = torch.multinomial(chance.flatten(), pairs, replacement=True)
            a, b = drawn // actions, drawn % actions
        first = torch.bernoulli(torch.from_numpy(prefer).float()[a, b]) > 0
        winner, loser = torch.where(first, a, b), torch.where(first, b, a)
        wins = torch.bincount(winner * actions + loser, minlength=actions**2).reshape(actions, actions).numpy() / pairs
        return wins[upper][None], wins.T[upper][None]

    return draw


@pytest.mark.parametrize(("sampler", "name"), [("unif", "DPO-Unif"), ("mix_r", "DPO-Mix-R"), ("mix_p", "DPO-Mix-P")])
def test_exact_updates_agree_with_the_reference(sampler, name):
    """The relative error is below 1e−6 where the reference is above 1e−12.

    Below 1e−9 an absolute error of 1e−15 is allowed, because the reference is rounded there: it takes differences of
    numbers near 3 in float64, and extended precision differs from it by 4e−16, too.
    """
    ours = simulate(normal_rewards([SEED], 20), sampler, **RELEASED)["param_diff"][0]
    reference = np.array(REFERENCE["exact"][name]["float64"])
    assert ours[reference > 1e-9] == pytest.approx(reference[reference > 1e-9], rel=1e-6)
    assert ours[reference > 1e-12] == pytest.approx(reference[reference > 1e-12], rel=1e-6, abs=1e-15)
    assert (ours[reference <= 1e-12] < 1e-12).all()


def test_sampled_updates_agree_with_the_released_script():
    """As in the script, one stream of random numbers gives the rewards, 3,000 updates of Unif, then Mix-R."""
    torch.manual_seed(SEED)
    rewards = torch.randn(1, 20).double().numpy()
    for sampler, name, steps in [("unif", "DPO-Unif", 3000), ("mix_r", "DPO-Mix-R", 600)]:
        draw = released_draw(8192, 20, independent=sampler == "unif")
        ours = simulate(rewards, sampler, steps=steps, draw=draw, **SAMPLED)["param_diff"][0, :600:50]
        assert ours == pytest.approx(REFERENCE["empirical_every_50"][name][:12], rel=1e-3)


def test_rewards_equal_those_of_the_released_script():
    assert normal_rewards([1, SEED], 20)[1] == pytest.approx(REFERENCE["rewards"], rel=1e-8)


@pytest.mark.parametrize(("sampler", "bound"), [*zip(BOUNDS, BOUNDS, strict=True), ("mix_p_star", "mix_p")])
def test_paper_mode_keeps_its_bounds_on_300_instances(sampler, bound):
    """Checked down to 1e−40. Below that, rounding of single updates in float64 dominates."""
    curves = [simulate(r, sampler, steps=13, beta=BETA)["max_diff"] for r in random_instances()]
    worst = np.concatenate(curves).max(axis=0)
    assert len(np.concatenate(curves)) == 300
    assert (worst <= np.maximum(BOUNDS[bound](np.arange(13)), 1e-40)).all()


@pytest.mark.parametrize("sampler", ["unif", *MIXTURES])
def test_paper_mode_has_the_worst_error_of_the_reference(sampler):
    """The worst |δ| agrees with that of 300 other instances to all given digits, down to the reference's precision."""
    worst = REFERENCE["paper_mode_worst_abs_delta_over_300_instances"][f"DPO-{SAMPLER_LABELS[sampler]}"]
    ours = np.max([simulate(r, sampler, steps=13, beta=BETA)["max_diff"].max(axis=0) for r in random_instances()], 0)
    assert ours == pytest.approx(worst, rel=1e-5, abs=1e-18)


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_paper_mode_does_not_depend_on_beta(beta):
    rewards = unit_rewards(np.random.default_rng(0).random((3, 7)))
    same = [simulate(rewards, "mix_p", steps=4, beta=b)["max_diff"] for b in (beta, BETA)]
    np.testing.assert_allclose(*same, rtol=1e-6, atol=1e-20)


def test_uniform_sampling_stays_linear_on_the_lower_bound_instance():
    """Convergence is linear for every learning rate.

    Near the end, δ is multiplied by I − c·L per update, where L is the Laplacian of a triangle with edges σ'(r_a −
    r_b). With z = 0 the edges differ, so no c removes both modes. The best one, 2/(λ₁ + λ₂), leaves (λ₂ − λ₁)/(λ₁ + λ₂)
    of the error per update.
    """
    rewards = np.array([LOWER_BOUND_REWARDS])
    slope = torch.tensor(rewards[0][:, None] - rewards[0]).sigmoid()
    edges = (slope * (1 - slope)).numpy() * (1 - np.eye(3))
    low, high = np.linalg.eigvalsh(np.diag(edges.sum(axis=0)) - edges)[1:]
    ratios = []
    for c in np.append(np.linspace(0.2, 1.8, 33), 1.0) * 2 / (low + high):
        # θ moves by 2·lr·β·Σ_b Δ_ab/9, so c = lr·2β²/9.
        rate = c * 9 / (2 * BETA**2)
        left = simulate(rewards, "unif", steps=200, beta=BETA, learning_rate=rate)["max_diff"][0]
        near = np.flatnonzero(left > 1e-100)[-1]
        ratios.append((left[near] / left[near - 10]) ** 0.1)
    assert min(ratios) == pytest.approx((high - low) / (low + high), rel=1e-3)


@pytest.mark.parametrize("sampler", MIXTURES)
def test_mixtures_are_quadratic_on_the_lower_bound_instance(sampler):
    """Each update squares the error up to a factor. Uniform sampling only divides it by about six."""
    left = simulate(np.array([LOWER_BOUND_REWARDS]), sampler, steps=5, beta=BETA)["max_diff"][0]
    orders = np.log(left[2:] / left[1:-1]) / np.log(left[1:-1] / left[:-2])
    assert (orders[1:] > 1.8).all()
    uniform = simulate(np.array([LOWER_BOUND_REWARDS]), "unif", steps=13, beta=BETA)["max_diff"][0]
    assert uniform[1:] / uniform[:-1] == pytest.approx(np.full(12, 1 / 6), abs=0.11)
    assert uniform[-1] / uniform[-2] == pytest.approx(uniform[-2] / uniform[-3], rel=1e-3)


@pytest.mark.parametrize("sampler", ["unif", *MIXTURES])
def test_exact_gradient_matches_autograd_of_the_expected_loss(sampler):
    rewards, theta = some_state()
    logits = torch.tensor(theta, requires_grad=True)
    x = BETA * (logits[0][:, None] - logits[0])
    p = torch.sigmoid(torch.tensor(rewards[0][:, None] - rewards[0]))
    weights = loss_weights(rewards, theta, sampler)
    loss = -(weights * (p * F.logsigmoid(x) + (1 - p) * F.logsigmoid(-x))).sum()
    loss.backward()
    reward, policy = odds(rewards), odds(BETA * theta)
    ours, own_weight = TABULAR_SAMPLERS[sampler](reward, policy), 4.0
    total = 2 * ours.sum() + 4 * own_weight
    difference = preference_gap((rewards - BETA * theta) @ INCIDENT, policy, reward / (1 + reward))
    np.testing.assert_allclose(ours[0] / total, weights[np.triu_indices(4, 1)], rtol=1e-12)
    np.testing.assert_allclose(exact_gradient(ours / total, difference, INCIDENT, BETA), -logits.grad, rtol=1e-10)


def test_empirical_gradient_matches_autograd_of_the_mean_loss():
    _, theta = some_state(1)
    winners, losers = torch.tensor([0, 0, 2, 3, 1, 1]), torch.tensor([1, 1, 3, 2, 0, 1])  # a pair twice, an action once
    logits = torch.tensor(theta, requires_grad=True)
    logp = logits[0].log_softmax(0)
    (-F.logsigmoid(BETA * (logp[winners] - logp[losers])).mean()).backward()
    # Pairs are in the order 01, 02, 03, 12, 13, 23.
    won, lost = np.array([[2, 0, 0, 0, 0, 1]]) / 6, np.array([[1, 0, 0, 0, 0, 1]]) / 6
    ours = empirical_gradient(won, lost, odds(BETA * theta), INCIDENT, BETA)
    np.testing.assert_allclose(ours, -logits.grad, rtol=1e-10, atol=1e-15)


def test_preference_gap_keeps_small_differences():
    """For r_a − r_b = 1 and δ = 1e−20, Δ = σ'(1)·1e−20, but σ(r) − σ(x) would be 0 in float64."""
    found = preference_gap(np.array([[1e-20]]), np.exp([[1.0]]), 1 / (1 + np.exp([[-1.0]])))
    assert found[0, 0] == pytest.approx(0.19661193324148185e-20, rel=1e-12)


@pytest.mark.parametrize("mixture", ["mix_r", "mix_p"])
def test_components_add_up_to_the_mixture(mixture):
    rewards, theta = some_state(2)
    given = odds(rewards), odds(BETA * theta)
    parts = TABULAR_SAMPLERS["mix_1"](*given) + TABULAR_SAMPLERS[f"{mixture}_2"](*given)
    np.testing.assert_allclose(parts, TABULAR_SAMPLERS[mixture](*given), rtol=1e-12)


def test_component_1_alone_is_uniform_sampling():
    rewards = normal_rewards([3], 5)
    np.testing.assert_array_equal(
        simulate(rewards, "mix_1", **RELEASED)["value"], simulate(rewards, "unif", **RELEASED)["value"]
    )


@pytest.mark.parametrize("sampler", TABULAR_SAMPLERS)
@pytest.mark.parametrize("rate", [2.0, None])
def test_seeds_do_not_affect_each_other(sampler, rate):
    rewards = unit_rewards(normal_rewards(range(4), 6))
    together = simulate(rewards, sampler, steps=8, beta=BETA, learning_rate=rate)
    for seed in range(4):
        alone = simulate(rewards[seed : seed + 1], sampler, steps=8, beta=BETA, learning_rate=rate)
        for name in TABULAR_MEASURES:
            np.testing.assert_allclose(together[name][seed], alone[name][0], rtol=1e-9, atol=1e-15)


def test_vectorized_draws_match_the_released_draws_in_distribution():
    """Mean and spread of Param Diff after the same updates agree, up to the noise of 1,000 and 150 runs."""
    rewards, settings = normal_rewards([SEED], 8), {"steps": 40, "beta": BETA, "learning_rate": 0.5}
    draw = multinomial_draw(256, 8, np.random.default_rng(0))
    ours = simulate(np.repeat(rewards, 1000, axis=0), "mix_r", draw=draw, **settings)["param_diff"][:, -1]
    torch.manual_seed(0)
    draw = released_draw(256, 8, independent=False)
    theirs = [simulate(rewards, "mix_r", draw=draw, **settings)["param_diff"][0, -1] for _ in range(150)]
    error = np.hypot(ours.std() / 1000**0.5, np.std(theirs) / 150**0.5)
    assert abs(ours.mean() - np.mean(theirs)) < 3 * error < 0.1 * ours.mean()
    assert ours.std() == pytest.approx(np.std(theirs), rel=0.25)


def test_multinomial_counts():
    """Each row has its own weights: mean n·p, variance n·p(1 − p), covariance −n·p·q, and a fixed total."""
    weights = np.repeat([[3.0, 1.0, 0.5, 5.5], [1.0, 0.0, 1.0, 2.0]], 20000, axis=0)
    counts = multinomial(200, weights, np.random.default_rng(0))
    assert (counts.sum(axis=1) == 200).all() and (counts >= 0).all()
    for part, p in [(counts[:20000], np.array([3, 1, 0.5, 5.5]) / 10), (counts[20000:], np.array([1, 0, 1, 2]) / 4)]:
        assert part.mean(axis=0) == pytest.approx(200 * p, rel=0.01)
        np.testing.assert_allclose(np.cov(part.T), 200 * (np.diag(p) - np.outer(p, p)), atol=1.0)


def test_recording_every_third_update_gives_every_third_record():
    rewards = normal_rewards([1, 2], 5)
    all_of_them, thin = (simulate(rewards, "mix_p", every=every, **RELEASED) for every in (1, 3))
    for name in TABULAR_MEASURES:
        np.testing.assert_array_equal(thin[name], all_of_them[name][:, ::3])


def test_measures_by_hand():
    """Before the first update x = 0, so δ = r_a − r_b and the value is the mean reward plus β·log A."""
    first = {name: values[0, 0] for name, values in simulate(np.array([[0.0, 1.0, 3.0]]), "unif", **RELEASED).items()}
    best = 3 * np.log(1 + np.exp(1 / 3) + np.exp(1))
    assert first["param_diff"] == pytest.approx(2 * (1 + 2 + 3) / 9)
    assert first["max_diff"] == pytest.approx(3)
    assert first["value"] == pytest.approx(4 / 3 + 3 * np.log(3))
    assert first["value_diff"] == pytest.approx(best - 4 / 3 - 3 * np.log(3))


def test_every_sampler_has_a_name():
    assert list(SAMPLER_LABELS) == list(TABULAR_SAMPLERS)


def run_program(name: str, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / f"workflow/scripts/{name}.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_programs_write_rows_and_draw_them(tmp_path):
    """The table has one row per recorded update of each seed, and four rows for the lower-bound instance."""
    sizes = ["--seeds", "3", "--actions", "4", "--normalized.steps", "9", "--paper.steps", "4"]
    sizes += ["--empirical.steps", "6", "--empirical.every", "4", "--empirical.pairs", "10"]
    rows, cost = tmp_path / "tabular.csv", tmp_path / "tabular.cost.json"
    done = run_program(
        "simulate_tabular", "--samplers", "unif", "mix_r_2", *sizes, "--output", str(rows), "--cost", str(cost)
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(rows)
    assert table.groupby(["sampler", "mode", "kind"]).size().tolist() == [4, 6, 15, 12] * 2
    first = table[(table["sampler"] == "unif") & (table["mode"] == "normalized") & (table["step"] == 0)]
    spread = np.ptp(normal_rewards(range(SEED, SEED + 3), 4), axis=1)
    assert first["max_diff"].to_numpy() == pytest.approx(np.tile(spread, 2), rel=1e-5)
    assert json.loads(cost.read_text())["stage"] == "simulate_tabular"

    given = ["--actions", "4", "--beta", "3", "--exact-rate", "10", "--empirical-rate", ".05", "--pairs", "10"]
    given += ["--rows", str(rows), "--figure", str(tmp_path / "drawn.pdf")]
    done = run_program("figures/plot_tabular", *given)
    assert done.returncode == 0, done.stderr
    caption = (tmp_path / "drawn.rst").read_text()
    assert (
        "4 actions and β = 3" in caption
        and "of 3 seeds; grey lines are upper bounds of arXiv 2409.19605 for Unif." in caption
    )
    assert "Mix-P" not in caption, "the caption names only samplers that were run"
    drawn = pd.read_csv(tmp_path / "drawn.csv").query(
        "sampler == 'unif' and mode == 'normalized' and measure == 'max_diff'"
    )
    assert drawn["median"].iloc[0] == pytest.approx(first["max_diff"].iloc[:3].median())


def test_overflow_raises(tmp_path):
    flags = ["--samplers", "mix_p", "--seeds", "2", "--normalized.learning-rate", "1e4"]
    flags += ["--output", str(tmp_path / "rows.csv"), "--cost", str(tmp_path / "cost.json")]
    done = run_program("simulate_tabular", *flags)
    assert done.returncode != 0 and done.stderr.startswith("error: tabular:")
    assert "lower the learning rate" in done.stderr
    assert not (tmp_path / "rows.csv").exists()
