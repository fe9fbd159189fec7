"""Tokens per second of generation: prefloop's stage, plain vLLM, and a padded loop over transformers' generate.

    OMP_NUM_THREADS=2 python benchmarks/generation.py MODEL/manifest.json [--vllm-python VENV/bin/python]

MODEL is a fetched model (`snakemake … fetch_model` stores it under results/models). Each packaged prompt is answered
four times at temperature 0.9. The ways run in turn, five times, each in a process of its own. The table has the seconds
of generation and of the whole process. vLLM runs in its own environment (workflow/envs/vllm-cpu.yml or vllm.yml), in
prefloop's stage and as its users would call it: one `generate` for all prompts with n = 4. The padded loop takes
prompts in order, padded on the left, in batches with the same number of responses as prefloop's, with n = 4.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "workflow/scripts"
sys.path.insert(0, str(SCRIPTS))

N, TEMPERATURE, BATCH = 4, 0.9, 64
SIZES = {"a round": (32, 40), "long": (8, 128)}  # prompts, and maximum number of tokens


def encoded(manifest: Path, count: int):
    from prefloop.core.jsonl import read_rows
    from prefloop.models.chat import load_tokenizer, prompt_ids

    tokenizer = load_tokenizer(manifest.parent)
    texts = [row["prompt"] for row in read_rows(SCRIPTS.parent / "prompts/instructions.jsonl")][:count]
    return tokenizer, [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in texts]


def by_prefloop(manifest: Path, prompts, tokenizer, max_new_tokens: int, dtype, device: str, vllm: bool = False):
    """The work of workflow/scripts/generate.py between reading and writing, with either engine."""
    from prefloop.config.generation_settings import SamplingParams, VllmSettings
    from prefloop.core.seeds import seed_for
    from prefloop.generation.engines import Engine, TransformersEngine
    from prefloop.generation.vllm_engine import VllmEngine
    from prefloop.methods.samplers import POLICY
    from prefloop.models.batching import batches_by_length
    from prefloop.models.chat import eos_ids
    from prefloop.models.positions import generation_config

    eos, policies = eos_ids(tokenizer, generation_config(manifest)), {"policy": manifest, "reference": None}
    params = SamplingParams(TEMPERATURE, max_new_tokens=max_new_tokens)
    engine: Engine
    if vllm:
        max_tokens = max(map(len, prompts)) + max_new_tokens
        engine = vllm_engine = VllmEngine(manifest, policies, eos, dtype, VllmSettings(), max_tokens)
        vllm_engine.load(None)
        batches = [list(range(len(prompts)))]
    else:
        engine = TransformersEngine(manifest, policies, eos, dtype, device)
        engine.models_per_token(POLICY)  # loads the model
        batches = batches_by_length(list(map(len, prompts)), BATCH // N)

    def work() -> list[list[int]]:
        responses = []
        for batch in batches:
            seeds = [seed_for(0, i, response_id) for i in batch for response_id in range(N)]
            inputs = [prompts[i] for i in batch]
            responses += engine.generate(POLICY, inputs, [N] * len(batch), seeds, params)
        return responses

    return work


def by_our_vllm(*arguments):
    return by_prefloop(*arguments, vllm=True)


def by_transformers(manifest: Path, prompts, tokenizer, max_new_tokens: int, dtype, device: str):
    import torch
    from transformers import AutoModelForCausalLM

    from prefloop.models.batching import left_pad
    from prefloop.models.chat import eos_ids

    model = (
        AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=dtype, trust_remote_code=False).to(device).eval()
    )
    eos = eos_ids(tokenizer, model.generation_config)

    def work() -> list[list[int]]:
        responses = []
        torch.manual_seed(0)
        for start in range(0, len(prompts), BATCH // N):
            ids, mask = (t.to(device) for t in left_pad(prompts[start : start + BATCH // N], tokenizer.pad_token_id))
            settings = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0}
            out = model.generate(ids, attention_mask=mask, num_return_sequences=N, max_new_tokens=max_new_tokens,
                                 eos_token_id=eos, pad_token_id=tokenizer.pad_token_id, **settings)  # fmt: skip
            for row in out[:, ids.shape[1] :].tolist():
                end = next((i + 1 for i, token in enumerate(row) if token in eos), len(row))
                responses.append(row[:end])
        return responses

    return work


def by_vllm(manifest: Path, prompts, tokenizer, max_new_tokens: int, dtype, device: str):
    from prefloop.generation.vllm_engine import set_environment, whole_prompts
    from prefloop.models.chat import eos_ids
    from prefloop.models.positions import generation_config

    set_environment()
    from vllm import LLM, SamplingParams

    eos = eos_ids(tokenizer, generation_config(manifest))
    length = max_new_tokens + max(map(len, prompts))
    cache = {"kv_cache_memory_bytes": 2**31, "enforce_eager": True} | whole_prompts(length) if device == "cpu" else {}
    llm = LLM(str(manifest.parent), skip_tokenizer_init=True, generation_config="vllm", dtype=dtype,
              max_model_len=length, **cache)  # fmt: skip
    sampling = SamplingParams(n=N, temperature=TEMPERATURE, max_tokens=max_new_tokens, stop_token_ids=eos, seed=0,
                              detokenize=False)  # fmt: skip

    def work() -> list[list[int]]:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        return [list(response.token_ids) for output in outputs for response in output.outputs]

    return work


WAYS = {"prefloop": by_prefloop, "transformers": by_transformers, "prefloop, vllm": by_our_vllm, "vllm": by_vllm}


def measure(name: str, manifest: Path, count: int, max_new_tokens: int, dtype: str) -> dict:
    """Seconds of generation, responses and tokens of this process, which does nothing else."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, prompts = encoded(manifest, count)
    work = WAYS[name](manifest, prompts, tokenizer, max_new_tokens, getattr(torch, dtype), device)
    start = time.perf_counter()
    responses = work()
    return {"seconds": time.perf_counter() - start, "responses": len(responses), "tokens": sum(map(len, responses))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--vllm-python", default=None)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", choices=SIZES, nargs="+", default=list(SIZES))
    parser.add_argument("--way", nargs=3, help="measure one way with this number of prompts and tokens; print JSON")
    args = parser.parse_args()
    if args.way:
        name, count, max_new_tokens = args.way
        print(json.dumps(measure(name, args.manifest, int(count), int(max_new_tokens), args.dtype)))
        return
    from measuring import machine, ratios, spread

    print(f"{machine()}\n{args.dtype}; {N} responses per prompt\n")
    print("| size | way | tokens per response | tokens/s | with start-up | times ours | with start-up |")
    print("|---|---|---:|---:|---:|---:|---:|")
    ways = [name for name in WAYS if "vllm" not in name or args.vllm_python]
    for size in args.size:
        count, max_new_tokens = SIZES[size]
        taken: dict[str, list[dict]] = {name: [] for name in ways}
        for _ in range(args.repeats):
            for name in ways:
                python = args.vllm_python if "vllm" in name else sys.executable
                command = [python, __file__, str(args.manifest), "--dtype", args.dtype]
                command += ["--way", name, str(count), str(max_new_tokens)]
                start = time.perf_counter()
                done = subprocess.run(command, capture_output=True, text=True)
                whole = time.perf_counter() - start
                if done.returncode != 0:
                    sys.exit(done.stderr[-3000:])
                taken[name].append(json.loads(done.stdout.splitlines()[-1]) | {"whole": whole})
        for name in ways:
            runs = taken[name]
            cells = [size, name, f"{statistics.mean(run['tokens'] / run['responses'] for run in runs):.1f}"]
            times = {}
            for clock in ("seconds", "whole"):
                cells.append(spread([run["tokens"] / run[clock] for run in runs], 0))
                per_token = [[run[clock] / run["tokens"] for run in taken[way]] for way in ("prefloop", name)]
                times[clock] = spread(ratios(*per_token))
            print(f"| {' | '.join([*cells, *times.values()])} |", flush=True)


if __name__ == "__main__":
    main()
