"""Preference losses, one value per pair.

The parameters of a loss are the names of its inputs: terms of `loss_terms` and `batch_terms.BATCH_TERMS` (tensors of
shape [pairs]), β, and fields of `LossOptions`. `compute_losses` passes them. log-ratio_w and log-ratio_l are
log π_θ(y) − log π_ref(y) of the chosen and the rejected response, in nats, and M is their difference. β is per nat, so
losses have no unit.
"""

import dataclasses
import inspect
import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from prefloop.core.errors import SettingError
from prefloop.core.registry import chosen_words, lookup
from prefloop.methods.loss_options import LossOptions


class Loss(Protocol):
    """A function from terms, options and β, as named by its parameters, to one loss per pair."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss of each pair, [pairs]."""


def loss_terms(
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
    """The terms that losses may use; inputs and results have shape [pairs].

    Log-probabilities are sums over tokens in nats, as in `log_ratio_margin`. n_* are numbers of response tokens.
    `logp_explored` is the log-probability under the policy of a response sampled from the reference.
    """
    ratio_chosen, ratio_rejected = logp_chosen - logp_ref_chosen, logp_rejected - logp_ref_rejected
    terms = {
        "margin": log_ratio_margin(logp_chosen, logp_rejected, logp_ref_chosen, logp_ref_rejected),
        "mean_margin": ratio_chosen / n_chosen - ratio_rejected / n_rejected,
        "mean_logp_chosen": logp_chosen / n_chosen,
        "mean_logp_margin": logp_chosen / n_chosen - logp_rejected / n_rejected,
        "ratio_chosen": ratio_chosen,
        "ratio_rejected": ratio_rejected,
        "policy_gap": logp_chosen - logp_rejected,
        "reference_gap": logp_ref_chosen - logp_ref_rejected,
        "logp_chosen": logp_chosen,
        "logp_rejected": logp_rejected,
        "n_chosen": n_chosen,
        "n_rejected": n_rejected,
        "reward_gap": reward_chosen - reward_rejected,
    }
    return terms if logp_explored is None else terms | {"logp_explored": logp_explored}


def log_ratio_margin(logp_w: Tensor, logp_l: Tensor, ref_logp_w: Tensor, ref_logp_l: Tensor) -> Tensor:
    """The log-ratio margin M: how much more the policy prefers the chosen response than the reference does.

    The argument of σ in eq. 7 of Rafailov et al. 2023 (arXiv 2305.18290), without β.

    Args:
        logp_w (Tensor): [pairs], log-probability of the chosen response under the policy, summed over its tokens, nats.
        logp_l (Tensor): [pairs], the same for the rejected response.
        ref_logp_w (Tensor): [pairs], log-probability of the chosen response under the reference.
        ref_logp_l (Tensor): [pairs], the same for the rejected response.

    Returns:
        Tensor: [pairs], nats.
    """
    return (logp_w - logp_l) - (ref_logp_w - ref_logp_l)


def dpo(margin: Tensor, beta: float) -> Tensor:
    """−log σ(βM) (Rafailov et al. 2023, eq. 7); log 2 if the policy equals its reference."""
    return -F.logsigmoid(beta * margin)


def dpo_mean(mean_margin: Tensor, beta: float) -> Tensor:
    """DPO on length-averaged log-ratios, `sigmoid_norm` in TRL (Lambert et al. 2024, arXiv 2411.15124, eq. 6)."""
    return dpo(mean_margin, beta)


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
    """IPO on length-averaged log-probabilities, `ipo` in TRL."""
    return ipo(mean_margin, beta)


def slic(margin: Tensor, beta: float) -> Tensor:
    """max(0, 1 − βM): SLiC's hinge with the log-ratio margin (arXiv 2305.10425, as OAIF uses it)."""
    return torch.relu(1 - beta * margin)


def rev_kl(margin: Tensor, beta: float, reward_gap: Tensor, rmax: float) -> Tensor:
    """−p log σ(βM) − (1−p) log σ(−βM) with p = σ(rmax·(r_w − r_l)): DPO to soft labels (arXiv 2409.19605)."""
    p = torch.sigmoid(rmax * reward_gap)
    return p * dpo(margin, beta) + (1 - p) * dpo(-margin, beta)


def xpo(margin: Tensor, beta: float, logp_explored: Tensor, xpo_alpha: float) -> Tensor:
    """DPO + α·log π(y_ref), y_ref sampled from the reference: a bonus for exploration (arXiv 2405.21046)."""
    return dpo(margin, beta) + xpo_alpha * logp_explored


def simpo(mean_logp_margin: Tensor, beta: float, simpo_gamma: float) -> Tensor:
    """−log σ(β·(log π(y_w)/N_w − log π(y_l)/N_l) − γ), without a reference (SimPO, arXiv 2405.14734, eq. 6)."""
    return -F.logsigmoid(beta * mean_logp_margin - simpo_gamma)


def sppo(ratio_chosen: Tensor, ratio_rejected: Tensor, beta: float) -> Tensor:
    """(log-ratio_w − 1/(2β))² + (log-ratio_l + 1/(2β))² (arXiv 2405.00675, with hard labels and their 1/η as β)."""
    return (ratio_chosen - 1 / (2 * beta)) ** 2 + (ratio_rejected + 1 / (2 * beta)) ** 2


def apo_zero(ratio_chosen: Tensor, ratio_rejected: Tensor, beta: float) -> Tensor:
    """1 − σ(β·log-ratio_w) + σ(β·log-ratio_l): raises the chosen, lowers the rejected response (arXiv 2408.06266)."""
    return torch.sigmoid(-beta * ratio_chosen) + torch.sigmoid(beta * ratio_rejected)


def apo_down(ratio_chosen: Tensor, ratio_rejected: Tensor, beta: float) -> Tensor:
    """σ(β·log-ratio_w) + 1 − σ(βM): lowers both responses, the rejected one more (arXiv 2408.06266, eq. 8)."""
    return torch.sigmoid(beta * ratio_chosen) + torch.sigmoid(-beta * (ratio_chosen - ratio_rejected))


def exo(margin: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """KL from (σ(βM), σ(−βM)) to (1−ε, ε), the reverse of DPO's divergence (arXiv 2402.00856, eq. 16).

    Raises:
        SettingError: ε is 0, for which the divergence is infinite.
    """
    if label_smoothing == 0:
        raise SettingError("label_smoothing: exo needs a value above 0; the paper uses 0.001")
    chosen, rejected = F.logsigmoid(beta * margin), F.logsigmoid(-beta * margin)
    labels = math.log1p(-label_smoothing), math.log(label_smoothing)
    return chosen.exp() * (chosen - labels[0]) + rejected.exp() * (rejected - labels[1])


def nca(ratio_chosen: Tensor, ratio_rejected: Tensor, beta: float) -> Tensor:
    """−log σ(β·log-ratio_w) − ½ log σ(−β·log-ratio_w) − ½ log σ(−β·log-ratio_l): raises only the chosen response
    (arXiv 2402.05369, for pairs with hard labels)."""
    return dpo(ratio_chosen, beta) + 0.5 * dpo(-ratio_chosen, beta) + 0.5 * dpo(-ratio_rejected, beta)


def bco(ratio_chosen: Tensor, ratio_rejected: Tensor, beta: float) -> Tensor:
    """−log σ(β·log-ratio_w) − log σ(−β·log-ratio_l): chosen and rejected as two classes (arXiv 2404.04656).

    The paper also subtracts a running mean of both rewards; like TRL's `bco_pair`, this does not.
    """
    return dpo(ratio_chosen, beta) + dpo(-ratio_rejected, beta)


def discopop(margin: Tensor, beta: float, discopop_tau: float) -> Tensor:
    """(1−s)·(−log σ(βM)) + s·exp(−βM) with s = σ(βM/τ), found by a search over losses (arXiv 2406.08414, eq. 5)."""
    weight = torch.sigmoid(beta * margin / discopop_tau)
    return (1 - weight) * dpo(margin, beta) + weight * torch.exp(-beta * margin)


def aot(policy_gap: Tensor, matched_reference_gap: Tensor, beta: float) -> Tensor:
    """DPO on sorted gaps log π(y_w) − log π(y_l): the policy's k-th gap minus the reference's k-th gap in the batch
    (Melnyk et al. 2024, arXiv 2406.05882, paired, with the logistic loss)."""
    return dpo(policy_gap - matched_reference_gap, beta)


def aot_unpaired(
    ratio_chosen: Tensor,
    ratio_rejected: Tensor,
    matched_ratio_rejected: Tensor,
    matched_ratio_chosen: Tensor,
    beta: float,
) -> Tensor:
    """DPO on sorted log-ratios: the k-th of the chosen minus the k-th of the rejected responses in the batch
    (arXiv 2406.05882, unpaired, with the logistic loss).

    The value is the loss of the pair's chosen response and its match. The loss of the rejected response and its match
    is part of another pair's value, so here it contributes only its gradient.
    """
    of_rejected = dpo(matched_ratio_chosen - ratio_rejected, beta)
    return dpo(ratio_chosen - matched_ratio_rejected, beta) + of_rejected - of_rejected.detach()


def sft(logp_chosen: Tensor, batch_n_chosen: Tensor) -> Tensor:
    """−log π(y_w)/N, where N is the batch's mean N_w. The mean over the batch is the negative log-likelihood per chosen
    token; the mean of `nll` weights all responses equally instead."""
    return -logp_chosen / batch_n_chosen


def nll(mean_logp_chosen: Tensor) -> Tensor:
    """−log π(y_w)/N_w: the mean negative log-likelihood of the chosen response (arXiv 2404.19733, eq. 1)."""
    return -mean_logp_chosen


def wpo_weights(
    mean_logp_chosen: Tensor,
    mean_logp_rejected: Tensor,
    mean_collision_chosen: Tensor | float = 0.0,
    mean_collision_rejected: Tensor | float = 0.0,
) -> Tensor:
    """π(y_w)^(1/N_w) · π(y_l)^(1/N_l): the weight of a pair in WPO, without a gradient (arXiv 2406.11827, eq. 2).

    Args:
        mean_logp_chosen (Tensor): [pairs], log-probability per token of the chosen response, nats.
        mean_logp_rejected (Tensor): [pairs], the same for the rejected response.
        mean_collision_chosen (Tensor): [pairs], mean of log Σ_v π_v² over the chosen response's tokens. In the paper's
            sampled alignment, each token's probability is divided by Σ_v π_v². 0 for no alignment.
        mean_collision_rejected (Tensor): [pairs], the same for the rejected response.

    Returns:
        Tensor: [pairs].
    """
    chosen, rejected = mean_logp_chosen - mean_collision_chosen, mean_logp_rejected - mean_collision_rejected
    return chosen.detach().exp() * rejected.detach().exp()


LOSSES: dict[str, Loss] = {
    "dpo": dpo,
    "dpo_mean": dpo_mean,
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
    "apo_down": apo_down,
    "exo": exo,
    "nca": nca,
    "bco": bco,
    "discopop": discopop,
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "sft": sft,
    "nll": nll,
}


OF_BATCH = ("aot", "aot_unpaired", "sft")  # losses with parameters in BATCH_TERMS

LossChoice = dict[str, float] | str
"""A key of LOSSES or a function of the user, or the weights of several of them in a sum."""


def loss_parameters(loss: LossChoice) -> set[str]:
    """Names of the terms and options that a loss needs, and `beta`; SettingError if the loss does not exist."""
    return {name for word in chosen_words(loss) for name in inspect.signature(lookup(LOSSES, word, "loss")).parameters}


def compute_losses(loss: LossChoice, terms: dict[str, Tensor], beta: float, options: LossOptions) -> Tensor:
    """The loss of each pair, [pairs].

    Args:
        loss (LossChoice): One loss, or the weights of a sum of losses.
        terms (dict[str, Tensor]): The result of `loss_terms` and, for losses in OF_BATCH, of
            `batch_terms.compute_batch_terms`, each [pairs].
        beta: β, per nat.
        options: Constants of losses.

    Raises:
        SettingError: The loss does not exist, or a term is missing, such as `logp_explored` without an explored
            response.
    """
    if isinstance(loss, dict):
        return torch.stack([w * compute_losses(word, terms, beta, options) for word, w in loss.items()]).sum(dim=0)
    values = terms | {field.name: getattr(options, field.name) for field in dataclasses.fields(LossOptions)}
    values["beta"] = beta
    parameters = loss_parameters(loss)
    if missing := sorted(parameters - values.keys()):
        raise SettingError(f"loss: {loss} needs {', '.join(missing)}, available are {', '.join(sorted(values))}")
    return lookup(LOSSES, loss, "loss")(**{name: values[name] for name in parameters})
