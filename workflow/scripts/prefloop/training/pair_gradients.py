"""Gradient norms of single preference pairs, which the selection metrics approximate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefloop.core.errors import InputError
from prefloop.core.ranks import spearman
from prefloop.data.pairs import Pair
from prefloop.methods.losses import dpo, log_ratio_margin
from prefloop.models.positions import check_vocabulary
from prefloop.models.response_logprobs import Scorer, response_logprobs, tokens_read


class PairGradient(NamedTuple):
    """The norm of a pair's DPO gradient over all trained parameters, and the terms of which it consists."""

    logp_chosen: float
    """Log-probability of the chosen response under the policy, in nats."""
    logp_rejected: float
    margin: float
    """The log-ratio margin M, in nats."""
    grad_norm: float
    """2-norm of the gradient of −log σ(βM): β·σ(−βM)·unweighted_norm."""
    unweighted_norm: float
    """2-norm of the gradient of M, which is that of log π(y_w) − log π(y_l)."""


def pair_gradient(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    logp_ref_chosen: float,
    logp_ref_rejected: float,
    beta: float,
    parameters: Sequence[Tensor],
) -> PairGradient:
    """The DPO gradient of one pair (Rafailov et al. 2023, arXiv 2305.18290, the gradient of eq. 7).

    The gradient of M is computed and then scaled by the loss's derivative at M. So both norms need only one backward
    pass, and the unweighted norm is accurate even if the weight is close to 0. No `.grad` is changed.

    Args:
        logp_chosen (Tensor): [], nats, with its graph.
        logp_rejected (Tensor): [], nats, with its graph.
        logp_ref_chosen (float): Nats.
        logp_ref_rejected (float): Nats.
        beta (float): Per nat.
        parameters (Sequence[Tensor]): The parameters of the gradient.
    """
    # Reference values are Python floats, so that their difference is not rounded to float32 first.
    margin = log_ratio_margin(logp_chosen, logp_rejected, logp_ref_chosen, logp_ref_rejected)  # type: ignore[arg-type]
    unweighted = two_norm(torch.autograd.grad(margin, parameters))
    leaf = margin.detach().requires_grad_()
    (derivative,) = torch.autograd.grad(dpo(leaf, beta), leaf)
    return PairGradient(
        logp_chosen.item(), logp_rejected.item(), margin.item(), abs(derivative.item()) * unweighted, unweighted
    )


def check_pair_tokens(model: Path, pair: Pair, path: Path) -> None:
    """Check that a pair's token ids are in a model's vocabulary.

    Args:
        model (Path): Manifest of the model.
        pair (Pair): A pair with token ids.
        path (Path): The file that has the pair.

    Raises:
        InputError: A token id is outside the model's vocabulary.
    """
    sides = [side | {"prompt_id": pair.prompt["prompt_id"]} for side in (pair.chosen, pair.rejected)]
    check_vocabulary(model, sides, ["token_ids"], path)


def two_norm(tensors: Sequence[Tensor]) -> float:
    """The 2-norm of all tensors as one vector."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t.float()) for t in tensors])).item()


def measure_pair(
    pair: Pair,
    prompt: list[int],
    scorer: Scorer,
    beta: float,
) -> tuple[PairGradient, int]:
    """The gradient of a pair under a policy, and the number of tokens read.

    Args:
        pair (Pair): A pair with token ids and the reference's log-probabilities.
        prompt (list[int]): Token ids of its prompt.
        scorer (Scorer): The policy; the gradient is that of all parameters that require one.
        beta (float): β of the DPO loss, per nat.

    Raises:
        InputError: The gradient is not finite.
    """
    prompts = [prompt] * 2
    responses = [pair.chosen["token_ids"], pair.rejected["token_ids"]]
    parameters = [parameter for parameter in scorer.model.parameters() if parameter.requires_grad]
    logps = response_logprobs(scorer, prompts, responses)
    logps_ref = pair.chosen["logp_ref"], pair.rejected["logp_ref"]
    gradient = pair_gradient(logps[0], logps[1], *logps_ref, beta, parameters)
    if not np.isfinite(gradient).all():
        raise InputError(f"prompt {pair.prompt['prompt_id']}: the gradient is not finite; the policy has diverged")
    return gradient, tokens_read(scorer, prompts, responses)


def gradient_row(pair: Pair, gradient: PairGradient, metrics: dict[str, float]) -> dict[str, Any]:
    """A row of gradients.jsonl; `chosen` and `rejected` are response ids."""
    return {
        "prompt_id": pair.prompt["prompt_id"],
        "chosen": pair.chosen["response_id"],
        "rejected": pair.rejected["response_id"],
        "n_chosen": pair.chosen["n_tokens"],
        "n_rejected": pair.rejected["n_tokens"],
        **metrics,
        "margin": gradient.margin,
        "grad_norm": gradient.grad_norm,
        "unweighted_norm": gradient.unweighted_norm,
    }


def draw_indices(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` of `total` indices, or all if there are fewer: uniform, without replacement, ascending.

    A larger draw with the same random numbers contains the smaller one.
    """
    return np.sort(rng.permutation(total)[:count])


def describe_gradients(measured: list[tuple[Pair, PairGradient]], pfp: np.ndarray) -> str:
    """The mean norm, its rank correlation with PFP, and the largest difference from the files' log-probabilities."""
    norms = np.array([gradient.grad_norm for _, gradient in measured])
    in_files = np.array([[pair.chosen["logp"], pair.rejected["logp"]] for pair, _ in measured])
    difference = np.abs(np.array([gradient[:2] for _, gradient in measured]) - in_files).max()
    agreement = f"log-probabilities within {difference:.2g} nats of the files'"
    return f"mean norm {norms.mean():.4g}, Spearman's ρ with pfp {spearman(pfp, norms):.2f}, {agreement}"
