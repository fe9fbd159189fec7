"""Settings of the β rules of `beta_rules`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from prefloop.core.metadata import Choice, OnlyIf, Unit


@dataclass
class BetaScheduleConfig:
    """β from a list, for the rule schedule."""

    values: Annotated[tuple[Annotated[float, Gt(0)], ...], Unit("per nat")] = ()
    """β of each epoch or round, from the first; the last value stays once the list ends."""
    by: Literal["epoch", "round"] = "round"
    """Whether the list counts the epochs within each round or the rounds."""


@dataclass
class BetaDPOConfig:
    """β-DPO (arXiv 2407.08639), for the rule batch."""

    a: Annotated[float, Ge(0), Unit("per nat")] = 0.6
    """How strongly β follows the mean margin of the batch."""
    momentum: Annotated[float, Ge(0), Lt(1), Unit("fraction")] = 0.9
    """Fraction of the old value kept in the running mean M0 and the running spread σ of margins."""
    keep: Annotated[float, Gt(0), Le(1), Unit("fraction of the batch")] = 0.8
    """Fraction ρ of the pairs that count in the loss: a random draw that prefers margins near M0."""
    beta_min: Annotated[float, Gt(0), Unit("per nat")] = 1e-3
    """Smallest β."""
    start: Literal["first_batch", "official"] = "first_batch"
    """Initialize M0 and σ from the first batch, or with 0 as the official code does."""


@dataclass
class RiskConfig:
    """Quantile control of β, for the rules risk and risk_calibrated."""

    delta: Annotated[float, Gt(0), Lt(1), Unit("fraction of margins")] = 0.1
    """Fraction of margins that should exceed the threshold τ."""
    rate: Annotated[float, Gt(0), Le(1), Unit("fraction")] = 0.1
    """λ, the weight of the batch's own quantile in τ (rule risk only)."""
    step: Annotated[float, Gt(0), Unit("log β per step")] = 0.005
    """α, the largest change of log β (risk_calibrated: up to the small constant that it subtracts)."""
    gain: Annotated[float, Gt(0), Unit("per standard error")] = 2.0
    """γ, how fast the change saturates with the fraction of margins above τ."""
    warmup: Annotated[int, Ge(1), Unit("optimizer steps")] = 120
    """Steps at the first β; their margins give the first τ."""
    beta_min: Annotated[float, Ge(0), Unit("per nat")] = 0.0
    """Smallest β."""
    beta_max: Annotated[float, Gt(0), Unit("per nat")] = 2.0
    """Largest β."""
    eta: Annotated[float, Gt(0), Unit("standard deviations of margins")] = 0.05
    """Step of τ (rule risk_calibrated only): ηδ standard deviations of the warm-up's margins for a signal of 1. The
    smaller it is, the more β responds: log β/β0 is α/(ηδ) for each standard deviation by which the quantile rose."""


@dataclass
class BetaConfig:
    """β and how it changes."""

    beta: Annotated[float, Gt(0), Unit("per nat"), OnlyIf("beta_rule", other_than=("schedule",))] = 0.1
    """Strength of the pull to the reference; the first value where a rule changes it."""
    beta_rule: Annotated[str, Choice("methods.beta_rules.BETAS", functions=True)] = "constant"
    """How β changes during training."""
    beta_schedule: Annotated[BetaScheduleConfig, OnlyIf("beta_rule", ("schedule",))] = field(
        default_factory=BetaScheduleConfig
    )
    """The list of β for the rule schedule."""
    beta_batch: Annotated[BetaDPOConfig, OnlyIf("beta_rule", ("batch",))] = field(default_factory=BetaDPOConfig)
    """Constants of the rule batch (β-DPO)."""
    beta_risk: Annotated[RiskConfig, OnlyIf("beta_rule", ("risk", "risk_calibrated"))] = field(
        default_factory=RiskConfig
    )
    """Constants of the rules risk and risk_calibrated."""
