"""Log-probabilities of responses. Each prompt is read once for all its responses.

The head is computed only where it predicts response tokens.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from prefloop.models._compat import output_head, patched_forward, probing, text_config
from prefloop.models.batching import right_pad, send, send_lists
from prefloop.models.chunked_head import head_logprobs, logit_collisions, logit_logprobs
from prefloop.models.packed_attention import MaskedSequence, packed_inputs, use_packed_attention
from prefloop.models.varlen_attention import VarlenLayout, plan_segments

MAX_SEQUENCE = 2048  # maximum tokens of a sequence with several responses
Tokens = Sequence[int]


@dataclass(frozen=True)
class Scorer:
    """A causal language model that was prepared for reading log-probabilities; made by `prepare_scorer`."""

    model: nn.Module
    """The model as it is called, adapters and wrappers included."""
    packed: bool
    """Whether several responses can follow their prompt in one sequence."""
    varlen: bool
    """Whether one variable-length kernel attends within all sequences; otherwise they are computed one by one."""
    chunked_head: bool
    """Whether the logits are the output of a linear head, so that they can be computed in chunks."""


class PackedSequence(NamedTuple):
    """A prompt and responses to it as one sequence, without each response's last token, which predicts nothing."""

    ids: list[int]
    """Token ids."""
    positions: list[int]
    """Position of each token: every response continues where the prompt ends."""
    segment_ids: list[int]
    """0 for the prompt's tokens, 1, 2, ... for those of its responses."""
    predicting: list[list[int]]
    """For each response, the indices of the tokens that predict its own: the prompt's last token comes first."""


def prepare_scorer(model: nn.Module) -> Scorer:
    """Prepare a model for `response_logprobs` and the other readers; call this once, after loading the model.

    The model is changed to use `packed_attention`, if it supports it. It is run twice on one or two tokens, without
    gradients; the global RNG state is restored. Every process of a sharded model has to call this.
    """
    return Scorer(model, *use_packed_attention(model), returns_head_output(model))


def returns_head_output(model: nn.Module) -> bool:
    """Run a model to see whether its logits are the output of its linear head, neither capped nor scaled.

    The head is patched to return known numbers, which must pass through the model unchanged.
    """
    head = output_head(model)
    if type(head) is not nn.Linear:
        return False
    known = torch.tensor([-96.0, 0.5, 96.0], device=head.weight.device)  # exact in every dtype
    token = torch.zeros((1, 1), dtype=torch.long, device=head.weight.device)
    with probing(model), patched_forward(head, lambda _, states: known.to(states.dtype)[None, None]):
        return torch.equal(model(input_ids=token, use_cache=False).logits[0, 0].float(), known)


def response_logprobs(scorer: Scorer, prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> Tensor:
    """Summed log-probabilities of responses given their prompts: log π(y|x) = Σ_t log π(y_t | x, y_<t).

    Every response token counts, EOS included; prompt and padding do not. Gradients flow unless the caller disables
    them.

    Args:
        scorer (Scorer): From `prepare_scorer`.
        prompts (Sequence[Tokens]): [responses], token ids. A prompt that occurs several times is read once, if the
            scorer is packed.
        responses (Sequence[Tokens]): [responses], token ids.

    Returns:
        Tensor: [responses], nats, float32.
    """
    return sums_of(token_columns(scorer, prompts, responses)[:, 0], responses)


def discounted_logprobs(
    scorer: Scorer, prompts: Sequence[Tokens], responses: Sequence[Tokens], lengths: Sequence[int], factor: float
) -> Tensor:
    """As `response_logprobs`, but tokens after the first `lengths[i]` of response i have the weight `factor`."""
    values = token_columns(scorer, prompts, responses)[:, 0]
    weights = [
        1.0 if position < length else factor
        for response, length in zip(responses, lengths, strict=True)
        for position in range(len(response))
    ]
    return sums_of(values * send(torch.tensor(weights), values.device), responses)


def logprobs_and_prefixes(
    scorer: Scorer, prompts: Sequence[Tokens], responses: Sequence[Tokens], lengths: Sequence[Sequence[int]]
) -> Tensor:
    """As `response_logprobs`, followed by log-probabilities of prefixes.

    `lengths[i]` has the lengths of the prefixes of response i. The result is [responses + numbers in lengths], nats.
    """
    values = token_columns(scorer, prompts, responses)[:, 0]
    parts = values.split(list(map(len, responses)))
    prefixes = [part[:length].sum() for part, own in zip(parts, lengths, strict=True) for length in own]
    return torch.stack([part.sum() for part in parts] + prefixes)


def logprobs_and_collisions(
    scorer: Scorer, prompts: Sequence[Tokens], responses: Sequence[Tokens]
) -> tuple[Tensor, Tensor]:
    """As `response_logprobs`, and Σ_t log Σ_v π(v | x, y_<t)² without a gradient; each [responses].

    Σ_v π_v² is the probability that two tokens sampled at one position are equal. It is also the expected probability
    of a sampled token.
    """
    columns = token_columns(scorer, prompts, responses, with_collisions=True)
    return sums_of(columns[:, 0], responses), sums_of(columns[:, 1].detach(), responses)


def sums_of(values: Tensor, responses: Sequence[Tokens]) -> Tensor:
    """The sum over each response of `values` [tokens of all responses]."""
    return torch.stack([part.sum() for part in values.split(list(map(len, responses)))])


def token_columns(
    scorer: Scorer, prompts: Sequence[Tokens], responses: Sequence[Tokens], with_collisions: bool = False
) -> Tensor:
    """log π of each response token and, on request, log Σ_v π_v² at its position: [tokens, 1 or 2], float32."""
    head = output_head(scorer.model)
    (tokens,) = send_lists([[token for response in responses for token in response]], head.weight.device)
    if not scorer.chunked_head:
        logits = response_logits(scorer, prompts, responses)
        columns = [logit_logprobs(logits, tokens)] + ([logit_collisions(logits)] if with_collisions else [])
        return torch.stack(columns, dim=1)

    def compute(_: Callable, states: Tensor) -> Tensor:
        collisions = torch.empty(len(tokens), device=states.device) if with_collisions else None
        logps = head_logprobs(head, states[0], tokens, collisions)
        # Stacked, because FSDP2 cannot follow views of a model's output.
        return torch.stack([logps[:, None] if collisions is None else torch.stack([logps, collisions], dim=1)])

    return read(scorer, prompts, responses, compute)


def response_logits(scorer: Scorer, prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> Tensor:
    """The logits that predict response tokens, one response after the other: [tokens, vocabulary]."""
    return read(scorer, prompts, responses, lambda head, states: head(states))


def read(
    scorer: Scorer,
    prompts: Sequence[Tokens],
    responses: Sequence[Tokens],
    compute: Callable[[Callable, Tensor], Tensor],
) -> Tensor:
    """One forward pass with the head replaced.

    Args:
        scorer (Scorer): From `prepare_scorer`.
        prompts (Sequence[Tokens]): [responses], token ids.
        responses (Sequence[Tokens]): [responses], token ids.
        compute (Callable): Called with the head and the states [1, tokens, hidden] that predict response tokens;
            returns [1, tokens, ...].

    Returns:
        Tensor: [tokens, ...], what `compute` returns.
    """
    packed, predicting = pack_all(scorer, prompts, responses)
    indices = [index for indices in predicting for index in indices]
    inputs, selected = model_inputs(scorer, packed, indices, next(scorer.model.parameters()).device)
    head = output_head(scorer.model)
    with patched_forward(head, lambda own, states: compute(own, states.flatten(0, 1)[selected][None])):
        return scorer.model(**inputs).logits[0]


def pack_all(
    scorer: Scorer, prompts: Sequence[Tokens], responses: Sequence[Tokens]
) -> tuple[list[PackedSequence], list[list[int]]]:
    """Arrange responses in the sequences that a model reads.

    Returns:
        tuple: The sequences, and for each response the indices of the tokens that predict it, among all tokens that
            the model reads; the prompt's last token comes first.
    """
    plan = plan_packing(scorer, prompts, responses)
    packed = [pack_responses(prompts[group[0]], [responses[i] for i in group]) for group in plan]
    lengths = [len(sequence.ids) for sequence in packed]
    # Index of each sequence's first token among all tokens that the model reads.
    starts = itertools.accumulate(lengths if scorer.packed else [max(lengths)] * len(packed), initial=0)
    predicting: dict[int, list[int]] = {}
    for group, sequence, start in zip(plan, packed, starts, strict=False):
        for i, indices in zip(group, sequence.predicting, strict=True):
            predicting[i] = [start + index for index in indices]
    return packed, [predicting[i] for i in range(len(responses))]


def model_inputs(
    scorer: Scorer, packed: Sequence[PackedSequence], indices: list[int], device: torch.device
) -> tuple[dict[str, Any], Tensor]:
    """Keyword arguments for a model to read sequences, and the indices, all copied to the device in one transfer."""
    if not scorer.packed:  # one response per row: under causal attention padding on the right changes nothing
        rows = right_pad([sequence.ids for sequence in packed], pad=0)[0]
        return {"input_ids": send(rows, device), "use_cache": False}, send_lists([indices], device)[0]
    ids = [token for sequence in packed for token in sequence.ids]
    positions = [position for sequence in packed for position in sequence.positions]
    layout: VarlenLayout | list[MaskedSequence]
    if scorer.varlen:
        # For each sequence: the length of its prompt, then that of each response without its last token.
        plan = plan_segments([(s.predicting[0][0] + 1, *(len(p) - 1 for p in s.predicting)) for s in packed])
        lists = send_lists([indices, ids, positions, *plan], device)
        longest = (max(np.diff(starts).tolist()) for starts in plan[1:])
        layout = VarlenLayout(lists[3], lists[4].int(), lists[5].int(), *longest)
    else:
        lists = send_lists([indices, ids, positions, *(s.segment_ids for s in packed)], device)
        masks = (attention_mask(s.segment_ids, on_device) for s, on_device in zip(packed, lists[3:], strict=True))
        layout = [MaskedSequence(len(s.ids), mask) for s, mask in zip(packed, masks, strict=True)]
    return packed_inputs(lists[1], lists[2], layout), lists[0]


def pack_responses(prompt: Tokens, responses: Sequence[Tokens]) -> PackedSequence:
    """Concatenate a prompt and responses to it."""
    packed = PackedSequence(list(prompt), list(range(len(prompt))), [0] * len(prompt), [])
    for number, response in enumerate(responses, start=1):
        start, length = len(packed.ids), len(response) - 1
        packed.ids.extend(response[:-1])
        packed.positions.extend(range(len(prompt), len(prompt) + length))
        packed.segment_ids.extend([number] * length)
        packed.predicting.append([len(prompt) - 1, *range(start, start + length)])
    return packed


def attention_mask(segment_ids: list[int], ids: Tensor) -> Tensor | None:
    """What each token of a sequence attends to: the prompt, and the tokens before it in its own response.

    Args:
        segment_ids (list[int]): [length].
        ids (Tensor): The same on the model's device.

    Returns:
        Tensor | None: bool [1, 1, length, length]; None for at most one response, where attention is causal.
    """
    if max(segment_ids) < 2:
        return None
    return ((ids[:, None] == ids) | (ids == 0)).tril()[None, None]


def plan_packing(scorer: Scorer, prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> list[list[int]]:
    """Decide which responses follow their prompt in one sequence.

    The operations of attention grow with the square of a sequence's length. Those that sharing saves grow with the
    prompt's length. With hidden size h, n responses of R tokens behind a prompt of P tokens cost about n²R²·4h more
    operations per layer and (n − 1)·P·24h² fewer. So sharing pays for up to n = 6hP/R² responses. Variable-length
    attention does not compute masked scores, so all responses share their prompt.

    Returns:
        list[list[int]]: Indices of the responses of each sequence.
    """
    if not scorer.packed:
        return [[i] for i in range(len(responses))]
    same_prompt: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        same_prompt.setdefault(tuple(prompt), []).append(i)
    hidden, plan = text_config(scorer.model).hidden_size, []
    if scorer.varlen:
        return list(same_prompt.values())
    for prompt, members in same_prompt.items():
        longest = max(len(responses[i]) for i in members)
        most = max(1, min(6 * hidden * len(prompt) // longest**2, (MAX_SEQUENCE - len(prompt)) // longest))
        plan += [members[start : start + most] for start in range(0, len(members), most)]
    return plan


def tokens_read(scorer: Scorer, prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> int:
    """The number of tokens that pass through the model when `response_logprobs` reads these responses."""
    plan = plan_packing(scorer, prompts, responses)
    return sum(len(prompts[group[0]]) + sum(len(responses[i]) - 1 for i in group) for group in plan)
