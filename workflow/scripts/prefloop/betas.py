"""How β moves during training: one update per optimizer step on the global batch's margins, never in evaluation.

Margins are log-ratio margins M (`losses.log_ratio_margin`): in nats, without β, of shape [pairs]. A rule is a
thin holder of state around pure functions; what it keeps beyond its settings is a dict of plain values, so that
a restored rule goes on exactly as an uninterrupted one.
"""

import math
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar, Literal

import numpy as np

from prefloop.rows import InputError


@dataclass
class Schedule:
    """β from a list, for the rule `schedule`."""

    values: tuple[float, ...] = ()
    """β of each epoch or round, from the first; the last one stays once the list ends."""
    by: Literal["epoch", "round"] = "round"
    """What moves along the list: the epochs within each round, or the rounds."""


@dataclass
class Batch:
    """β-DPO, for the rule `batch`."""

    a: float = 0.6
    """How strongly β follows the batch's mean margin, per nat."""
    momentum: float = 0.9
    """Share of the past in the running mean M0 and spread σ of margins."""
    keep: float = 0.8
    """Share ρ of the batch's pairs that count in the loss: a random draw that prefers margins near M0."""
    beta_min: float = 1e-3
    """β never falls below this."""
    start: Literal["first_batch", "official"] = "first_batch"
    """M0 and σ start at the first batch's own mean and standard deviation, or at 0 as in the official code."""


@dataclass
class Risk:
    """Quantile control, for the rules `risk` and `risk_calibrated`."""

    delta: float = 0.1
    """Share of margins that should exceed the threshold τ."""
    rate: float = 0.1
    """Share λ of each batch's own quantile in τ (risk only)."""
    step: float = 0.005
    """Largest change α of log β in a step (risk_calibrated: up to the small constant that it subtracts)."""
    gain: float = 2.0
    """How fast the change saturates, γ, per standard error of the share of margins above τ."""
    warmup: int = 120
    """Steps at the first β whose margins give the first τ."""
    beta_min: float = 0.0
    """β never falls below this."""
    beta_max: float = 2.0
    """β never rises above this."""
    eta: float = 0.05
    """Step of τ: ηδ standard deviations of the warm-up's margins for a signal of 1 (risk_calibrated only). The smaller
    it is, the more β answers: log β/β0 is α/(ηδ) for each standard deviation by which the quantile rose."""


@dataclass
class Betas:
    """β and how it moves; the settings of training inherit these."""

    beta: float = 0.1
    """Strength of the pull to the reference, per nat of log-ratio margin; where a rule moves it, its start."""
    beta_rule: str = "constant"
    """Word of prefloop.betas.BETAS."""
    beta_schedule: Schedule = field(default_factory=Schedule)
    """The list of the rule schedule."""
    beta_batch: Batch = field(default_factory=Batch)
    """The constants of the rule batch."""
    beta_risk: Risk = field(default_factory=Risk)
    """The constants of the rules risk and risk_calibrated."""


def sample_std(values: np.ndarray) -> float:
    """Standard deviation of `values` [n] with n − 1 in the denominator; 0 for one value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def gaussian_keep(margins: np.ndarray, m0: float, sigma: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `size` pairs without replacement with weights exp(−½((M − M0)/σ)²): increasing indices [size].

    `margins` [pairs], `m0` and `sigma` are in nats; σ = 0 weighs all pairs equally. Gumbel noise on the log-weights
    and the largest of the sums are a draw one by one without replacement (Kool et al. 2019, arXiv 1903.06059); in
    logs no weight underflows, however small σ is. Source: β-DPO (arXiv 2407.08639), β-guided data filtering.
    """
    log_weights = -0.5 * ((margins - m0) / sigma) ** 2 if sigma > 0 else np.zeros(len(margins))
    keys = log_weights + rng.gumbel(size=len(margins))
    return np.sort(np.argsort(-keys, kind="stable")[:size])


def batch_beta(beta: float, kept: np.ndarray, m0: float, batch: Batch) -> float:
    """max(β_min, β0·(1 + a·(mean M − M0))) over the margins kept, [kept] in nats (β-DPO, arXiv 2407.08639)."""
    return max(batch.beta_min, beta * (1 + batch.a * (float(kept.mean()) - m0)))


def share_above(margins: np.ndarray, tau: float) -> float:
    """p̂, the share of `margins` [pairs] that reach τ; both in nats."""
    return float(np.count_nonzero(margins >= tau) / len(margins))


def standard_errors(p_hat: float, pairs: int, delta: float) -> float:
    """u = (p̂ − δ)/sqrt(δ(1 − δ)/n): how far p̂ over n pairs lies from δ, in standard errors."""
    return (p_hat - delta) / math.sqrt(delta * (1 - delta) / pairs)


def moved(beta: float, signal: float, risk: Risk) -> float:
    """clip(β·exp(α·signal), β_min, β_max)."""
    return min(max(beta * math.exp(risk.step * signal), risk.beta_min), risk.beta_max)


def risk_step(beta: float, tau: float, margins: np.ndarray, risk: Risk) -> tuple[float, float, float]:
    """One step of quantile control: the new (β, τ, p̂) from a batch's `margins` [pairs]; τ in nats.

    τ ← (1−λ)τ + λ·quantile(M, 1−δ), then p̂ with the new τ, then β ← clip(β·exp(α·tanh(γu))). As published: τ has
    already moved towards the batch whose p̂ it measures, and a binomial is skewed, so that on stationary margins
    neither mean p̂ is δ nor mean tanh(γu) is 0. β then drifts, the faster the smaller the batch.
    """
    tau = (1 - risk.rate) * tau + risk.rate * float(np.quantile(margins, 1 - risk.delta))
    p_hat = share_above(margins, tau)
    signal = math.tanh(risk.gain * standard_errors(p_hat, len(margins), risk.delta))
    return moved(beta, signal, risk), tau, p_hat


@cache
def expected_tanh(pairs: int, delta: float, gain: float) -> float:
    """E[tanh(γu)] when each of n pairs exceeds τ with probability δ: a sum over k ~ Binomial(n, δ).

    Not 0, as the binomial is skewed where δ ≠ ½. The probabilities come from log Γ, so that none overflows.
    """
    terms = []
    for k in range(pairs + 1):
        log_ways = math.lgamma(pairs + 1) - math.lgamma(k + 1) - math.lgamma(pairs - k + 1)
        probability = math.exp(log_ways + k * math.log(delta) + (pairs - k) * math.log1p(-delta))
        terms.append(probability * math.tanh(gain * standard_errors(k / pairs, pairs, delta)))
    return math.fsum(terms)


def calibrated_step(beta: float, tau: float, sd: float, margins: np.ndarray, risk: Risk) -> tuple[float, float, float]:
    """One step of quantile control without drift: the new (β, τ, p̂) from a batch's `margins` [pairs]; τ, sd in nats.

    It corrects `risk_step` in two places, so that β stays where it is on stationary margins of any distribution:
    p̂ is measured against a τ that has not seen this batch, and the signal is s = tanh(γu) − E[tanh(γu) | p = δ],
    whose mean is 0 exactly where τ is the quantile. Then β ← clip(β·exp(α·s)) and τ ← τ + η·sd·δ·s (Robbins–Monro).
    `sd` is the standard deviation of the warm-up's margins.
    """
    p_hat = share_above(margins, tau)
    pairs = len(margins)
    signal = math.tanh(risk.gain * standard_errors(p_hat, pairs, risk.delta))
    signal -= expected_tanh(pairs, risk.delta, risk.gain)
    # τ follows the signal itself and not p̂ − δ: s is no linear function of p̂ − δ, and what is left of it would add
    # up in log β to a random walk (sd .1 to .15 after 6,000 steps). So log β/β0 = α/(ηδ)·(τ − τ0)/sd, short
    # of the clip: β rises where the quantile of the margins rises, about equally for all batch sizes, and else stays.
    return moved(beta, signal, risk), tau + risk.eta * sd * risk.delta * signal, p_hat


class Rule:
    """β and how it moves. This base keeps β as it is; a rule overrides what it changes.

    Made from the settings of training and the round, from 1; raises InputError if they cannot be. `beta` is per nat.
    """

    rule: ClassVar[str]  # its word in BETAS
    reads_batch: ClassVar[bool] = False  # whether `weigh` needs the batch's margins, so before the loss
    fields: ClassVar[tuple[str, ...]] = ()  # the attributes that settings do not tell

    def __init__(self, settings: Betas, round: int):
        self.beta = settings.beta

    def weigh(
        self, margins: np.ndarray | None, *, epoch: int, rng: np.random.Generator
    ) -> tuple[float, np.ndarray | None]:
        """β of this optimizer step, and which pairs count in the loss: increasing indices [kept], None for all.

        `margins` [pairs] are the global batch's, needed if `reads_batch`; `epoch` counts from 0 within the round.
        """
        return self.beta, None

    def observe(self, margins: np.ndarray) -> None:
        """Take in the margins [pairs] of the global batch after its step."""

    def log(self) -> dict[str, float]:
        """What training.jsonl keeps of a step beside β; only finite numbers."""
        return {}

    def state_dict(self) -> dict:
        """What policy.pt keeps as `beta_state`: plain numbers, strings and lists."""
        return {"rule": self.rule} | {name: deepcopy(getattr(self, name)) for name in self.fields}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a saved state; InputError if it is another rule's or incomplete."""
        saved = state.get("rule")
        missing = [name for name in self.fields if name not in state]
        if saved != self.rule or missing:
            found = f", missing {', '.join(missing)}" if saved == self.rule else ""
            raise InputError(
                f"beta_state: saved by β rule {saved}{found}, to be read by train.beta_rule {self.rule}; "
                "set that rule, or start the method anew"
            )
        for name in self.fields:
            setattr(self, name, deepcopy(state[name]))


class Constant(Rule):
    """β stays what config says."""

    rule = "constant"


class Scheduled(Rule):
    """β from a list, by round or by epoch within the round."""

    rule = "schedule"

    def __init__(self, settings: Betas, round: int):
        super().__init__(settings, round)
        self.schedule, self.round = settings.beta_schedule, round
        if not self.schedule.values:
            raise InputError("train.beta_schedule.values: empty; train.beta_rule schedule needs one β or more")

    def weigh(
        self, margins: np.ndarray | None, *, epoch: int, rng: np.random.Generator
    ) -> tuple[float, np.ndarray | None]:
        place = self.round - 1 if self.schedule.by == "round" else epoch
        self.beta = self.schedule.values[min(place, len(self.schedule.values) - 1)]
        return self.beta, None


class BatchGuided(Rule):
    """β-DPO (arXiv 2407.08639): β follows the batch's mean margin, and outlying pairs tend to be left out.

    M0 ← m·M0 + (1−m)·mean M and σ ← m·σ + (1−m)·std M come first, then the draw, then β. With `first_batch` both
    start from the first batch whose margins differ: before training all of them are 0.
    """

    rule = "batch"
    reads_batch = True
    fields = ("m0", "sigma", "batches")

    def __init__(self, settings: Betas, round: int):
        super().__init__(settings, round)
        self.beta0, self.batch = settings.beta, settings.beta_batch
        if not 0 < self.batch.keep <= 1:
            raise InputError(f"train.beta_batch.keep: {self.batch.keep} is no share above 0, up to 1")
        self.m0, self.sigma, self.batches = 0.0, 0.0, 0
        self.kept_share = 1.0

    def weigh(
        self, margins: np.ndarray | None, *, epoch: int, rng: np.random.Generator
    ) -> tuple[float, np.ndarray | None]:
        margins = np.asarray(margins, dtype=float)
        first = self.batches == 0 or (self.sigma == 0 and len(margins) > 1)
        past = 0.0 if first and self.batch.start == "first_batch" else self.batch.momentum
        self.m0 = past * self.m0 + (1 - past) * float(margins.mean())
        self.sigma = past * self.sigma + (1 - past) * sample_std(margins)
        self.batches += 1
        size = max(1, int(self.batch.keep * len(margins)))
        kept = gaussian_keep(margins, self.m0, self.sigma, size, rng)
        self.beta = batch_beta(self.beta0, margins[kept], self.m0, self.batch)
        self.kept_share = size / len(margins)
        return self.beta, kept

    def log(self) -> dict[str, float]:
        return {"beta/m0": self.m0, "beta/sigma": self.sigma, "beta/kept": self.kept_share}


class RiskControlled(Rule):
    """β rises while more than a share δ of margins exceeds a tracked threshold τ, and falls while fewer do.

    For the warm-up's steps β stays and margins are collected; their 1−δ quantile is the first τ. Each later
    step's margins steer τ and the next step's β (`risk_step`). A run shorter than the warm-up never moves β.
    """

    rule = "risk"
    fields = ("beta", "tau", "p_hat", "steps", "collected")

    def __init__(self, settings: Betas, round: int):
        super().__init__(settings, round)
        self.risk = risk = settings.beta_risk
        if not 0 < risk.delta < 1:
            raise InputError(f"train.beta_risk.delta: {risk.delta} is no share between 0 and 1")
        if risk.warmup < 1:
            raise InputError(f"train.beta_risk.warmup: {risk.warmup}; the first τ needs the margins of 1 step or more")
        if not risk.beta_min <= self.beta <= risk.beta_max:
            raise InputError(
                f"train.beta: {self.beta} lies outside train.beta_risk's range, {risk.beta_min} to {risk.beta_max}"
            )
        self.tau, self.p_hat, self.steps = 0.0, 0.0, 0
        self.collected: list[float] = []  # the warm-up's margins, in nats; empty after it

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
        """Set the first τ from all the warm-up's margins [pairs of all its steps]."""
        self.tau = float(np.quantile(collected, 1 - self.risk.delta))

    def steer(self, margins: np.ndarray) -> None:
        """Move β and τ by one batch's margins [pairs]."""
        self.beta, self.tau, self.p_hat = risk_step(self.beta, self.tau, margins, self.risk)

    def log(self) -> dict[str, float]:
        tau = {"beta/tau": self.tau} if self.steps >= self.risk.warmup else {}
        return tau | ({"beta/p_hat": self.p_hat} if self.steps > self.risk.warmup else {})


class RiskCalibrated(RiskControlled):
    """As `risk`, but without drift on stationary margins (`calibrated_step`)."""

    rule = "risk_calibrated"
    fields = (*RiskControlled.fields, "sd")

    def __init__(self, settings: Betas, round: int):
        super().__init__(settings, round)
        self.sd = 0.0

    def start(self, collected: np.ndarray) -> None:
        super().start(collected)
        self.sd = sample_std(collected)
        if self.sd == 0:
            raise InputError(
                f"train.beta_rule risk_calibrated: the warm-up's {len(collected)} margins are all equal, "
                "so that τ has no unit to move in; raise train.beta_risk.warmup"
            )

    def steer(self, margins: np.ndarray) -> None:
        self.beta, self.tau, self.p_hat = calibrated_step(self.beta, self.tau, self.sd, margins, self.risk)


# From config's word to a class of (settings, round).
BETAS: dict[str, type[Rule]] = {
    "constant": Constant,
    "schedule": Scheduled,
    "batch": BatchGuided,
    "risk": RiskControlled,
    "risk_calibrated": RiskCalibrated,
}
