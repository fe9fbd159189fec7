"""Log-probabilities of n responses per prompt: prefloop, TRL's reference computation, a plain padded forward pass.

    OMP_NUM_THREADS=2 python benchmarks/scoring.py [--dtype bfloat16] [--pairs 16]

It needs TRL in addition to the pipeline's packages (tests/requirements.txt). A model with SmolLM2-135M's shape and
random weights scores random tokens with the lengths of HH-RLHF's pairs. Each way runs five times in turn after an
untimed run. The table has responses per second, how many times slower the peer is in the same round, and the largest
difference of its log-probabilities from prefloop's. `limit` is the time that the unavoidable operations would take at
the rate of a matrix product on this machine. TRL scores pairs, so four responses are two pairs.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from measuring import (
    SMOLLM2,
    Conversation,
    conversations,
    in_turn,
    machine,
    multiplication_rate,
    new_model,
    ratios,
    spread,
)
from peers import dpo_trainer, reference_logps

from prefloop.models.batching import batches_by_length
from prefloop.models.response_logprobs import Scorer, prepare_scorer, response_logprobs

PAD = SMOLLM2["pad_token_id"]


@torch.no_grad()
def ours(scorer: Scorer, asked: list[Conversation], batch_size: int = 64) -> torch.Tensor:
    """As in workflow/scripts/logprobs.py: the responses to a prompt in one batch, and batches by length."""
    n = len(asked[0].responses)
    logps = torch.zeros(len(asked), n)
    lengths = [len(prompt) + max(map(len, responses)) for prompt, responses in asked]
    for batch in batches_by_length(lengths, max(1, batch_size // n)):
        prompts = [asked[i].prompt for i in batch for _ in range(n)]
        responses = [response for i in batch for response in asked[i].responses]
        logps[batch] = response_logprobs(scorer, prompts, responses).reshape(-1, n).cpu()
    return logps


@torch.no_grad()
def plain(model: Any, asked: list[Conversation], batch_size: int = 16) -> torch.Tensor:
    """A plain forward pass: one row per prompt and response, in order and padded on the right, with all logits."""
    rows = [(prompt, response) for prompt, responses in asked for response in responses]
    sums = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        width = max(len(prompt) + len(response) for prompt, response in batch)
        ids = torch.tensor([[*p, *r, *[PAD] * (width - len(p) - len(r))] for p, r in batch], device=model.device)
        mask = torch.tensor([[0] * len(p) + [1] * len(r) + [0] * (width - len(p) - len(r)) for p, r in batch])
        real = torch.tensor([[1] * (len(p) + len(r)) + [0] * (width - len(p) - len(r)) for p, r in batch])
        logits = model(input_ids=ids, attention_mask=real.to(ids.device)).logits[:, :-1]
        logps = torch.log_softmax(logits.float(), dim=2).gather(2, ids[:, 1:, None]).squeeze(2)
        sums.append((logps * mask[:, 1:].to(ids.device)).sum(dim=1).cpu())
    return torch.cat(sums).reshape(len(asked), -1)


def trl(model: Any, asked: list[Conversation]) -> Callable[[], torch.Tensor]:
    """A function that does the work of DPOTrainer with precompute_ref_log_probs, at its own batch size."""
    pairs = [
        {"prompt_ids": prompt, "chosen_ids": responses[i], "rejected_ids": responses[i + 1]}
        for prompt, responses in asked
        for i in range(0, len(responses), 2)
    ]
    trainer = dpo_trainer(model, pairs, precompute_ref_log_probs=True, gradient_checkpointing=False)
    return lambda: reference_logps(trainer, pairs).reshape(len(asked), -1).float()


def operations(model: torch.nn.Module, asked: list[Conversation]) -> float:
    """The unavoidable multiplications and additions: each prompt once, and the head only for response tokens."""
    head = SMOLLM2["vocab_size"] * SMOLLM2["hidden_size"]
    body = sum(p.numel() for p in model.parameters()) - head
    scored = sum(len(response) for _, responses in asked for response in responses)
    read = sum(len(prompt) for prompt, _ in asked) + scored - sum(len(responses) for _, responses in asked)
    return 2 * body * read + 2 * head * scored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--pairs", type=int, default=16, help="responses per value of n, in pairs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip", type=int, default=0, help="number of rows of the table")
    given = parser.parse_args()
    dtype, device = getattr(torch, given.dtype), "cuda" if torch.cuda.is_available() else "cpu"
    model = new_model(dtype).to(device)
    scorer = prepare_scorer(new_model(dtype).to(device))  # a model of its own, because this changes its attention
    rate = multiplication_rate(2048, dtype, device)
    print(f"{machine()}\n{given.dtype}; matrix product {rate / 1e9:.0f} GFLOP/s\n")
    print("| n | prompt | response | prefloop, responses/s | TRL / prefloop | plain / prefloop | of the limit | diff |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    cases = [(2, 1, 1), (4, 1, 1), (8, 1, 1), (2, 2, 1), (2, 1, 2), (2, 0.1, 1)]
    for n, stretch_prompt, stretch in cases[given.skip :]:
        asked = conversations(max(4, 2 * given.pairs // n), n, stretch_prompt, stretch)
        works = {
            "ours": lambda: ours(scorer, asked),  # noqa: B023  called before it changes
            "TRL": trl(model, asked),
            "plain": lambda: plain(model, asked),  # noqa: B023
        }
        scores = {name: work() for name, work in works.items()}
        difference = max((scores["ours"] - scores[name]).abs().max().item() for name in ("TRL", "plain"))
        taken = in_turn(works, given.repeats)
        total = sum(len(responses) for _, responses in asked)
        lengths = [statistics.mean(len(prompt) for prompt, _ in asked)]
        lengths.append(statistics.mean(len(response) for _, responses in asked for response in responses))
        share = operations(model, asked) / rate / statistics.median(taken["ours"])
        cells = [n, *(f"{length:.0f}" for length in lengths), spread([total / s for s in taken["ours"]], 1)]
        cells += [spread(ratios(taken["ours"], taken[name])) for name in ("TRL", "plain")]
        print(f"| {' | '.join(map(str, cells))} | {share:.0%} | {difference:.1g} |", flush=True)


if __name__ == "__main__":
    main()
