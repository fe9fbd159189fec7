"""What the card of an exported model says: where it comes from, what it cost and what it reached."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import yaml

from prefloop.config import HUB_ID, shown
from prefloop.rows import read_json, sha256_of
from prefloop.tables import in_markdown


def front_matter(readme: Path) -> dict:
    """The YAML between --- lines that a model card of the hub begins with; empty where there is none."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|\Z)", text, re.DOTALL)
    try:
        found = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:  # somebody else's card, of which only the licence is wanted
        found = {}
    return found if isinstance(found, dict) else {}


def licence_of(manifest: Path, named: str | None) -> str | None:
    """The licence that config names, or else the base model's own card; None if neither does."""
    found = named or front_matter(Path(manifest).parent / "README.md").get("license")
    return str(found) if found else None


def header(source: str, licence: str | None) -> str:
    """The front matter of a card, in the hub's words; `source` is what the base model was fetched from."""
    known = {"base_model": source if HUB_ID.fullmatch(source) and not Path(source).exists() else None}
    known |= {"license": licence, "library_name": "transformers", "pipeline_tag": "text-generation"}
    known |= {"tags": ["prefloop", "online-preference-alignment"]}
    return f"---\n{yaml.safe_dump({k: v for k, v in known.items() if v}, sort_keys=False)}---"


def lineage(base: Path, tuned: Path, runs: Sequence[tuple[Path, Path]]) -> list[str]:
    """The policies that led to an exported one, oldest first, as lines of a list with their checksums.

    `base` is the fetched model's manifest, `tuned` that of the initial policy, the same where there was no
    fine-tuning; `runs` are policy.pt and the pairs it was trained on, of every round.
    """
    lines = [f"base model {shown(read_json(base)['source'])}, files {read_json(base)['sha256']}"]
    if tuned != base:
        lines.append(f"fine-tuned on chosen responses, files {read_json(tuned)['sha256']}")
    for number, (policy, pairs) in enumerate(runs, start=1):
        lines.append(f"round {number}: policy.pt {sha256_of(policy)}, trained on pairs.jsonl {sha256_of(pairs)}")
    return [f"{place}. {line}" for place, line in enumerate(lines, start=1)]


def ledger(costs: Iterable[Path]) -> pd.DataFrame:
    """What stages cost in sum: stage, runs, tokens read and generated, TFLOP, seconds."""
    table = pd.DataFrame([read_json(path) for path in costs]).assign(runs=1)
    sums = table.groupby("stage", sort=False)[["runs", "tokens_in", "tokens_out", "flops", "seconds"]].sum()
    sums.loc["all"] = sums.sum()
    sums = sums.astype({"runs": int, "tokens_in": int, "tokens_out": int}).reset_index()
    sums["flops"] /= 1e12
    return sums.rename(columns={"tokens_in": "tokens read", "tokens_out": "tokens generated", "flops": "TFLOP"})


def results_of(table: Path, methods: Sequence[str]) -> str:
    """The rows of these methods in a table of results as Markdown, with its caption; empty if it has none of them."""
    data = pd.read_csv(table)
    data = data[data["method"].isin(methods)]
    caption = table.with_suffix(".rst").read_text(encoding="utf-8").strip()
    return f"{in_markdown(data)}\n\n{caption}" if len(data) else ""


def public(value):
    """A config's value with every path from the root or home cut to its last part."""
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [public(item) for item in value]
    return shown(value) if isinstance(value, str) else value
