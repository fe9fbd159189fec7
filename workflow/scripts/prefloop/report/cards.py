"""The card of an exported model: its origin, its cost and its results."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from prefloop.core.csv_files import read_frame
from prefloop.core.files import read_json, sha256_of
from prefloop.models.manifests import read_manifest
from prefloop.models.model_cards import LICENSE_KEYS
from prefloop.models.sources import hub_model, public_name
from prefloop.report.captions import read_caption
from prefloop.report.tables import in_markdown, in_plain_markdown


def license_of(manifest: Path, named: str | None) -> dict[str, str]:
    """The license from the config, or else from the base model's card, with the hub's keys; empty without both."""
    content = read_json(manifest)
    return {"license": named} if named else {key: content[key] for key in LICENSE_KEYS if key in content}


def header(manifest: Path, license: dict[str, str]) -> str:
    """The front matter of a card, with the hub's keys; `manifest` belongs to the fetched base model."""
    source = read_manifest(manifest, "source")["source"]
    hub = None if Path(source).exists() else hub_model(source)
    fields: dict[str, Any] = {"base_model": hub.repository if hub else None} | license
    fields |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    fields |= {"tags": ["prefloop", "online-preference-alignment"]}
    return f"---\n{yaml.safe_dump({k: v for k, v in fields.items() if v}, sort_keys=False)}---"


def lineage(base: Path, tuned: Path, runs: Sequence[tuple[Path, Path]], start: Path | None = None) -> list[str]:
    """The policies that led to an exported policy, oldest first, as lines of a list with their checksums.

    Args:
        base: Manifest of the fetched model.
        tuned: Manifest of the model that policies are trained on; equal to `base` without fine-tuning.
        runs: For each round, the policy.pt and the pairs on which it was trained.
        start: The policy.pt of another run from which the runs started.
    """
    content = read_manifest(base, "source", "sha256")
    commit = f", commit {content['commit']}" if "commit" in content else ""
    lines = [f"base model {public_name(content['source'])}{commit}, files {content['sha256']}"]
    if tuned != base:
        lines.append(f"fine-tuned on chosen responses, files {read_manifest(tuned, 'sha256')['sha256']}")
    if start is not None:
        lines.append(f"policy.pt of another run {sha256_of(start)}, whose settings and costs are not on this card")
    for round_index, (policy, pairs) in enumerate(runs, start=1):
        lines.append(f"round {round_index}: policy.pt {sha256_of(policy)}, trained on {pairs.name} {sha256_of(pairs)}")
    return [f"{index}. {in_plain_markdown(line)}" for index, line in enumerate(lines, start=1)]


def cost_sums(costs: Iterable[Path]) -> pd.DataFrame:
    """Sums of costs by stage: stage, runs, tokens read and generated, TFLOPs, seconds."""
    table = pd.DataFrame([read_json(path) for path in costs]).assign(runs=1)
    sums = table.groupby("stage", sort=False)[["runs", "tokens_in", "tokens_out", "flops", "seconds"]].sum()
    sums.loc["all"] = sums.sum()
    sums = sums.astype({"runs": int, "tokens_in": int, "tokens_out": int}).reset_index()
    sums["flops"] /= 1e12
    return sums.rename(columns={"tokens_in": "tokens read", "tokens_out": "tokens generated", "flops": "TFLOPs"})


def results_of(table: Path, methods: Sequence[str]) -> str:
    """The rows of these methods in a table of results, as Markdown with its caption; empty without such rows."""
    data = read_frame(table)
    data = data[data["method"].isin(methods)]
    return f"{in_markdown(data)}\n\n{read_caption(table.with_suffix('.rst'))}" if len(data) else ""


def code_block(text: str) -> str:
    """Text as a block of YAML in a Markdown page; the fence is longer than any fence in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"


def public(value: Any) -> Any:
    """A config's value, in which every absolute or home path is reduced to its last part."""
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [public(item) for item in value]
    return public_name(value) if isinstance(value, str) else value
