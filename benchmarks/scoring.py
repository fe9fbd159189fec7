"""Log-probabilities of n responses a prompt: ours, TRL's reference computation, a plain padded forward pass.

    OMP_NUM_THREADS=2 python benchmarks/scoring.py [--dtype bfloat16] [--pairs 16]

Needs TRL beside the pipeline's packages (tests/requirements.txt). A model of SmolLM2-135M's shape with random weights
scores random tokens in the lengths of HH-RLHF's pairs. Each way runs five times in turn after an untimed run; the table
gives responses a second, how many times slower the peer was in the same round, and how far its log-probabilities are
from ours. `limit` is the time that the operations which must be done take at the rate of the machine's own matrix
product. TRL scores pairs, so that four responses are two pairs.
"""

import argparse
import statistics

import torch
from measuring import SMOLLM2, conversations, in_turn, machine, multiplication_rate, new_model, ratios, spread
from peers import dpo_trainer, reference_logps

from prefloop.batching import batches_by_length
from prefloop.scoring import response_logps

PAD = SMOLLM2["pad_token_id"]


@torch.no_grad()
def ours(model, asked, batch_size: int = 64) -> torch.Tensor:
    """As workflow/scripts/perplexity.py: the responses of a prompt in one batch, batches by length."""
    n = len(asked[0].responses)
    found = torch.zeros(len(asked), n)
    lengths = [len(one.prompt) + max(map(len, one.responses)) for one in asked]
    for batch in batches_by_length(lengths, max(1, batch_size // n)):
        prompts = [asked[i].prompt for i in batch for _ in range(n)]
        responses = [response for i in batch for response in asked[i].responses]
        found[batch] = response_logps(model, prompts, responses, PAD).reshape(-1, n).cpu()
    return found


@torch.no_grad()
def plain(model, asked, batch_size: int = 16) -> torch.Tensor:
    """Prompt and response in a row each, padded on the right, in the order that they come; all logits."""
    rows = [(one.prompt, response) for one in asked for response in one.responses]
    found = []
    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        width = max(len(prompt) + len(response) for prompt, response in some)
        ids = torch.tensor([[*p, *r, *[PAD] * (width - len(p) - len(r))] for p, r in some], device=model.device)
        mask = torch.tensor([[0] * len(p) + [1] * len(r) + [0] * (width - len(p) - len(r)) for p, r in some])
        real = torch.tensor([[1] * (len(p) + len(r)) + [0] * (width - len(p) - len(r)) for p, r in some])
        logits = model(input_ids=ids, attention_mask=real.to(ids.device)).logits[:, :-1]
        logps = torch.log_softmax(logits.float(), dim=2).gather(2, ids[:, 1:, None]).squeeze(2)
        found.append((logps * mask[:, 1:].to(ids.device)).sum(dim=1).cpu())
    return torch.cat(found).reshape(len(asked), -1)


def trl(model, asked):
    """What DPOTrainer does with precompute_ref_log_probs, at its own batch size; a function to call."""
    pairs = [
        {"prompt_ids": one.prompt, "chosen_ids": one.responses[i], "rejected_ids": one.responses[i + 1]}
        for one in asked
        for i in range(0, len(one.responses), 2)
    ]
    trainer = dpo_trainer(model, pairs, precompute_ref_log_probs=True, gradient_checkpointing=False)
    return lambda: reference_logps(trainer, pairs).reshape(len(asked), -1).float()


def operations(model, asked) -> float:
    """Multiplications and additions that cannot be left out: each prompt once, the head at response tokens only."""
    head = SMOLLM2["vocab_size"] * SMOLLM2["hidden_size"]
    body = sum(p.numel() for p in model.parameters()) - head
    scored = sum(len(response) for one in asked for response in one.responses)
    read = sum(len(one.prompt) for one in asked) + scored - sum(len(one.responses) for one in asked)
    return 2 * body * read + 2 * head * scored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--pairs", type=int, default=16, help="responses of each n, in pairs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip", type=int, default=0, help="rows of the table, from the first")
    given = parser.parse_args()
    dtype, device = getattr(torch, given.dtype), "cuda" if torch.cuda.is_available() else "cpu"
    model = new_model(dtype).to(device)
    rate = multiplication_rate(2048, dtype, device)
    print(f"{machine()}\n{given.dtype}; matrix product {rate / 1e9:.0f} GFLOP/s\n")
    print(
        "| n | prompt | response | prefloop, responses/s | TRL / prefloop | plain / prefloop | of the limit | apart |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    cases = [(2, 1, 1), (4, 1, 1), (8, 1, 1), (2, 2, 1), (2, 1, 2), (2, 0.1, 1)]
    for n, stretch_prompt, stretch in cases[given.skip :]:
        asked = conversations(max(4, 2 * given.pairs // n), n, stretch_prompt, stretch)
        works = {
            "ours": lambda: ours(model, asked),  # noqa: B023  called before it changes
            "TRL": trl(model, asked),
            "plain": lambda: plain(model, asked),  # noqa: B023
        }
        scores = {name: work() for name, work in works.items()}
        apart = max((scores["ours"] - scores[name]).abs().max().item() for name in ("TRL", "plain"))
        taken = in_turn(works, given.repeats)
        total = sum(len(one.responses) for one in asked)
        lengths = [statistics.mean(len(one.prompt) for one in asked)]
        lengths.append(statistics.mean(len(r) for one in asked for r in one.responses))
        share = operations(model, asked) / rate / statistics.median(taken["ours"])
        cells = [n, *(f"{length:.0f}" for length in lengths), spread([total / s for s in taken["ours"]], 1)]
        cells += [spread(ratios(taken["ours"], taken[name])) for name in ("TRL", "plain")]
        print(f"| {' | '.join(map(str, cells))} | {share:.0%} | {apart:.1g} |", flush=True)


if __name__ == "__main__":
    main()
