"""Terms of losses that depend on all pairs of an optimizer step, regardless of the division into micro-batches.

The parameters of a batch term are the names of terms (`losses.loss_terms`). It receives their values for the whole
batch. Gradients do not flow through batch terms: a loss gets gradients only from its own pair.
"""

import inspect
from collections.abc import Callable

from torch import Tensor

from prefloop.core.registry import lookup


def match_ranks(values: Tensor, others: Tensor) -> Tensor:
    """The element of `others` [pairs] with the same rank, for each element of `values` [pairs]; [pairs]."""
    matched = others.new_empty(len(others))
    matched[values.argsort(stable=True)] = others.sort().values
    return matched


def matched_reference_gap(policy_gap: Tensor, reference_gap: Tensor) -> Tensor:
    """For each pair, the gap under the reference with the rank of its gap under the policy; [pairs], nats."""
    return match_ranks(policy_gap, reference_gap)


def matched_ratio_rejected(ratio_chosen: Tensor, ratio_rejected: Tensor) -> Tensor:
    """For each pair, the rejected log-ratio with the rank of its chosen log-ratio; [pairs], nats."""
    return match_ranks(ratio_chosen, ratio_rejected)


def matched_ratio_chosen(ratio_chosen: Tensor, ratio_rejected: Tensor) -> Tensor:
    """For each pair, the chosen log-ratio with the rank of its rejected log-ratio; [pairs], nats."""
    return match_ranks(ratio_rejected, ratio_chosen)


def batch_n_chosen(n_chosen: Tensor) -> Tensor:
    """The mean number of tokens of the batch's chosen responses, repeated for each pair; [pairs]."""
    return n_chosen.mean().expand(len(n_chosen))


BATCH_TERMS: dict[str, Callable[..., Tensor]] = {
    "matched_reference_gap": matched_reference_gap,
    "matched_ratio_rejected": matched_ratio_rejected,
    "matched_ratio_chosen": matched_ratio_chosen,
    "batch_n_chosen": batch_n_chosen,
}


def terms_read(name: str) -> set[str]:
    """Names of the terms that a batch term reads."""
    return set(inspect.signature(lookup(BATCH_TERMS, name, "term")).parameters)


def compute_batch_terms(parameters: set[str], terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Compute the batch terms among the parameters of a loss, each [pairs].

    Args:
        parameters: Names of the loss's parameters (`losses.loss_parameters`).
        terms (dict[str, Tensor]): Terms of all pairs of the batch, each [pairs].
    """
    names = [name for name in BATCH_TERMS if name in parameters]
    return {name: BATCH_TERMS[name](**{read: terms[read].detach() for read in terms_read(name)}) for name in names}
