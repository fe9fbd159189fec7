"""One online round, from prompts to a trained policy: `snakemake` against TRL's experimental OnlineDPOTrainer.

    OMP_NUM_THREADS=2 python benchmarks/round.py MODEL/manifest.json [--pairs 64]

MODEL is a fetched model. Both answer the same number of packaged prompts twice with up to 40 tokens, score the
responses with VADER, and train rank-16 adapters on one pair per prompt, eight per step. prefloop runs all stages of a
round as a user would, from allocation to policy.pt; embedding and clustering of prompts come before and are not timed.
TRL runs with its defaults and, as `best`, without recomputing layers in the backward pass. Each runs in a process of
its own, including start-up, five times in turn. Every run of prefloop starts its own warm process, like a user's first
run, and cannot find that of an earlier run. prefloop leaves out pairs with equal scores, on which TRL also trains.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
TOKENS, BATCH, RATE = 40, 8, 1e-4
WAYS = ["prefloop", "TRL", "TRL best"]


def config(pairs: int, model: Path) -> dict:
    return {
        "name": "round",
        "seeds": [0],
        "rounds": 1,
        "steps": 1,
        "compare": ["uniform"],
        "methods": {"uniform": {"bandit": {"allocation": "uniform"}, "pairs": {"metric": "random"}}},
        "policy": {"model": str(model.parent)},
        "prompts": {"eval_fraction": 0.1},
        "bandit": {"budget": pairs},
        "generation": {"n": 2, "max_new_tokens": TOKENS},
        "pairs": {"min_gap_quantile": 0.0, "top_n": pairs},
        "train": {"batch_size": BATCH, "micro_batch_size": BATCH, "learning_rate": RATE},
    }


def run_prefloop(folder: Path) -> int:
    """Run the round again, and return the number of trained pairs.

    The sockets of warm processes are in a new folder, because a warm process waits for another minute after a run.
    """
    shutil.rmtree(folder / "results/round/uniform", ignore_errors=True)
    policy = "results/round/uniform/seed-0/round-1/policy.pt"
    command = [sys.executable, "-m", "snakemake", policy, "--cores", "all"]
    environment = os.environ | {"XDG_RUNTIME_DIR": tempfile.mkdtemp()}
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return sum(1 for _ in (folder / policy).with_name("pairs.jsonl").open())


def run_trl(manifest: Path, pairs: int, best: bool) -> int:
    """Run a round with TRL in this process, and return the number of trained pairs."""
    sys.path.insert(0, str(ROOT / "workflow/scripts"))
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    from prefloop.feedback.lexicons import vader
    from prefloop.models.devices import resolve_dtype

    torch.manual_seed(0)
    dtype = resolve_dtype("auto", "cuda" if torch.cuda.is_available() else "cpu")
    texts = [json.loads(line)["prompt"] for line in (ROOT / "workflow/prompts/instructions.jsonl").open()][:pairs]
    trainer = OnlineDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=dtype, trust_remote_code=False),
        reward_funcs=lambda prompts, completions, **_: vader(
            prompts, [text_of(completion) for completion in completions]
        ),
        args=OnlineDPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=RATE,
            max_new_tokens=TOKENS,
            temperature=0.9,
            bf16=dtype == torch.bfloat16,
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            save_strategy="no",
            **({"gradient_checkpointing": False} if best else {}),
        ),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts]),
        processing_class=AutoTokenizer.from_pretrained(manifest.parent, trust_remote_code=False, padding_side="left"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    return len(texts)


def text_of(completion: str | list[dict]) -> str:
    return completion if isinstance(completion, str) else completion[0]["content"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="prefloop first")
    parser.add_argument("--trl", choices=["default", "best"], help="one run of TRL in this process")
    args = parser.parse_args()
    if args.trl:
        run_trl(args.manifest, args.pairs, args.trl == "best")
        return
    from measuring import machine, ratios, spread
    from overhead import workdir

    folder = workdir(Path(tempfile.mkdtemp()))
    (folder / "config.yaml").unlink()
    defaults = yaml.safe_load((ROOT / "config.yaml").read_text())
    sections = config(args.pairs, args.manifest.resolve())
    merged = {
        k: v | sections[k] if isinstance(v, dict) and k in sections else sections.get(k, v) for k, v in defaults.items()
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(merged))
    trained = run_prefloop(folder)  # and the clusters, which are kept
    command = [sys.executable, __file__, str(args.manifest), "--pairs", str(args.pairs), "--trl"]
    runs_of = {
        "prefloop": lambda: run_prefloop(folder),
        "TRL": lambda: subprocess.run([*command, "default"], check=True, capture_output=True),
        "TRL best": lambda: subprocess.run([*command, "best"], check=True, capture_output=True),
    }
    taken: dict[str, list[float]] = {name: [] for name in args.ways}
    for _ in range(args.repeats):
        for name in args.ways:
            start = time.perf_counter()
            runs_of[name]()
            taken[name].append(time.perf_counter() - start)
            print(f"{name}: {taken[name][-1]:.1f} s", file=sys.stderr, flush=True)
    print(f"{machine()}\n\n| way | prompts | pairs trained | seconds per round | times ours | per pair |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, runs in taken.items():
        count = trained if name == "prefloop" else args.pairs
        per_pair = ratios([s / trained for s in taken["prefloop"]], [s / count for s in runs])
        cells = [
            name,
            str(args.pairs),
            str(count),
            spread(runs, 1),
            spread(ratios(taken["prefloop"], runs)),
            spread(per_pair),
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
