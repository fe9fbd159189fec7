"""How probable the policy finds a response: each prompt read once for all its responses, the head at their tokens."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prefloop.attention import reads_packed
from prefloop.batching import right_pad
from prefloop.heads import head_logps, is_plain, logit_logps, output_head, replaced

LONGEST = 2048  # tokens of a sequence up to which another response may be put behind its prompt


class Packed(NamedTuple):
    """Prompts with their responses, several of them behind one prompt: sequences end to end, without padding."""

    ids: Tensor
    """Token ids [tokens]."""
    positions: Tensor
    """Each token's place in the conversation [tokens]: every response goes on where its prompt ends."""
    cells: Tensor
    """Each token's place in `owners`, flattened [tokens]."""
    owners: Tensor
    """Sequences in rows, padded on the right [rows, width]: 0 the prompt's tokens, 1, 2, … its responses', −1 none."""
    states: Tensor
    """For each response token, response by response, the token that predicts it: [scored]."""
    targets: Tensor
    """The response tokens themselves [scored]."""


def response_logps(model, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Summed log-probabilities of responses given their prompts, in nats; float32, shape [responses].

    logp(y) = Σ_t log π(y_t | x, y_<t) over every response token, EOS included; prompt and padding do not
    count. `prompts` are one a response; equal ones are read once, where `reads_packed` says that the model can.
    Gradients flow unless the caller forbids them.
    """
    packed = pack(prompts, responses, rows_of(model, prompts, responses))
    if is_plain(model):
        head = output_head(model)
        found = read(model, packed, lambda _, states, tokens: head_logps(head, states, tokens)[:, None], pad)[:, 0]
    else:
        logits = read(model, packed, lambda own, states, _: own(states), pad)
        found = logit_logps(logits, packed.targets.to(logits.device))
    return torch.stack([part.sum() for part in found.split(list(map(len, responses)))])


def response_logits(model, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int) -> Tensor:
    """The logits that predict response tokens, and no others: [tokens, vocabulary], one response after the other."""
    packed = pack(prompts, responses, rows_of(model, prompts, responses))
    return read(model, packed, lambda own, states, _: own(states), pad)


def read(model, packed: Packed, compute: Callable[[Callable, Tensor, Tensor], Tensor], pad: int) -> Tensor:
    """One forward pass: compute(head, states [scored, hidden], targets [scored]) at the tokens that predict targets."""
    device = next(model.parameters()).device
    packed = Packed(*(tensor.to(device) for tensor in packed))
    if reads_packed(model):
        inputs = {"input_ids": packed.ids[None], "position_ids": packed.positions[None], "cells": packed.cells}
        inputs["attention_mask"], places = attention_of(packed.owners), packed.states
    else:  # causal attention shows padding on the right to none, so that no mask is needed
        ids = torch.full_like(packed.owners, pad)
        inputs, places = {"input_ids": ids}, packed.cells[packed.states]
        ids.view(-1)[packed.cells] = packed.ids

    def at_places(own: Callable, states: Tensor) -> Tensor:
        return compute(own, states.flatten(0, 1)[places], packed.targets)[None]

    with replaced(output_head(model), at_places):
        return model(**inputs, use_cache=False).logits[0]


def attention_of(owners: Tensor) -> Tensor:
    """What each token sees: its prompt and what is before it of its own response; bool [rows, 1, width, width]."""
    own = owners[:, :, None] == owners[:, None, :]
    return ((own | (owners[:, None, :] == 0)).tril())[:, None]


def pack(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], rows: Sequence[Sequence[int]]) -> Packed:
    """Put the responses `rows[r]`, which share a prompt, into sequence r. A response's last token predicts nothing
    and is left out."""
    ids, positions, owners, states = [], [], [], {}
    for members in rows:
        prompt, start = prompts[members[0]], len(ids)
        ids += prompt
        positions += range(len(prompt))
        owners.append([0] * len(prompt))
        for number, i in enumerate(members, start=1):
            body = responses[i][:-1]
            states[i] = [start + len(prompt) - 1, *range(len(ids), len(ids) + len(body))]
            ids += body
            positions += range(len(prompt), len(prompt) + len(body))
            owners[-1] += [number] * len(body)
    padded = right_pad(owners, -1)[0]
    return Packed(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        cells=(padded.flatten() >= 0).nonzero()[:, 0],
        owners=padded,
        states=torch.tensor([place for i in range(len(responses)) for place in states[i]]),
        targets=torch.tensor([token for response in responses for token in response]),
    )


def rows_of(model, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[list[int]]:
    """Which responses, by number, stand in one sequence behind their prompt.

    Attention's operations grow with the square of a sequence, what is saved with the prompt: n responses of R tokens
    behind one of P cost about n²R²·4h a layer more and (n − 1)·P·24h² less (h the hidden size), so that n up to
    6hP/R² pays.
    """
    if not reads_packed(model):
        return [[i] for i in range(len(responses))]
    same: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        same.setdefault(tuple(prompt), []).append(i)
    hidden, rows = getattr(model, "module", model).config.get_text_config().hidden_size, []
    for prompt, members in same.items():
        longest = max(len(responses[i]) for i in members)
        most = min(6 * hidden * len(prompt) // longest**2, (LONGEST - len(prompt)) // longest)
        most = max(1, most)
        rows += [members[start : start + most] for start in range(0, len(members), most)]
    return rows


def tokens_read(model, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> int:
    """Tokens that pass through the model when `response_logps` reads these."""
    rows = rows_of(model, prompts, responses)
    return sum(len(prompts[row[0]]) + sum(len(responses[i]) - 1 for i in row) for row in rows)
