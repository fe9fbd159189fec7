"""How probable the policy finds a response: each prompt read once for all its responses, the head at their tokens."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prefloop.batching import right_pad
from prefloop.heads import head_logps, is_plain, logit_logps, once_a_model, output_head, replaced

LONGEST = 2048  # tokens of a sequence up to which another response may be put behind its prompt


class Packed(NamedTuple):
    """Prompts with their responses, several of them behind one prompt, as a model reads them."""

    ids: Tensor
    """Token ids [rows, width], padded on the right."""
    positions: Tensor
    """Each token's place in the conversation [rows, width]: every response goes on where its prompt ends."""
    owners: Tensor
    """What each token belongs to [rows, width]: 0 the prompt, 1, 2, … its responses, −1 padding."""
    places: Tensor
    """For each response token, response by response, the place in `ids`, flattened, that predicts it: [tokens]."""
    targets: Tensor
    """The response tokens themselves [tokens]."""


def response_logps(model, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Summed log-probabilities of responses given their prompts, in nats; float32, shape [responses].

    logp(y) = Σ_t log π(y_t | x, y_<t) over every response token, EOS included; prompt and padding do not
    count. `prompts` are one a response; equal ones are read once, where `shares_prompts` says that the model can.
    Gradients flow unless the caller forbids them.
    """
    packed = pack(prompts, responses, pad, rows_of(model, prompts, responses))
    if is_plain(model):
        head = output_head(model)
        found = read(model, packed, lambda _, states, tokens: head_logps(head, states, tokens)[:, None])[:, 0]
    else:
        found = logit_logps(
            read(model, packed, lambda own, states, _: own(states)), packed.targets.to(device_of(model))
        )
    return torch.stack([part.sum() for part in found.split(list(map(len, responses)))])


def response_logits(model, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int) -> Tensor:
    """The logits that predict response tokens, and no others: [tokens, vocabulary], one response after the other."""
    packed = pack(prompts, responses, pad, rows_of(model, prompts, responses))
    return read(model, packed, lambda own, states, _: own(states))


def read(model, packed: Packed, compute: Callable[[Callable, Tensor, Tensor], Tensor]) -> Tensor:
    """One forward pass: compute(head, states [tokens, hidden], targets [tokens]) at the states that predict targets."""
    device = device_of(model)
    places, targets = packed.places.to(device), packed.targets.to(device)
    inputs = {"input_ids": packed.ids.to(device)}
    if packed.owners.max() > 1:
        inputs |= {
            "position_ids": packed.positions.to(device),
            "attention_mask": attention_of(packed.owners.to(device)),
        }

    def at_places(own: Callable, states: Tensor) -> Tensor:
        return compute(own, states.flatten(0, 1)[places], targets)[None]

    with replaced(output_head(model), at_places):
        return model(**inputs, use_cache=False).logits[0]


def attention_of(owners: Tensor) -> Tensor:
    """Which tokens each one sees: its prompt's and those before it of its own response; bool [rows, 1, width, width].

    Not needed where a row has one response: causal attention shows padding on the right to none.
    """
    own = owners[:, :, None] == owners[:, None, :]
    return ((own | (owners[:, None, :] == 0)).tril())[:, None]


def pack(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int, rows: Sequence[Sequence[int]]
) -> Packed:
    """Put the responses `rows[r]`, which share a prompt, into sequence r. A response's last token predicts nothing
    and is left out."""
    ids, positions, owners, places = [], [], [], {}
    for row, members in enumerate(rows):
        prompt = list(prompts[members[0]])
        ids.append(prompt)
        positions.append(list(range(len(prompt))))
        owners.append([0] * len(prompt))
        for number, i in enumerate(members, start=1):
            read, start = responses[i][:-1], len(ids[row])
            places[i] = row, [len(prompt) - 1, *range(start, start + len(read))]
            ids[row] = ids[row] + list(read)
            positions[row] += range(len(prompt), len(prompt) + len(read))
            owners[row] += [number] * len(read)
    width = max(map(len, ids))
    flat = [place + row * width for row, where in (places[i] for i in range(len(responses))) for place in where]
    return Packed(
        ids=right_pad(ids, pad)[0],
        positions=right_pad(positions, 0)[0],
        owners=right_pad(owners, -1)[0],
        places=torch.tensor(flat),
        targets=torch.tensor([token for response in responses for token in response]),
    )


def rows_of(model, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[list[int]]:
    """Which responses, by number, stand in one sequence behind their prompt.

    Attention's operations grow with the square of a sequence, what is saved with the prompt: n responses of R tokens
    behind one of P cost about n²R²·4h a layer more and (n − 1)·P·24h² less (h the hidden size), so that n up to
    6hP/R² pays.
    """
    if not shares_prompts(model):
        return [[i] for i in range(len(responses))]
    same: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        same.setdefault(tuple(prompt), []).append(i)
    hidden, rows = config_of(model).hidden_size, []
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


@once_a_model
def shares_prompts(model) -> bool:
    """Whether several responses can stand behind one prompt: transformers' own code, in which a token's place comes
    from `position_ids` alone and every layer takes any mask of what it may see.

    Not so are sliding windows, recurrent layers and attention that is biased by distance in the sequence.
    """
    config, inner = config_of(model), getattr(model, "module", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    written = next(c.__module__ for c in type(inner).__mro__ if not c.__module__.startswith("torch."))
    return (
        written.startswith("transformers.models.")
        and config._attn_implementation == "sdpa"
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and getattr(config, "sliding_window", None) is None
        and any(name.rsplit(".", 1)[-1] in ("rotary_emb", "wpe") for name, _ in inner.named_modules())
    )


def config_of(model):
    return getattr(model, "module", model).config.get_text_config()


def device_of(model) -> torch.device:
    return next(model.parameters()).device
