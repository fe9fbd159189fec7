"""Settings of the β rules of `beta_rules`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from prefloop.core.metadata import Choice, OnlyIf, Unit


@dataclass
class BetaScheduleConfig:
    """A list of β, for the rule schedule."""

    values: Annotated[tuple[Annotated[float, Gt(0)], ...], Unit("per nat")] = ()
    """β of each epoch or round, starting with the first. After the end of the list, the last value is used."""
    by: Literal["epoch", "round"] = "round"
    """Whether the values are for the rounds or for the epochs within each round."""


@dataclass
class BetaDPOConfig:
    """β-DPO (arXiv 2407.08639), for the rule batch."""

    a: Annotated[float, Ge(0), Unit("per nat")] = 0.6
    """How strongly β depends on the mean margin of the batch."""
    momentum: Annotated[float, Ge(0), Lt(1), Unit("fraction")] = 0.9
    """Weight of the previous value in the running mean M0 and the running standard deviation σ of margins."""
    keep: Annotated[float, Gt(0), Le(1), Unit("fraction of the batch")] = 0.8
    """Fraction ρ of pairs that count in the loss. They are drawn at random, with a preference for margins near M0."""
    beta_min: Annotated[float, Gt(0), Unit("per nat")] = 1e-3
    """Smallest β."""
    start: Literal["first_batch", "official"] = "first_batch"
    """Initialize M0 and σ from the first batch, or to 0 as in the official code."""


@dataclass
class RiskConfig:
    """Quantile control of β, for the rules risk and risk_calibrated."""

    delta: Annotated[float, Gt(0), Lt(1), Unit("fraction of margins")] = 0.1
    """Fraction of margins that should exceed the threshold τ."""
    rate: Annotated[float, Gt(0), Le(1), Unit("fraction")] = 0.1
    """λ, the weight of the current batch's quantile in τ (rule risk only)."""
    step: Annotated[float, Gt(0), Unit("log β per step")] = 0.005
    """α, the largest change of log β; with risk_calibrated, a small constant may add to it."""
    gain: Annotated[float, Gt(0), Unit("per standard error")] = 2.0
    """γ, how quickly the change saturates as the fraction of margins above τ departs from δ."""
    warmup: Annotated[int, Ge(1), Unit("optimizer steps")] = 120
    """Steps with the initial β. Their margins determine the initial τ."""
    beta_min: Annotated[float, Ge(0), Unit("per nat")] = 0.0
    """Smallest β."""
    beta_max: Annotated[float, Gt(0), Unit("per nat")] = 2.0
    """Largest β."""
    eta: Annotated[float, Gt(0), Unit("standard deviations of margins")] = 0.05
    """Step size η of τ (rule risk_calibrated only): a signal of 1 changes τ by ηδ standard deviations of the warm-up's
    margins. Smaller values make β respond more: log β/β0 rises by α/(ηδ) per standard deviation that τ rises."""


@dataclass
class BetaConfig:
    """β and how it changes during training."""

    beta: Annotated[float, Gt(0), Unit("per nat"), OnlyIf("beta_rule", other_than=("schedule",))] = 0.1
    """Strength of the pull toward the reference; the initial value if a rule changes it."""
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
