"""Rules for β during training: one update per optimizer step from the margins of the global batch.

Margins are log-ratio margins M (`losses.log_ratio_margin`), [pairs], in nats and without β. A rule stores the state,
and pure functions compute its updates. The state is a dict of plain values. A restored rule continues exactly like an
uninterrupted one.
"""

import math
from copy import deepcopy
from functools import cache
from typing import Any, ClassVar, Protocol

import numpy as np

from prefloop.core.errors import InputError, SettingError
from prefloop.methods.beta_config import BetaConfig, BetaDPOConfig, RiskConfig

Weighing = tuple[float, np.ndarray | None]
"""β of an optimizer step, and the increasing indices [kept] of the pairs that count in its loss; None for all pairs."""


class BetaRule(Protocol):
    """β and how it changes during training. `round_index` counts from 1."""

    rule: ClassVar[str]
    """Its key in BETAS."""
    reads_batch: ClassVar[bool]
    """Whether `weigh` needs the batch's margins before the loss is computed."""
    beta: float
    """β per nat."""

    def __init__(self, settings: BetaConfig, round_index: int) -> None: ...

    def weigh(self, margins: np.ndarray | None, *, epoch: int, rng: np.random.Generator) -> Weighing:
        """β and the pairs of the next optimizer step.

        Args:
            margins (np.ndarray | None): [pairs] of the global batch, nats; given if `reads_batch`.
            epoch: Epoch within the round, from 0.
            rng: Random numbers of this step.
        """

    def observe(self, margins: np.ndarray) -> None:
        """Update the state with the margins [pairs] of the global batch, after its step."""

    def log(self) -> dict[str, float]:
        """Finite numbers that training.jsonl stores for each step, in addition to β."""

    def state_dict(self) -> dict[str, Any]:
        """The state, which policy.pt stores as `beta_state`: plain numbers, strings and lists."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; InputError if it is from another rule or incomplete."""


def sample_std(values: np.ndarray) -> float:
    """Standard deviation of `values` [n] with n − 1 in the denominator; 0 for one value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def gaussian_keep(margins: np.ndarray, m0: float, sigma: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw pairs without replacement with weights exp(−½((M − M0)/σ)²): β-guided data filtering of β-DPO.

    Selecting the largest sums of log-weights and Gumbel noise is equivalent to a sequential draw without replacement
    (Kool et al. 2019, arXiv 1903.06059). Log-weights do not underflow, even if σ is small. Source: arXiv 2407.08639.

    Args:
        margins (np.ndarray): [pairs], nats.
        m0: Center of the weights, nats.
        sigma: σ of the weights, nats; with 0, all pairs have equal weights.
        size: Pairs to draw.
        rng: Random numbers of this step.

    Returns:
        np.ndarray: Increasing indices, [size].
    """
    log_weights = -0.5 * ((margins - m0) / sigma) ** 2 if sigma > 0 else np.zeros(len(margins))
    keys = log_weights + rng.gumbel(size=len(margins))
    return np.sort(np.argsort(-keys, kind="stable")[:size])


def batch_beta(beta: float, kept: np.ndarray, m0: float, batch: BetaDPOConfig) -> float:
    """max(β_min, β0·(1 + a·(mean M − M0))) over the margins [kept], in nats (β-DPO, arXiv 2407.08639)."""
    return max(batch.beta_min, beta * (1 + batch.a * (float(kept.mean()) - m0)))


def share_above(margins: np.ndarray, tau: float) -> float:
    """p̂, the fraction of `margins` [pairs] that are at least τ; both in nats."""
    return float(np.count_nonzero(margins >= tau) / len(margins))


def standard_errors(p_hat: float, pairs: int, delta: float) -> float:
    """u = (p̂ − δ)/sqrt(δ(1 − δ)/n): the distance between p̂ over n pairs and δ, in standard errors."""
    return (p_hat - delta) / math.sqrt(delta * (1 - delta) / pairs)


def scale_beta(beta: float, signal: float, risk: RiskConfig) -> float:
    """clip(β·exp(α·signal), β_min, β_max)."""
    return min(max(beta * math.exp(risk.step * signal), risk.beta_min), risk.beta_max)


def risk_step(beta: float, tau: float, margins: np.ndarray, risk: RiskConfig) -> tuple[float, float, float]:
    """One step of quantile control: the new (β, τ, p̂) from a batch's `margins` [pairs]; τ in nats.

    First τ ← (1−λ)τ + λ·quantile(M, 1−δ), then p̂ is measured with the new τ, then β ← clip(β·exp(α·tanh(γu))). This
    is the published algorithm, in which β drifts on stationary margins, faster with smaller batches. τ has already
    moved toward the batch on which p̂ is measured, so the mean of p̂ is not δ. The binomial distribution is skewed, so
    the mean of tanh(γu) is not 0.
    """
    tau = (1 - risk.rate) * tau + risk.rate * float(np.quantile(margins, 1 - risk.delta))
    p_hat = share_above(margins, tau)
    signal = math.tanh(risk.gain * standard_errors(p_hat, len(margins), risk.delta))
    return scale_beta(beta, signal, risk), tau, p_hat


@cache
def expected_tanh(pairs: int, delta: float, gain: float) -> float:
    """E[tanh(γu)] if each of n pairs exceeds τ with probability δ: the expectation over k ~ Binomial(n, δ).

    It is generally not 0, because the binomial distribution is skewed unless δ = 0.5. Probabilities are computed with
    log Γ to avoid overflow.
    """
    terms = []
    for k in range(pairs + 1):
        log_ways = math.lgamma(pairs + 1) - math.lgamma(k + 1) - math.lgamma(pairs - k + 1)
        probability = math.exp(log_ways + k * math.log(delta) + (pairs - k) * math.log1p(-delta))
        terms.append(probability * math.tanh(gain * standard_errors(k / pairs, pairs, delta)))
    return math.fsum(terms)


def calibrated_step(
    beta: float, tau: float, sd: float, margins: np.ndarray, risk: RiskConfig
) -> tuple[float, float, float]:
    """One step of quantile control without drift: the new (β, τ, p̂) from a batch's `margins` [pairs]; τ, sd in nats.

    It makes two corrections to `risk_step`, so that β is stationary on stationary margins of any distribution. First,
    p̂ is measured with a τ that does not depend on this batch. Second, the signal is s = tanh(γu) − E[tanh(γu) | p = δ],
    which has mean 0 exactly if τ is the quantile. Then β ← clip(β·exp(α·s)) and τ ← τ + η·sd·δ·s (Robbins–Monro). `sd`
    is the standard deviation of the warm-up's margins.
    """
    p_hat = share_above(margins, tau)
    pairs = len(margins)
    signal = math.tanh(risk.gain * standard_errors(p_hat, pairs, risk.delta))
    signal -= expected_tanh(pairs, risk.delta, risk.gain)
    # τ follows the signal s instead of p̂ − δ. s is not linear in p̂ − δ, so the difference would accumulate in log β as
    # a random walk (sd 0.1 to 0.15 after 6,000 steps). With s, log β/β0 = α/(ηδ)·(τ − τ0)/sd unless β is clipped: β
    # rises with the quantile of the margins, about equally for all batch sizes.
    return scale_beta(beta, signal, risk), tau + risk.eta * sd * risk.delta * signal, p_hat


class Constant:
    """A `BetaRule` with a constant β, and the base class of the other rules."""

    rule: ClassVar[str] = "constant"
    reads_batch: ClassVar[bool] = False
    fields: ClassVar[tuple[str, ...]] = ()  # names of the attributes that make up the state

    def __init__(self, settings: BetaConfig, round_index: int) -> None:
        self.beta = settings.beta

    def weigh(self, margins: np.ndarray | None, *, epoch: int, rng: np.random.Generator) -> Weighing:
        return self.beta, None

    def observe(self, margins: np.ndarray) -> None:
        pass

    def log(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"rule": self.rule} | {name: deepcopy(getattr(self, name)) for name in self.fields}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = state.get("rule")
        missing = [name for name in self.fields if name not in state]
        if saved != self.rule or missing:
            problem = f", without {', '.join(missing)}" if saved == self.rule else ""
            raise InputError(
                f"beta_state: saved by β rule {saved}{problem}, but the rule is {self.rule}; "
                f"set beta_rule: {saved}, or start the method again"
            )
        for name in self.fields:
            setattr(self, name, deepcopy(state[name]))


class Scheduled(Constant):
    """β from a list, one value per round or per epoch within each round."""

    rule = "schedule"

    def __init__(self, settings: BetaConfig, round_index: int) -> None:
        super().__init__(settings, round_index)
        self.schedule, self.round_index = settings.beta_schedule, round_index
        if not self.schedule.values:
            raise SettingError("beta_schedule.values: empty, the rule schedule needs at least one β")

    def weigh(self, margins: np.ndarray | None, *, epoch: int, rng: np.random.Generator) -> Weighing:
        index = self.round_index - 1 if self.schedule.by == "round" else epoch
        self.beta = self.schedule.values[min(index, len(self.schedule.values) - 1)]
        return self.beta, None


class BatchGuided(Constant):
    """β-DPO (arXiv 2407.08639): β depends on the batch's mean margin, and outliers are often left out of the loss.

    A step updates M0 ← m·M0 + (1−m)·mean M and σ ← m·σ + (1−m)·std M, then draws the pairs, then computes β. With
    `first_batch`, M0 and σ start from the first batch with unequal margins, because all margins are 0 before training.
    """

    rule = "batch"
    reads_batch = True
    fields = ("m0", "sigma", "batches")

    def __init__(self, settings: BetaConfig, round_index: int) -> None:
        super().__init__(settings, round_index)
        self.beta0, self.batch = settings.beta, settings.beta_batch
        if not 0 < self.batch.keep <= 1:
            raise SettingError(f"beta_batch.keep: {self.batch.keep}, expected a fraction above 0, at most 1")
        self.m0, self.sigma, self.batches = 0.0, 0.0, 0
        self.kept_share = 1.0

    def weigh(self, margins: np.ndarray | None, *, epoch: int, rng: np.random.Generator) -> Weighing:
        margins = np.asarray(margins, dtype=float)
        first = self.batches == 0 or (self.sigma == 0 and len(margins) > 1)
        past = 0.0 if first and self.batch.start == "first_batch" else self.batch.momentum
        self.m0 = past * self.m0 + (1 - past) * float(margins.mean())
        self.sigma = past * self.sigma + (1 - past) * sample_std(margins)
        self.batches += 1
        size = max(1, math.floor(self.batch.keep * len(margins) + 1e-9))  # 0.57 · 100 is 56.999… in binary
        kept = gaussian_keep(margins, self.m0, self.sigma, size, rng)
        self.beta = batch_beta(self.beta0, margins[kept], self.m0, self.batch)
        self.kept_share = size / len(margins)
        return self.beta, kept

    def log(self) -> dict[str, float]:
        return {"beta/m0": self.m0, "beta/sigma": self.sigma, "beta/kept": self.kept_share}


class RiskControlled(Constant):
    """β rises while more than a fraction δ of margins exceeds a tracked threshold τ, and falls while fewer do.

    During the warm-up, β is constant and margins are collected. Their 1−δ quantile is the first τ. The margins of each
    later step change τ and the β of the next step (`risk_step`). A run that ends within the warm-up never changes β.
    """

    rule = "risk"
    fields: ClassVar[tuple[str, ...]] = ("beta", "tau", "p_hat", "steps", "collected")

    def __init__(self, settings: BetaConfig, round_index: int) -> None:
        super().__init__(settings, round_index)
        self.risk = risk = settings.beta_risk
        if not 0 < risk.delta < 1:
            raise SettingError(f"beta_risk.delta: {risk.delta}, expected a fraction between 0 and 1")
        if risk.warmup < 1:
            raise SettingError(f"beta_risk.warmup: {risk.warmup}, the first τ needs the margins of at least 1 step")
        if not risk.beta_min <= self.beta <= risk.beta_max:
            raise SettingError(f"beta: {self.beta} is outside beta_risk's range, {risk.beta_min} to {risk.beta_max}")
        self.tau, self.p_hat, self.steps = 0.0, 0.0, 0
        self.collected: list[float] = []  # margins of the warm-up, in nats; empty after the warm-up

    def observe(self, margins: np.ndarray) -> None:
        margins = np.asarray(margins, dtype=float)
        self.steps += 1
        if self.steps > self.risk.warmup:
            self.steer(margins)
            return
        self.collected += margins.tolist()
        if self.steps == self.risk.warmup:
            self.start(np.array(self.collected))
            self.collected = []

    def start(self, collected: np.ndarray) -> None:
        """Set the first τ from the margins of all warm-up steps, [pairs of all warm-up steps]."""
        self.tau = float(np.quantile(collected, 1 - self.risk.delta))

    def steer(self, margins: np.ndarray) -> None:
        """Update β and τ with one batch's margins [pairs]."""
        self.beta, self.tau, self.p_hat = risk_step(self.beta, self.tau, margins, self.risk)

    def log(self) -> dict[str, float]:
        tau = {"beta/tau": self.tau} if self.steps >= self.risk.warmup else {}
        return tau | ({"beta/p_hat": self.p_hat} if self.steps > self.risk.warmup else {})


class RiskCalibrated(RiskControlled):
    """The rule `risk`, corrected so that β does not drift on stationary margins (`calibrated_step`)."""

    rule = "risk_calibrated"
    fields = (*RiskControlled.fields, "sd")

    def __init__(self, settings: BetaConfig, round_index: int) -> None:
        super().__init__(settings, round_index)
        self.sd = 0.0

    def start(self, collected: np.ndarray) -> None:
        super().start(collected)
        self.sd = sample_std(collected)
        if self.sd == 0:
            raise InputError(
                f"β rule risk_calibrated: all {len(collected)} margins of the warm-up are equal, so τ has no scale; "
                "raise beta_risk.warmup"
            )

    def steer(self, margins: np.ndarray) -> None:
        self.beta, self.tau, self.p_hat = calibrated_step(self.beta, self.tau, self.sd, margins, self.risk)


BETAS: dict[str, type[BetaRule]] = {
    "constant": Constant,
    "schedule": Scheduled,
    "batch": BatchGuided,
    "risk": RiskControlled,
    "risk_calibrated": RiskCalibrated,
}
