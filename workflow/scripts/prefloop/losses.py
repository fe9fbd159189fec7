"""Preference losses: functions of the log-ratio margin M and β, one value a pair."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def log_ratio_margin(logp_w: Tensor, logp_l: Tensor, ref_logp_w: Tensor, ref_logp_l: Tensor) -> Tensor:
    """How much more than the reference the policy prefers the chosen response, in nats.

    All arguments and the result have shape [pairs]; log-probabilities are summed over response tokens.
    Source: Rafailov et al. 2023 (arXiv 2305.18290), the argument of σ in eq. 7 without β.
    """
    return (logp_w - logp_l) - (ref_logp_w - ref_logp_l)


def dpo(margin: Tensor, beta: Tensor | float) -> Tensor:
    """−log σ(βM), shape [pairs] (Rafailov et al. 2023, eq. 7); log 2 where the policy is its reference."""
    return -F.logsigmoid(beta * margin)


LOSSES: dict[str, Callable[[Tensor, Tensor | float], Tensor]] = {"dpo": dpo}
