"""Training of reward models on preference pairs with a planted rule: the pairs, the program, and a base model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from conftest import ROOT
from conversations import asks
from prefloop.core.jsonl import write_rows


def letters(rng: np.random.Generator, z: int) -> str:
    """Return 5 to 18 random letters, of which `z` are the letter z."""
    text = rng.choice(list("abcdefghij"), rng.integers(5, 19))
    text[rng.permutation(len(text))[:z]] = "z"
    return "".join(text)


def planted(count: int, seed: int = 0) -> list[dict]:
    """Return pairs whose chosen response has more letters z, independent of the lengths."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        fewer, more = sorted(rng.permutation(6)[:2])
        row = {"messages": asks(f"{letters(rng, 0)} {number}")}
        rows.append(row | {"chosen": letters(rng, more), "rejected": letters(rng, fewer)})
    return rows


def command(folder: Path, base: Path, rows: list[dict], *flags: str) -> list[str]:
    """Write pairs to a file as a user would; return the program and its flags."""
    write_rows(
        folder / "pairs.jsonl",
        [{"prompt": row["messages"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in rows],
    )
    files = {"source": "pairs.jsonl", "packaged": "absent.jsonl", "manifest": "out/manifest.json"}
    files |= {"report": "report.json", "metrics": "training.jsonl", "speed": "speed.csv", "cost": "cost.json"}
    given = [text for name, value in files.items() for text in (f"--{name}", value)]
    program = str(ROOT / "workflow/scripts/train_reward_model.py")
    return [program, "--base", str(base), *given, "--dtype", "float32", "--lora.r", "4", *flags]


def run_program(folder: Path, *given) -> subprocess.CompletedProcess:
    words, environment = [sys.executable, *command(folder, *given)], os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def without_padding(folder: Path, original: Path) -> Path:
    """Copy a fetched model without its padding token; return the manifest."""
    folder.mkdir()
    for file in original.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        settings.pop("pad_token", None), settings.pop("pad_token_id", None)
        (folder / name).write_text(json.dumps(settings))
    return folder / "manifest.json"
