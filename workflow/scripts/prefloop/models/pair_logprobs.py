"""Log-probabilities of the two responses of pairs under a policy and its reference."""

from collections.abc import Sequence
from functools import partial

from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.progress import Progress
from prefloop.models.batching import batches_by_length
from prefloop.models.loading import PolicyAndReference
from prefloop.models.response_logprobs import response_logprobs, tokens_read

PAIR_SIDES = ("chosen", "rejected")


def score_pairs(
    rows: Sequence[dict],
    prompts: Sequence[list[int]],
    scorers: PolicyAndReference,
    batch_size: int,
    meter: CostMeter,
) -> list[dict]:
    """Add `logp_<side>` and `logp_ref_<side>`, in nats, of these models to rows of pairs.

    Args:
        rows: Pairs with token_ids_chosen and token_ids_rejected.
        prompts: Token ids of the prompt of each row.
        scorers: The policy and its reference.
        batch_size: Responses per batch.
        meter: Counts the tokens.

    Raises:
        InputError: A log-probability is not finite.
    """
    responses = [[row[f"token_ids_{side}"] for side in PAIR_SIDES] for row in rows]
    lengths = [len(prompt) + max(map(len, pair)) for prompt, pair in zip(prompts, responses, strict=True)]
    scored = list(rows)
    with Progress("mix_pairs", len(rows), "pair") as progress:
        for batch in batches_by_length(lengths, max(1, batch_size // len(PAIR_SIDES))):
            prompt_tokens = [prompts[i] for i in batch for _ in PAIR_SIDES]
            response_tokens = [tokens for i in batch for tokens in responses[i]]
            tokens = tokens_read(scorers.policy, prompt_tokens, response_tokens)
            reader = partial(response_logprobs, prompts=prompt_tokens, responses=response_tokens)
            logps, logps_ref = scorers.read(reader)
            meter.forward(scorers.passes * tokens)
            if not (logps.isfinite().all() and logps_ref.isfinite().all()):
                raise InputError("a response of an added pair has no finite log-probability; the policy has diverged")
            values = zip(logps.view(-1, 2).tolist(), logps_ref.view(-1, 2).tolist(), strict=True)
            for i, (logp, logp_ref) in zip(batch, values, strict=True):
                own = {f"logp_{side}": value for side, value in zip(PAIR_SIDES, logp, strict=True)}
                own |= {f"logp_ref_{side}": value for side, value in zip(PAIR_SIDES, logp_ref, strict=True)}
                scored[i] = rows[i] | own
            progress.update(len(batch), tokens)
    return scored
