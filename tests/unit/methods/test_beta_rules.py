"""β rules match plain loops, are stable on stationary margins, and continue exactly after a restore."""

import io
import itertools
import math

import numpy as np
import pytest

from prefloop.core.errors import InputError
from prefloop.methods.beta_config import BetaConfig, BetaDPOConfig, BetaScheduleConfig, RiskConfig
from prefloop.methods.beta_rules import BETAS, calibrated_step, expected_tanh, gaussian_keep, sample_std, share_above

SIZES = (16, 16, 7, 16, 1, 16, 16, 3, 16, 16, 16, 5)  # the last batch of an epoch is smaller
WARMUP = 120
DRAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "t(3)": lambda rng, size: rng.standard_t(3, size=size),
}


def settings_of(rule: str, **changes) -> BetaConfig:
    """Return settings that every rule accepts: a schedule of three values and a warm-up of four steps."""
    schedule = BetaScheduleConfig(values=(0.3, 0.2, 0.1), by="epoch")
    return BetaConfig(**{"beta_rule": rule, "beta_schedule": schedule, "beta_risk": RiskConfig(warmup=4)} | changes)


def rule_of(rule: str, round_index: int = 1, **changes):
    return BETAS[rule](settings_of(rule, **changes), round_index)


def recorded(seed: int = 3, sizes: tuple[int, ...] = SIZES) -> list[np.ndarray]:
    """Return margins of successive batches, whose mean and spread grow as in training."""
    rng = np.random.default_rng(seed)
    return [rng.normal(0.1 * step, 1 + 0.2 * step, size) for step, size in enumerate(sizes)]


def go(rule, batches: list[np.ndarray], first_step: int = 0) -> list:
    """Run a rule; return β, the indices of the pairs that count, and the log for every step."""
    seen = []
    for step, margins in enumerate(batches, start=first_step):
        rng = np.random.default_rng(step)
        beta, kept = rule.weigh(margins if rule.reads_batch else None, epoch=step // 5, rng=rng)
        rule.observe(margins)
        seen.append((beta, None if kept is None else kept.tolist(), rule.log()))
    return seen


# Constant and schedule.


def test_constant_rule_returns_the_configured_beta():
    assert go(rule_of("constant", beta=0.25), recorded()) == [(0.25, None, {})] * len(SIZES)


def test_schedule_by_epoch_keeps_the_last_value():
    rule, rng = rule_of("schedule", round_index=7), np.random.default_rng(0)
    assert [rule.weigh(None, epoch=epoch, rng=rng)[0] for epoch in range(5)] == [0.3, 0.2, 0.1, 0.1, 0.1]


def test_schedule_by_round_does_not_depend_on_the_epoch():
    schedule, rng = BetaScheduleConfig(values=(0.3, 0.2), by="round"), np.random.default_rng(0)
    betas = [
        [rule_of("schedule", round_index=r, beta_schedule=schedule).weigh(None, epoch=e, rng=rng)[0] for e in range(3)]
        for r in (1, 2, 3)
    ]
    assert betas == [[0.3] * 3, [0.2] * 3, [0.2] * 3]


def test_empty_schedule_is_refused():
    with pytest.raises(InputError, match="beta_schedule.values: empty"):
        rule_of("schedule", beta_schedule=BetaScheduleConfig())


# β-DPO.


@pytest.mark.parametrize("start", ["first_batch", "official"])
def test_batch_rule_equals_a_plain_loop(start):
    """Compares M0, σ, the kept pairs and β with scalar computations."""
    batch = BetaDPOConfig(a=0.5, momentum=0.8, keep=0.6, beta_min=0.06, start=start)
    rule, m0, sigma, betas = rule_of("batch", beta=0.1, beta_batch=batch), 0.0, 0.0, []
    for step, margins in enumerate(recorded()):
        values = margins.tolist()
        n, mean = len(values), sum(values) / len(values)
        std = math.sqrt(sum((m - mean) ** 2 for m in values) / (n - 1)) if n > 1 else 0.0
        if step == 0 and start == "first_batch":
            m0, sigma = mean, std
        else:
            m0, sigma = 0.8 * m0 + 0.2 * mean, 0.8 * sigma + 0.2 * std
        noise = np.random.default_rng(step).gumbel(size=n).tolist()
        keys = [-((m - m0) ** 2) / (2 * sigma**2) + g for m, g in zip(values, noise, strict=True)]
        kept = sorted(sorted(range(n), key=lambda i: keys[i])[-max(1, n * 6 // 10) :])
        beta = max(0.06, 0.1 * (1 + 0.5 * (sum(values[i] for i in kept) / len(kept) - m0)))

        got_beta, got_kept = rule.weigh(margins, epoch=0, rng=np.random.default_rng(step))
        assert got_kept.tolist() == kept
        assert got_beta == pytest.approx(beta)
        assert rule.log() == pytest.approx({"beta/m0": m0, "beta/sigma": sigma, "beta/kept": len(kept) / n})
        betas.append(got_beta)
    assert min(betas) == 0.06
    assert max(betas) > 0.1


def test_beta_of_a_batch_by_hand():
    """All pairs are kept. Mean 2 gives M0 = 0.1·2 and β = 0.1·(1 + 0.6·1.8). The std of (1, 1, 3, 3) is 2/√3."""
    rule = rule_of("batch", beta=0.1, beta_batch=BetaDPOConfig(keep=1.0, start="official"))
    beta, kept = rule.weigh(np.array([1.0, 1.0, 3.0, 3.0]), epoch=0, rng=np.random.default_rng(0))
    assert kept.tolist() == [0, 1, 2, 3]
    assert beta == pytest.approx(0.208)
    assert rule.log() == pytest.approx({"beta/m0": 0.2, "beta/sigma": 0.2 / math.sqrt(3), "beta/kept": 1.0})


def inclusion(weights: np.ndarray, size: int) -> np.ndarray:
    """Return each item's probability to be in a sequential weighted draw without replacement, summed over orders."""
    chances = np.zeros(len(weights))
    for order in itertools.permutations(range(len(weights)), size):
        left, chance = weights.sum(), 1.0
        for i in order:
            chance, left = chance * weights[i] / left, left - weights[i]
        chances[list(order)] += chance
    return chances


def test_draw_is_weighted_sampling_without_replacement():
    """Inclusion frequencies match NumPy's draw and the sum over all orders."""
    margins, m0, sigma, times = np.array([0.3, 2.5, -0.4, 1.2, -2.0]), 0.2, 1.1, 10_000
    weights = np.exp(-0.5 * ((margins - m0) / sigma) ** 2)
    rng, ours, numpys = np.random.default_rng(0), np.zeros(5), np.zeros(5)
    for _ in range(times):
        ours[gaussian_keep(margins, m0, sigma, 2, rng)] += 1
        numpys[rng.choice(5, size=2, replace=False, p=weights / weights.sum())] += 1
    assert ours / times == pytest.approx(inclusion(weights, 2), abs=0.02)
    assert ours / times == pytest.approx(numpys / times, abs=0.025)


def test_tiny_spread_keeps_the_nearest_pairs_and_zero_spread_any():
    """exp(−½z²) underflows to 0 for all four, but its logarithm still ranks them. With σ = 0 all weights are equal."""
    margins, rng = np.array([5.0, 1.0, -2.0, 9.0]), np.random.default_rng(0)
    assert gaussian_keep(margins, 0.0, 1e-12, 2, rng).tolist() == [1, 2]
    drawn = [tuple(gaussian_keep(margins, 0.0, 0.0, 2, rng)) for _ in range(3000)]
    for pair in itertools.combinations(range(4), 2):
        assert drawn.count(pair) / 3000 == pytest.approx(1 / 6, abs=0.03)


def test_sample_std_by_hand():
    assert sample_std(np.array([1.0, 2.0, 6.0])) == pytest.approx(math.sqrt(7))
    assert sample_std(np.array([4.0])) == 0.0


# Quantile control.


def quantile(values: list[float], share: float) -> float:
    """Return the quantile by linear interpolation between the order statistics around share·(n − 1)."""
    ordered, place = sorted(values), share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@pytest.mark.parametrize("beta_max", [2.0, 0.11])
def test_risk_equals_a_plain_transcription(beta_max):
    """Covers the warm-up, the update of τ before p̂, the tanh and the clipping, with batches of unequal sizes."""
    risk = RiskConfig(delta=0.2, rate=0.3, step=0.05, gain=1.5, warmup=4, beta_min=0.09, beta_max=beta_max)
    batches, expected = recorded(), []
    beta, tau = 0.1, quantile([m for margins in batches[:4] for m in margins], 0.8)
    for step, margins in enumerate(batches):
        before, log = beta, {"beta/tau": tau} if step == 3 else {}
        if step >= 4:
            tau = 0.7 * tau + 0.3 * quantile(margins.tolist(), 0.8)
            p_hat = sum(m >= tau for m in margins) / len(margins)
            u = (p_hat - 0.2) / math.sqrt(0.2 * 0.8 / len(margins))
            beta = min(max(beta * math.exp(0.05 * math.tanh(1.5 * u)), 0.09), beta_max)
            log = {"beta/tau": tau, "beta/p_hat": p_hat}
        expected.append((before, log))
    found = go(rule_of("risk", beta_risk=risk), batches)
    assert [kept for _, kept, _ in found] == [None] * len(SIZES)
    for (beta, _, log), (true_beta, true_log) in zip(found, expected, strict=True):
        assert beta == pytest.approx(true_beta)
        assert log == pytest.approx(true_log)
    assert [beta for beta, _, _ in found[:5]] == [0.1] * 5
    assert (max(beta for beta, _, _ in found) == 0.11) == (beta_max == 0.11)


def test_risk_calibrated_equals_a_plain_transcription():
    """p̂ uses the old τ. β and τ move by tanh(γu) minus its mean for p = δ, computed from binomial coefficients."""
    risk = RiskConfig(delta=0.2, step=0.05, gain=1.5, warmup=4, eta=0.5)
    batches, expected = recorded(), []
    collected = np.concatenate(batches[:4])
    beta, tau = 0.1, quantile(collected.tolist(), 0.8)
    sd = math.sqrt(sum((m - collected.mean()) ** 2 for m in collected) / (len(collected) - 1))
    for margins in batches[4:]:
        n, above = len(margins), sum(m >= tau for m in margins)
        signals = [math.tanh(1.5 * (k / n - 0.2) / math.sqrt(0.16 / n)) for k in range(n + 1)]
        mean = sum(math.comb(n, k) * 0.2**k * 0.8 ** (n - k) * signals[k] for k in range(n + 1))
        beta *= math.exp(0.05 * (signals[above] - mean))
        tau += 0.5 * 0.2 * sd * (signals[above] - mean)
        expected.append((beta, above / n, tau))
    rule = rule_of("risk_calibrated", beta_risk=risk)
    go(rule, batches[:4])
    for margins, (true_beta, p_hat, tau) in zip(batches[4:], expected, strict=True):
        go(rule, [margins])
        assert rule.beta == pytest.approx(true_beta)
        assert rule.log() == pytest.approx({"beta/tau": tau, "beta/p_hat": p_hat})


def test_margins_equal_to_tau_count():
    assert share_above(np.array([0.5, 1.0, 2.0, -1.0]), 1.0) == 0.5


@pytest.mark.parametrize("word", ["risk", "risk_calibrated"])
def test_warmup_margins_are_deleted_once_tau_is_known(word):
    rule = rule_of(word)
    go(rule, recorded()[:3])
    assert rule.state_dict()["collected"] == np.concatenate(recorded()[:3]).tolist()
    go(rule, recorded()[3:4])
    assert rule.state_dict()["collected"] == []


def test_calibrated_beta_is_clipped():
    risk, high = RiskConfig(step=0.5, beta_min=0.09, beta_max=0.11), np.full(16, 9.0)
    assert calibrated_step(0.1, 0.0, 1.0, high, risk)[0] == 0.11
    assert calibrated_step(0.1, 0.0, 1.0, -high, risk)[0] == 0.09


def test_expected_tanh_by_hand():
    """n = 1, δ = 0.1: u is 3 or −⅓. n = 2, δ = 0.2: the sd is √0.08; k = 0, 1, 2 has probability 0.64, 0.32, 0.04."""
    assert expected_tanh(1, 0.1, 2.0) == pytest.approx(0.1 * math.tanh(6) - 0.9 * math.tanh(2 / 3))
    at = [math.tanh((p - 0.2) / math.sqrt(0.08)) for p in (0, 0.5, 1)]
    assert expected_tanh(2, 0.2, 1.0) == pytest.approx(0.64 * at[0] + 0.32 * at[1] + 0.04 * at[2])


def test_expected_tanh_by_brute_force():
    """Checks all outcomes of 9 pairs, binomial coefficients for 1,000, symmetry, and the limit 0 for many pairs."""
    mean = 0.0
    for outcome in itertools.product((0, 1), repeat=9):
        chance = math.prod(0.3 if above else 0.7 for above in outcome)
        mean += chance * math.tanh(2 * (sum(outcome) / 9 - 0.3) / math.sqrt(0.21 / 9))
    assert expected_tanh(9, 0.3, 2.0) == pytest.approx(mean)
    thousand = sum(
        math.comb(1000, k) * 0.1**k * 0.9 ** (1000 - k) * math.tanh(2 * (k / 1000 - 0.1) / math.sqrt(0.09 / 1000))
        for k in range(1001)
    )
    assert expected_tanh(1000, 0.1, 2.0) == pytest.approx(thousand, rel=1e-9)
    assert expected_tanh(25, 0.5, 2.0) == pytest.approx(0, abs=1e-12)
    assert -0.02 < expected_tanh(8000, 0.1, 2.0) < 0


def follow(word: str, distribution: str, pairs: int, seed: int, steps: int, growth: float = 0.0) -> tuple:
    """Return log(β/β0) and the mean p̂ after `steps` steps; margins grow by the fraction `growth` per step."""
    rule = rule_of(word, beta_risk=RiskConfig(warmup=WARMUP))
    margins = DRAWS[distribution](np.random.default_rng(seed), (WARMUP + steps, pairs))
    margins *= (1 + growth) ** np.maximum(np.arange(-WARMUP, steps), 0)[:, None]
    shares = []
    for batch in margins:
        rule.observe(batch)
        shares.append(rule.p_hat)
    return math.log(rule.beta / 0.1), np.mean(shares[WARMUP:])


def test_published_risk_drifts_on_stationary_margins():
    """The known bias for 16 pairs: the mean p̂ is 0.127 for δ = 0.1, and β drifts from 0.1 to its upper bound."""
    drifts, shares = zip(*[follow("risk", "normal", 16, seed, 3500) for seed in range(3)], strict=True)
    assert np.mean(shares) == pytest.approx(0.127, abs=0.003)
    assert min(drifts) > math.log(0.9 * 2.0 / 0.1)


@pytest.mark.parametrize("pairs", [16, 64, 256])
@pytest.mark.parametrize("distribution", DRAWS)
def test_risk_calibrated_does_not_drift(distribution, pairs):
    runs = [follow("risk_calibrated", distribution, pairs, seed, 6000) for seed in range(20)]
    drifts, shares = zip(*runs, strict=True)
    assert abs(np.mean(drifts)) < 0.1
    assert np.abs(drifts).max() < 0.6
    assert np.mean(shares) == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize("pairs", [16, 64])
@pytest.mark.parametrize("distribution", DRAWS)
def test_risk_calibrated_follows_a_growing_scale(distribution, pairs):
    """If margins grow by 0.1 % per step for 1,000 steps, β rises by more than half. If they shrink, it falls."""
    for seed in range(5):
        assert follow("risk_calibrated", distribution, pairs, seed, 1000, growth=0.001)[0] > math.log(1.5)
        assert follow("risk_calibrated", distribution, pairs, seed, 1000, growth=-0.001)[0] < -math.log(1.5)


def test_warmup_without_spread_raises():
    rule = rule_of("risk_calibrated", beta_risk=RiskConfig(warmup=1))
    with pytest.raises(InputError, match="all 4 margins of the warm-up are equal"):
        rule.observe(np.zeros(4))


@pytest.mark.parametrize(
    ("word", "changes", "message"),
    [
        ("risk", {"beta_risk": RiskConfig(delta=0.0)}, "delta: 0.0"),
        ("risk_calibrated", {"beta_risk": RiskConfig(warmup=0)}, "warmup: 0"),
        ("risk", {"beta": 5.0}, "5.0 is outside"),
        ("batch", {"beta_batch": BetaDPOConfig(keep=0.0)}, "keep: 0.0"),
    ],
)
def test_impossible_settings_are_refused(word, changes, message):
    with pytest.raises(InputError, match=message):
        rule_of(word, **changes)


# All rules.


@pytest.mark.parametrize("word", BETAS)
def test_every_rule_is_sane(word):
    """β is finite and positive and logs are finite, also for batches of one pair. Kept indices are increasing."""
    rule = rule_of(word)
    assert rule.rule == word
    for margins, (beta, kept, log) in zip(recorded(), go(rule, recorded()), strict=True):
        assert math.isfinite(beta)
        assert beta > 0
        assert all(type(value) is float and math.isfinite(value) for value in log.values())
        assert kept is None or (kept == sorted(set(kept)) and kept[0] >= 0 and kept[-1] < len(margins))
    alone = go(rule_of(word), recorded(sizes=(1,) * 8))
    assert all(math.isfinite(beta) and kept in (None, [0]) for beta, kept, _ in alone)
    assert go(rule_of(word), [m.astype(np.float32) for m in recorded()])[-1][0] == pytest.approx(beta)


@pytest.mark.parametrize("start", ["first_batch", "official"])
@pytest.mark.parametrize("word", BETAS)
def test_restored_rule_continues_exactly(word, start):
    """The rule is stopped after any number of steps, also during the warm-up, and saved and read like policy.pt."""
    import torch

    batches, changes = recorded(), {"beta_batch": BetaDPOConfig(start=start)}
    whole = go(rule_of(word, **changes), batches)
    for stop in range(len(batches) + 1):
        stopped = rule_of(word, **changes)
        go(stopped, batches[:stop])
        file = io.BytesIO()
        torch.save(stopped.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        assert state == stopped.state_dict()
        restored = rule_of(word, **changes)
        restored.load_state_dict(state)
        assert go(restored, batches[stop:], first_step=stop) == whole[stop:]


@pytest.mark.parametrize("word", BETAS)
def test_state_is_a_copy(word):
    """Further training changes neither a saved state nor a state that was loaded."""
    rule, other = rule_of(word), rule_of(word)
    go(rule, recorded()[:2])
    state = rule.state_dict()
    other.load_state_dict(state)
    before = repr(state)
    go(rule, recorded()[2:])
    go(other, recorded()[2:])
    assert repr(state) == before


@pytest.mark.parametrize(("saved", "read"), itertools.permutations(BETAS, 2))
def test_state_of_another_rule_is_refused(saved, read):
    with pytest.raises(InputError, match=f"saved by β rule {saved}, but the rule is {read};"):
        rule_of(read).load_state_dict(rule_of(saved).state_dict())


def test_incomplete_state_is_refused():
    state = rule_of("batch").state_dict()
    del state["sigma"]
    with pytest.raises(InputError, match="saved by β rule batch, without sigma, but the rule is batch"):
        rule_of("batch").load_state_dict(state)


def test_batch_starts_from_the_first_unequal_margins():
    """If the policy equals its reference, all margins are 0. The next batch then sets M0 and σ completely."""
    rule = BETAS["batch"](BetaConfig(beta_rule="batch"), 1)
    rng, later = np.random.default_rng(0), np.array([1.0, 2.0, 3.0, 6.0])
    rule.weigh(np.zeros(4), epoch=0, rng=rng)
    rule.weigh(later, epoch=0, rng=rng)
    assert rule.log()["beta/m0"] == 3.0
    assert rule.log()["beta/sigma"] == pytest.approx(later.std(ddof=1))
    rule.weigh(np.full(4, 5.0), epoch=0, rng=rng)
    assert rule.log()["beta/m0"] == pytest.approx(3.2)


@pytest.mark.parametrize(("keep", "expected"), [(0.57, 57), (0.29, 29), (0.8, 80), (0.999, 99)])
def test_kept_share_is_not_lost_to_binary_rounding(keep, expected):
    """In floating point, 0.57 · 100 is a little less than 57."""
    rule = rule_of("batch", beta=0.1, beta_batch=BetaDPOConfig(keep=keep))
    _, kept = rule.weigh(np.arange(100.0), epoch=0, rng=np.random.default_rng(0))
    assert len(kept) == expected
