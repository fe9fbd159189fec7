"""Preference losses, one value a pair.

A loss names, as its parameters, what it needs: any of `terms` (tensors of shape [pairs]), β, and fields of
`LossOptions`. `evaluate` passes each loss what it asks for, and nothing is computed that none asks for. ρ_w and ρ_l are
the log-ratios of policy and reference, in nats, and M = ρ_w − ρ_l; β is per nat, so that losses have no unit.
"""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prefloop.rows import choice


@dataclass
class LossOptions:
    """Constants of single losses; the others ignore them."""

    label_smoothing: float = 0.1
    """cdpo, rdpo: probability ε that a preference is the wrong way round; below ½."""
    rmax: float = 1.0
    """rev_kl: how sharply a reward gap becomes a probability, per unit of reward."""
    xpo_alpha: float = 1e-5
    """xpo: weight of the bonus for exploring, per nat."""
    simpo_gamma: float = 0.5
    """simpo: the margin to reach, in units of β times nats a token."""


def terms(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    logp_ref_chosen: Tensor,
    logp_ref_rejected: Tensor,
    n_chosen: Tensor,
    n_rejected: Tensor,
    reward_chosen: Tensor,
    reward_rejected: Tensor,
    logp_explored: Tensor | None = None,
) -> dict[str, Tensor]:
    """What losses may ask for, all of shape [pairs].

    Log-probabilities are summed over response tokens, in nats; `n_*` count those tokens; `logp_explored` is the
    policy's log-probability of a response that the reference sampled.
    """
    ratio_chosen, ratio_rejected = logp_chosen - logp_ref_chosen, logp_rejected - logp_ref_rejected
    found = {
        "margin": log_ratio_margin(logp_chosen, logp_rejected, logp_ref_chosen, logp_ref_rejected),
        "mean_margin": ratio_chosen / n_chosen - ratio_rejected / n_rejected,
        "mean_logp_margin": logp_chosen / n_chosen - logp_rejected / n_rejected,
        "ratio_chosen": ratio_chosen,
        "ratio_rejected": ratio_rejected,
        "reward_gap": reward_chosen - reward_rejected,
    }
    return found if logp_explored is None else found | {"logp_explored": logp_explored}


def log_ratio_margin(logp_w: Tensor, logp_l: Tensor, ref_logp_w: Tensor, ref_logp_l: Tensor) -> Tensor:
    """How much more than the reference the policy prefers the chosen response, in nats.

    All arguments and the result have shape [pairs]; log-probabilities are summed over response tokens.
    Source: Rafailov et al. 2023 (arXiv 2305.18290), the argument of σ in eq. 7 without β.
    """
    return (logp_w - logp_l) - (ref_logp_w - ref_logp_l)


def dpo(margin: Tensor, beta: float) -> Tensor:
    """−log σ(βM) (Rafailov et al. 2023, eq. 7); log 2 where the policy is its reference."""
    return -F.logsigmoid(beta * margin)


def cdpo(margin: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """−(1−ε) log σ(βM) − ε log σ(−βM): labels are wrong with probability ε (Mitchell 2023)."""
    return (1 - label_smoothing) * dpo(margin, beta) + label_smoothing * dpo(-margin, beta)


def rdpo(margin: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """[−(1−ε) log σ(βM) + ε log σ(−βM)] / (1−2ε): unbiased for DPO on clean labels (arXiv 2403.00409, eq. 12)."""
    robust = (1 - label_smoothing) * dpo(margin, beta) - label_smoothing * dpo(-margin, beta)
    return robust / (1 - 2 * label_smoothing)


def ipo(margin: Tensor, beta: float) -> Tensor:
    """(M − 1/(2β))² (Azar et al. 2023, arXiv 2310.12036, eq. 17, with their τ as β)."""
    return (margin - 1 / (2 * beta)) ** 2


def ipo_mean(mean_margin: Tensor, beta: float) -> Tensor:
    """IPO on length-averaged log-probabilities: what TRL calls ipo."""
    return ipo(mean_margin, beta)


def slic(margin: Tensor, beta: float) -> Tensor:
    """max(0, 1 − βM): SLiC's hinge with the log-ratio margin (arXiv 2305.10425, as OAIF uses it)."""
    return torch.relu(1 - beta * margin)


def rev_kl(margin: Tensor, beta: float, reward_gap: Tensor, rmax: float) -> Tensor:
    """−p log σ(βM) − (1−p) log σ(−βM) with p = σ(rmax·(r_w − r_l)): DPO to soft labels (arXiv 2409.19605)."""
    p = torch.sigmoid(rmax * reward_gap)
    return p * dpo(margin, beta) + (1 - p) * dpo(-margin, beta)


def xpo(margin: Tensor, beta: float, logp_explored: Tensor, xpo_alpha: float) -> Tensor:
    """DPO + α·log π(y_ref), y_ref sampled from the reference: optimism drives the policy off it (arXiv 2405.21046)."""
    return dpo(margin, beta) + xpo_alpha * logp_explored


def simpo(mean_logp_margin: Tensor, beta: float, simpo_gamma: float) -> Tensor:
    """−log σ(β·(log π(y_w)/N_w − log π(y_l)/N_l) − γ): no reference (Meng et al. 2024, arXiv 2405.14734, eq. 6)."""
    return -F.logsigmoid(beta * mean_logp_margin - simpo_gamma)


def sppo(ratio_chosen: Tensor, ratio_rejected: Tensor, beta: float) -> Tensor:
    """(log-ratio_w − 1/(2β))² + (log-ratio_l + 1/(2β))² (arXiv 2405.00675, with hard labels and their 1/η as β)."""
    return (ratio_chosen - 1 / (2 * beta)) ** 2 + (ratio_rejected + 1 / (2 * beta)) ** 2


def apo_zero(ratio_chosen: Tensor, ratio_rejected: Tensor, beta: float) -> Tensor:
    """1 − σ(β·log-ratio_w) + σ(β·log-ratio_l): up with the chosen, down with the rejected (arXiv 2408.06266)."""
    return torch.sigmoid(-beta * ratio_chosen) + torch.sigmoid(beta * ratio_rejected)


# From config's word to a function of what its parameters name -> losses [pairs].
LOSSES: dict[str, Callable[..., Tensor]] = {
    "dpo": dpo,
    "cdpo": cdpo,
    "rdpo": rdpo,
    "ipo": ipo,
    "ipo_mean": ipo_mean,
    "slic": slic,
    "rev_kl": rev_kl,
    "xpo": xpo,
    "simpo": simpo,
    "sppo": sppo,
    "apo_zero": apo_zero,
}


def asks_for(loss: str) -> set[str]:
    """Names of the terms, options and β that a loss takes; InputError if LOSSES has no such word."""
    return set(inspect.signature(choice(LOSSES, loss, "train.loss")).parameters)


def evaluate(loss: str, found: dict[str, Tensor], beta: float, options: LossOptions) -> Tensor:
    """The loss of each pair, shape [pairs], from `terms`; gradients flow into whatever of them carries some.

    Raises KeyError where the loss names something that is not there, as `logp_explored` without an explored response.
    """
    given = found | {field.name: getattr(options, field.name) for field in dataclasses.fields(LossOptions)}
    given["beta"] = beta
    return LOSSES[loss](**{name: given[name] for name in asks_for(loss)})
