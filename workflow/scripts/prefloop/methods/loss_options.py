"""Constants of single losses. They have a module of their own so that reading a config does not import torch."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from prefloop.core.metadata import OnlyIf, Unit


@dataclass
class LossOptions:
    """Constants of single losses; the other losses ignore them."""

    label_smoothing: Annotated[float, Ge(0), Lt(0.5), Unit("probability"), OnlyIf("loss", ("cdpo", "rdpo", "exo"))] = (
        0.1
    )
    """Probability ε that a preference is wrong."""
    rmax: Annotated[float, Gt(0), Unit("per unit of reward"), OnlyIf("loss", ("rev_kl",))] = 1.0
    """Sharpness of σ(rmax · reward gap), the probability that a preference is right."""
    xpo_alpha: Annotated[float, Ge(0), Unit("per nat"), OnlyIf("loss", ("xpo",))] = 1e-5
    """Weight of the exploration bonus."""
    simpo_gamma: Annotated[float, Ge(0), Unit("units of β times nats per token"), OnlyIf("loss", ("simpo",))] = 0.5
    """Target margin of the loss."""
    discopop_tau: Annotated[float, Gt(0), Unit("pure number"), OnlyIf("loss", ("discopop",))] = 0.05
    """Temperature of the transition from the DPO loss to an exponential loss."""
