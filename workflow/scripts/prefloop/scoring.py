"""How probable the policy finds a response: one forward pass, logits at response positions only."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prefloop.batching import left_pad, positions_of, right_pad


def response_logps(model, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Summed log-probabilities of responses given their prompts, in nats; float32, shape [rows].

    logp(y) = Σ_t log π(y_t | x, y_<t) over every response token, EOS included; prompt and padding do not
    count. Prompts are padded on the left and responses on the right, so the logits that predict responses
    are the same columns in every row (from the last prompt token on) and no others are computed.
    Gradients flow unless the caller forbids them.
    """
    device = next(model.parameters()).device
    prompt_ids, prompt_mask = left_pad(prompts, pad)
    response_ids, response_mask = right_pad(responses, pad)
    ids = torch.cat([prompt_ids, response_ids], dim=1).to(device)
    mask = torch.cat([prompt_mask, response_mask], dim=1).to(device)
    predicting = torch.arange(prompt_ids.shape[1] - 1, ids.shape[1] - 1, device=device)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions_of(mask),
        logits_to_keep=predicting,
        use_cache=False,
    ).logits
    logps = token_logps(logits, response_ids.to(device))
    return (logps * response_mask.to(device)).sum(dim=1)


def token_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """log π of `tokens` [rows, length] under `logits` [rows, length, vocabulary]; float32 [rows, length].

    Row by row, so that the float32 copy of the logits is one row's and not the whole batch's.
    """
    rows = []
    for row_logits, row_tokens in zip(logits, tokens, strict=True):
        row_logits = row_logits.float()
        chosen = row_logits.gather(1, row_tokens[:, None]).squeeze(1)
        rows.append(chosen - torch.logsumexp(row_logits, dim=1))
    return torch.stack(rows)
