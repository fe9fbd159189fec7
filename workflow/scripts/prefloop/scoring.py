"""How probable the policy finds a response: each prompt read once for all its responses, the head at their tokens."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prefloop.attention import packed_inputs, reads_packed
from prefloop.batching import right_pad
from prefloop.heads import head_logps, is_plain, logit_logps, output_head, replaced

LONGEST = 2048  # tokens of a sequence up to which another response may be put behind its prompt


class Shared(NamedTuple):
    """A prompt and responses to it as one sequence of tokens, without each response's last, which predicts none."""

    ids: list[int]
    """Token ids."""
    positions: list[int]
    """Each token's place in the conversation: every response goes on where the prompt ends."""
    owners: list[int]
    """0 for the prompt's tokens, 1, 2, … for its responses'."""
    predicting: list[list[int]]
    """For each response the tokens that predict its own: the prompt's last one, and all of it that are here."""


def response_logps(model, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Summed log-probabilities of responses given their prompts, in nats; float32, shape [responses].

    logp(y) = Σ_t log π(y_t | x, y_<t) over every response token, EOS included; prompt and padding do not
    count. `prompts` are one a response; equal ones are read once, where `reads_packed` says that the model can.
    Gradients flow unless the caller forbids them.
    """
    head = output_head(model)
    tokens = torch.tensor([token for response in responses for token in response], device=head.weight.device)
    if is_plain(model):
        found = read(model, prompts, responses, pad, lambda _, states: head_logps(head, states, tokens)[:, None])[:, 0]
    else:
        found = logit_logps(response_logits(model, prompts, responses, pad), tokens)
    return torch.stack([part.sum() for part in found.split(list(map(len, responses)))])


def response_logits(model, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int) -> Tensor:
    """The logits that predict response tokens, and no others: [tokens, vocabulary], one response after the other."""
    return read(model, prompts, responses, pad, lambda own, states: own(states))


def read(
    model,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad: int,
    compute: Callable[[Callable, Tensor], Tensor],
) -> Tensor:
    """One forward pass: compute(head, states [scored, hidden]) at the tokens that predict those of the responses."""
    device, rows = next(model.parameters()).device, rows_of(model, prompts, responses)
    shared = [share(prompts[row[0]], [responses[i] for i in row]) for row in rows]
    if reads_packed(model):
        starts = list(itertools.accumulate((len(one.ids) for one in shared), initial=0))[:-1]
        ids = [token for one in shared for token in one.ids]
        positions = [place for one in shared for place in one.positions]
        sequences = [(len(one.ids), attention_of(one.owners, device)) for one in shared]
        inputs = packed_inputs(ids, positions, sequences, device)
    else:  # each response in a row: causal attention shows padding on the right to none, and needs no mask
        inputs = {"input_ids": right_pad([one.ids for one in shared], pad)[0].to(device), "use_cache": False}
        starts = range(0, inputs["input_ids"].numel(), inputs["input_ids"].shape[1])
    place_of = {}
    for row, one, start in zip(rows, shared, starts, strict=True):
        place_of |= {i: [start + place for place in places] for i, places in zip(row, one.predicting, strict=True)}
    places = torch.tensor([place for i in range(len(responses)) for place in place_of[i]], device=device)
    with replaced(output_head(model), lambda own, states: compute(own, states.flatten(0, 1)[places])[None]):
        return model(**inputs).logits[0]


def share(prompt: Sequence[int], responses: Sequence[Sequence[int]]) -> Shared:
    """Put responses behind their prompt."""
    found = Shared(list(prompt), list(range(len(prompt))), [0] * len(prompt), [])
    for number, response in enumerate(responses, start=1):
        start, length = len(found.ids), len(response) - 1
        found.ids.extend(response[:-1])
        found.positions.extend(range(len(prompt), len(prompt) + length))
        found.owners.extend([number] * length)
        found.predicting.append([len(prompt) - 1, *range(start, start + length)])
    return found


def attention_of(owners: list[int], device: torch.device) -> Tensor | None:
    """What each token of a sequence sees, its prompt and what is before it of its own response: bool [1, 1, length,
    length]; None where that is all before it."""
    if max(owners) < 2:
        return None
    whose = torch.tensor(owners, device=device)
    return ((whose[:, None] == whose) | (whose == 0)).tril()[None, None]


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
