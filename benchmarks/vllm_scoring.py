"""Compare vLLM's prompt log-probabilities with response_logprobs: differences and speed.

Run in vLLM's environment, from the project's root, with a fetched model and one step's rows:

    python benchmarks/vllm_scoring.py results/models/<model>/manifest.json <folder of a step> float32

Both score the same responses under the base model, in turn, on one thread, after an untimed pass. The output has wall
and CPU seconds (min, median, max of the runs) and the differences of the summed log-probabilities.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "workflow/scripts"))
from prefloop.core.jsonl import read_rows
from prefloop.generation.vllm_engine import set_environment
from prefloop.models.batching import batches_by_length
from prefloop.models.chat import prompt_ids
from prefloop.models.loading import load_policy
from prefloop.models.response_logprobs import Scorer, prepare_scorer, response_logprobs

RUNS = 3


def by_transformers(scorer: Scorer, prompts: list[list[int]], responses: list[list[int]]) -> torch.Tensor:
    logps = torch.zeros(len(prompts))
    with torch.no_grad():
        for batch in batches_by_length([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], 64):
            rows = [prompts[i] for i in batch], [responses[i] for i in batch]
            logps[batch] = response_logprobs(scorer, *rows)
    return logps


def by_vllm(llm: Any, prompts: list[list[int]], responses: list[list[int]]) -> torch.Tensor:
    from vllm import SamplingParams

    texts = [{"prompt_token_ids": p + r} for p, r in zip(prompts, responses, strict=True)]
    scored = llm.generate(texts, SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False), use_tqdm=False)
    sums = []
    for output, prompt, response in zip(scored, prompts, responses, strict=True):
        logps = zip(output.prompt_logprobs[len(prompt) :], response, strict=True)
        sums.append(sum(candidates[token].logprob for candidates, token in logps))
    return torch.tensor(sums)


def timed(score: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    return score(), time.perf_counter() - wall, time.process_time() - cpu


def main(manifest: Path, step: Path, dtype: torch.dtype) -> None:
    set_environment()
    from vllm import LLM

    torch.set_num_threads(1)
    messages = {row["prompt_id"]: row["messages"] for row in read_rows(step / "prompts.jsonl")}
    rows = read_rows(step / "generations.jsonl")
    model, tokenizer = load_policy(manifest, manifest, dtype, "cpu")
    scorer = prepare_scorer(model)
    prompts = [prompt_ids(tokenizer, messages[row["prompt_id"]]) for row in rows]
    responses = [row["token_ids"] for row in rows]
    tokens = sum(map(len, prompts)) + sum(map(len, responses))
    llm = LLM(
        str(manifest.parent),
        skip_tokenizer_init=True,
        dtype=dtype,
        enforce_eager=True,
        enable_prefix_caching=False,  # otherwise a second run would reuse the first one's work
        kv_cache_memory_bytes=2**30,
        max_model_len=1 + max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True)),
    )
    scores = {
        "transformers": lambda: by_transformers(scorer, prompts, responses),
        "vllm": lambda: by_vllm(llm, prompts, responses),
    }
    logps = {name: score() for name, score in scores.items()}
    taken = [(name, *timed(score)[1:]) for _ in range(RUNS) for name, score in scores.items()]
    print(f"{str(dtype).removeprefix('torch.')}: {len(rows)} responses, {tokens} tokens with their prompts")
    for name in scores:
        for clock, column in (("wall", 1), ("CPU", 2)):
            times = [row[column] for row in taken if row[0] == name]
            print(f"  {name}, {clock}: {min(times):.1f} {median(times):.1f} {max(times):.1f} s")
    difference = (logps["transformers"] - logps["vllm"]).abs()
    print(f"  |difference| of log-probabilities, nats: mean {difference.mean():.2g}, largest {difference.max():.2g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), getattr(torch, sys.argv[3]))
