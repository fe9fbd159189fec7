"""Tokens a second of generation: our stage, raw vLLM, a plain padded loop of transformers' generate.

    OMP_NUM_THREADS=2 python benchmarks/generation.py MODEL/manifest.json [--vllm-python VENV/bin/python]

MODEL is a fetched model (`snakemake … fetch_model` leaves it under results/models). The packaged prompts are answered
four times each at temperature .9. Every way is a process of its own, started in turn, five times; a process tells the
seconds that generating took, and the whole process's are taken besides. vLLM runs in an environment of its own
(workflow/envs/vllm-cpu.yml or vllm.yml), within our stage and as its users would call it: one `generate` for all
prompts with n = 4. The plain loop takes prompts as they come, padded on the left, in batches of as many responses as
ours, with n = 4.
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
SIZES = {"a round": (32, 40), "long": (8, 128)}  # prompts, and tokens at most


def encoded(manifest: Path, count: int):
    from prefloop.chat import load_tokenizer, prompt_ids
    from prefloop.rows import read_rows

    tokenizer = load_tokenizer(manifest.parent)
    texts = [row["prompt"] for row in read_rows(SCRIPTS.parent / "prompts/instructions.jsonl")][:count]
    return tokenizer, [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in texts]


def by_prefloop(manifest: Path, prompts, tokenizer, longest: int, dtype, device: str, vllm: bool = False):
    """What workflow/scripts/generate.py does between reading and writing, with either engine."""
    from prefloop.batching import batches_by_length
    from prefloop.chat import eos_ids
    from prefloop.engines import Transformers
    from prefloop.models import generation_config
    from prefloop.samplers import POLICY
    from prefloop.sampling import Decoding
    from prefloop.seeds import seed_for
    from prefloop.vllm_engine import Vllm, VllmSettings

    eos, files = eos_ids(tokenizer, generation_config(manifest)), {"policy": manifest, "reference": None}
    if vllm:
        engine = Vllm(manifest, files, eos, dtype, VllmSettings(), longest + max(map(len, prompts)))
        engine.load(None)
        batches = [list(range(len(prompts)))]
    else:
        engine = Transformers(manifest, files, eos, tokenizer.pad_token_id, dtype, device)
        engine.voices(POLICY)
        batches = batches_by_length(list(map(len, prompts)), BATCH // N)

    def work() -> list[list[int]]:
        found = []
        for batch in batches:
            seeds = [seed_for(0, i, number) for i in batch for number in range(N)]
            inputs = [prompts[i] for i in batch]
            found += engine.answer(POLICY, inputs, [N] * len(batch), seeds, Decoding(TEMPERATURE), longest)
        return found

    return work


def by_our_vllm(*given):
    return by_prefloop(*given, vllm=True)


def by_transformers(manifest: Path, prompts, tokenizer, longest: int, dtype, device: str):
    import torch
    from transformers import AutoModelForCausalLM

    from prefloop.batching import left_pad
    from prefloop.chat import eos_ids

    model = (
        AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=dtype, trust_remote_code=False).to(device).eval()
    )
    eos = eos_ids(tokenizer, model.generation_config)

    def work() -> list[list[int]]:
        found = []
        torch.manual_seed(0)
        for start in range(0, len(prompts), BATCH // N):
            ids, mask = (t.to(device) for t in left_pad(prompts[start : start + BATCH // N], tokenizer.pad_token_id))
            settings = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0}
            out = model.generate(ids, attention_mask=mask, num_return_sequences=N, max_new_tokens=longest,
                                 eos_token_id=eos, pad_token_id=tokenizer.pad_token_id, **settings)  # fmt: skip
            for row in out[:, ids.shape[1] :].tolist():
                end = next((place + 1 for place, token in enumerate(row) if token in eos), len(row))
                found.append(row[:end])
        return found

    return work


def by_vllm(manifest: Path, prompts, tokenizer, longest: int, dtype, device: str):
    from prefloop.chat import eos_ids
    from prefloop.models import generation_config
    from prefloop.vllm_engine import set_environment, whole_prompts

    set_environment()
    from vllm import LLM, SamplingParams

    eos = eos_ids(tokenizer, generation_config(manifest))
    length = longest + max(map(len, prompts))
    cache = {"kv_cache_memory_bytes": 2**31, "enforce_eager": True} | whole_prompts(length) if device == "cpu" else {}
    llm = LLM(str(manifest.parent), skip_tokenizer_init=True, generation_config="vllm", dtype=dtype,
              max_model_len=length, **cache)  # fmt: skip
    sampling = SamplingParams(n=N, temperature=TEMPERATURE, max_tokens=longest, stop_token_ids=eos, seed=0,
                              detokenize=False)  # fmt: skip

    def work() -> list[list[int]]:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        return [list(one.token_ids) for output in outputs for one in output.outputs]

    return work


WAYS = {"prefloop": by_prefloop, "transformers": by_transformers, "prefloop, vllm": by_our_vllm, "vllm": by_vllm}


def one_way(name: str, manifest: Path, count: int, longest: int, dtype: str) -> dict:
    """What this process, which does nothing else, took: seconds of generating, responses and tokens."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, prompts = encoded(manifest, count)
    work = WAYS[name](manifest, prompts, tokenizer, longest, getattr(torch, dtype), device)
    start = time.perf_counter()
    found = work()
    return {"seconds": time.perf_counter() - start, "responses": len(found), "tokens": sum(map(len, found))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--vllm-python", default=None)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", choices=SIZES, nargs="+", default=list(SIZES))
    parser.add_argument("--way", nargs=3, help="one way, its prompts and tokens: print what it took, as JSON")
    given = parser.parse_args()
    if given.way:
        name, count, longest = given.way
        print(json.dumps(one_way(name, given.manifest, int(count), int(longest), given.dtype)))
        return
    from measuring import machine, ratios, spread

    print(f"{machine()}\n{given.dtype}; {N} responses a prompt\n")
    print("| size | way | tokens a response | tokens/s | with start-up | times ours | with start-up |")
    print("|---|---|---:|---:|---:|---:|---:|")
    ways = [name for name in WAYS if "vllm" not in name or given.vllm_python]
    for size in given.size:
        count, longest = SIZES[size]
        taken: dict[str, list[dict]] = {name: [] for name in ways}
        for _ in range(given.repeats):
            for name in ways:
                python = given.vllm_python if "vllm" in name else sys.executable
                command = [python, __file__, str(given.manifest), "--dtype", given.dtype]
                command += ["--way", name, str(count), str(longest)]
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
                a_token = [[run[clock] / run["tokens"] for run in taken[way]] for way in ("prefloop", name)]
                times[clock] = spread(ratios(*a_token))
            print(f"| {' | '.join([*cells, *times.values()])} |", flush=True)


if __name__ == "__main__":
    main()
