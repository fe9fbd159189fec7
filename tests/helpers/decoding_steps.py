"""A model's logits during decoding, to compare two ways of computing them."""

import torch

from prefloop.models.batching import positions_of
from prefloop.models.kv_cache import preallocate

IDS = torch.tensor([[2, 2, 0, 7, 9, 12], [0, 30, 31, 8, 40, 41]])  # the first row starts with two padding tokens
MASK = (IDS != 2).long()
STEPS = torch.tensor([[5, 6, 44], [17, 50, 3]])


def decoded(model, preallocates: bool) -> torch.Tensor:
    """Return logits [rows, 4, vocabulary] after two prompts and after each of three more tokens.

    Before the last token the rows of the cache are swapped; the result has them in their original order.
    """
    mask, found = MASK, []
    step = model(input_ids=IDS, attention_mask=mask, position_ids=positions_of(mask), use_cache=True)
    cache = step.past_key_values
    if preallocates:
        preallocate(cache)
    for tokens in STEPS.T:
        found.append(step.logits[:, -1])
        mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
        if len(found) == 3:
            swap = torch.tensor([1, 0])
            cache.batch_select_indices(swap)
            mask, tokens = mask[swap], tokens[swap]
        more = {"attention_mask": mask, "position_ids": positions_of(mask)[:, -1:], "past_key_values": cache}
        step = model(input_ids=tokens[:, None], **more, use_cache=True)
    return torch.stack([*found, step.logits[swap, -1]], dim=1).float()
