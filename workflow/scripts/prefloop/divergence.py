"""How far a policy has moved from its reference: the KL divergence along responses that the policy sampled."""

from collections.abc import Sequence

import torch
from torch import Tensor


def divergences(logits: Tensor, logits_ref: Tensor, responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """KL(π_θ‖π_ref) along each response of π_θ, and the response's log-ratio; nats, float32, both shape [responses].

    KL = Σ_t Σ_v π_θ(v | x, y_<t)·log(π_θ(v | x, y_<t) / π_ref(v | x, y_<t)) over every position of the response, the
    one that draws EOS included. Its mean over responses that π_θ sampled at temperature 1 is the divergence of the
    two distributions of responses; so is that of the log-ratio log π_θ(y) − log π_ref(y), which sees only the tokens
    drawn and is noisier (Rao–Blackwellisation; Amini et al. 2025, arXiv 2504.10637). Both models' logits are as
    from `scoring.response_logits`, [tokens, vocabulary]; a float32 copy is made of one response's at a time.
    """
    found, lengths = [], list(map(len, responses))
    for own, theirs, tokens in zip(logits.split(lengths), logits_ref.split(lengths), responses, strict=True):
        logps = torch.log_softmax(own.float(), dim=1)
        ratios = logps - torch.log_softmax(theirs.float(), dim=1)
        drawn = ratios.gather(1, torch.tensor(tokens, device=ratios.device)[:, None])
        found.append(torch.stack([(logps.exp() * ratios).sum(), drawn.sum()]))
    kl, log_ratio = torch.stack(found).T
    return kl, log_ratio
