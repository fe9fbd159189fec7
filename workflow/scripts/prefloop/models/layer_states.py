"""Features of responses: the states of a layer of the initial policy, averaged over each response's tokens."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prefloop.core.errors import InputError
from prefloop.models._compat import model_layers
from prefloop.models.batching import send_lists
from prefloop.models.loading import PolicyAndReference, reference_for
from prefloop.models.response_logprobs import (
    Scorer,
    Tokens,
    logprobs_and_prefixes,
    pack_all,
    prepare_scorer,
    read,
    response_logprobs,
)


class FeatureReader:
    """Reads features of responses, without a pass of its own if the reference is the initial policy."""

    def __init__(
        self, models: PolicyAndReference, files: tuple[Path, Path, Path], dtype: torch.dtype, layer: int | None
    ) -> None:
        """Prepare the initial policy for reading.

        Args:
            models (PolicyAndReference): Policy and reference.
            files (tuple[Path, Path, Path]): The initial policy's manifest, the policy and the reference.
            dtype (torch.dtype): The dtype of all weights.
            layer (int | None): The layer, counted from 1; None for the middle one.

        Raises:
            InputError: The model's layers are not known, or there is no such layer.
        """
        initial, policy, reference = files
        self.scorer, self.context = models.reference, models.as_reference
        self.passes = int(reference != initial)
        """Forward passes in addition to those for log-probabilities."""
        if self.passes:
            device = str(next(models.policy.model.parameters()).device)
            model, self.context = reference_for(models.policy.model, policy, initial, initial, dtype, device)
            self.scorer = models.policy if model is models.policy.model else prepare_scorer(model)
        self.states = torch.empty(0)
        layer_of(self.scorer.model, layer, initial).register_forward_hook(self.keep)

    def keep(self, layer: nn.Module, inputs: Any, outputs: Any) -> None:
        """Store the layer's output of the last forward pass."""
        self.states = outputs[0] if isinstance(outputs, tuple) else outputs

    def features(self, prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> Tensor:
        """Features [responses, hidden], float32, of responses that policy and reference have just read."""
        if self.passes:
            with torch.no_grad(), self.context():
                # The head returns its input, because logits are not needed.
                read(self.scorer, prompts, responses, lambda head, states: states)
        return mean_states(self.scorer, self.states, prompts, responses)


class Reading(NamedTuple):
    """The log-probabilities and features of a response."""

    logp: float
    """Log-probability under the policy, in nats."""
    logp_ref: float
    """The same under the reference."""
    features: NDArray[np.float32] | None
    """[features]; None without a reader of features."""
    prefixes: dict[str, float] | None = None
    """Log-probabilities of prefixes under the reference, by number of tokens; None if they were not requested."""

    def row(self, response: dict) -> dict[str, Any]:
        """The row of logprobs.jsonl for a row of generations.jsonl."""
        row = {name: response[name] for name in ("prompt_id", "cluster", "response_id")}
        row |= {"n_tokens": len(response["token_ids"]), "logp": self.logp, "logp_ref": self.logp_ref}
        return row if self.prefixes is None else row | {"logp_ref_prefixes": self.prefixes}


def read_responses(
    models: PolicyAndReference,
    reader: FeatureReader | None,
    prompts: Sequence[Tokens],
    responses: Sequence[Tokens],
    policy: Path,
    with_prefixes: bool = False,
) -> list[Reading]:
    """Log-probabilities of responses under policy and reference and, with a reader, their features.

    Args:
        models (PolicyAndReference): Policy and reference.
        reader (FeatureReader | None): Made for these models.
        prompts (Sequence[Tokens]): [responses], token ids.
        responses (Sequence[Tokens]): [responses], token ids.
        policy (Path): The policy's file, for error messages.
        with_prefixes (bool): Also read log-probabilities of prefixes under the reference: for each response, its
            prefixes with the lengths of the shorter responses to the prompt.

    Raises:
        InputError: A log-probability is not finite.
    """
    texts: dict[str, Any] = {"prompts": prompts, "responses": responses}
    lengths = shorter_lengths(prompts, responses) if with_prefixes else None
    if lengths is None:
        logps, logps_ref = models.read(partial(response_logprobs, **texts))
    else:
        logps, logps_ref = models.read(partial(logprobs_and_prefixes, lengths=lengths, **texts))
    if not (logps.isfinite().all() and logps_ref.isfinite().all()):
        raise InputError(f"{policy}: a response has no finite log-probability; the policy has diverged")
    features = reader.features(prompts, responses).cpu().numpy() if reader else [None] * len(responses)
    count, rest = len(responses), iter(logps_ref[len(responses) :].tolist())
    prefixes = [None] * count if lengths is None else [{str(length): next(rest) for length in own} for own in lengths]
    return list(map(Reading, logps[:count].tolist(), logps_ref[:count].tolist(), features, prefixes))


def shorter_lengths(prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> list[list[int]]:
    """For each response, the lengths in tokens of shorter responses to its prompt; equal prompts are one object."""
    lengths: dict[int, set[int]] = {}
    for prompt, response in zip(prompts, responses, strict=True):
        lengths.setdefault(id(prompt), set()).add(len(response))
    return [
        sorted(length for length in lengths[id(prompt)] if length < len(response))
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def layer_of(model: nn.Module, number: int | None, name: Path) -> nn.Module:
    """A transformer block of a model, counted from 1; the middle one if the number is None."""
    layers, config = model_layers(model), cast(Any, model.config)
    count = config.get_text_config().num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    # A model that also reads images has the layers of its vision tower first.
    layers = next((list(found) for found in reversed(lists) if set(found) <= set(layers)), layers)
    if not layers:
        raise InputError(f"{name}: the layers of this model are not known, so it has no features; use rule all")
    if number is not None and number > len(layers):
        raise InputError(f"{name}: no layer {number}; the model has {len(layers)} layers, so lower the number")
    return layers[(number or max(1, len(layers) // 2)) - 1]


def mean_states(scorer: Scorer, states: Tensor, prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> Tensor:
    """The mean state over the tokens of each response.

    The last token of a response is not counted: it predicts nothing, so it is not read. For a response of one token,
    the state that predicts it is used.

    Args:
        scorer (Scorer): The scorer that has read the responses.
        states (Tensor): [rows, tokens, hidden], states of all tokens that it has read.
        prompts (Sequence[Tokens]): [responses], token ids.
        responses (Sequence[Tokens]): [responses], token ids.

    Returns:
        Tensor: [responses, hidden], float32.
    """
    _, predicting = pack_all(scorer, prompts, responses)
    tokens = [indices[1:] or indices for indices in predicting]
    flat, (indices,) = states.flatten(0, 1), send_lists([[i for part in tokens for i in part]], states.device)
    parts = flat[indices].float().split([len(part) for part in tokens])
    return torch.stack([part.mean(dim=0) for part in parts])
