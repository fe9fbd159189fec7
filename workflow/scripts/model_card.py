"""Write the card of an exported model."""

import json
from pathlib import Path

import yaml

from _program import run
from prefloop.cards import header, ledger, licence_of, lineage, public, results_of
from prefloop.progress import Summary
from prefloop.rows import read_json, sha256_of, whole
from prefloop.tables import in_markdown


def main(
    *,
    title: str,
    method: str,
    settings: str,
    model: Path,
    base: Path,
    prompts: tuple[Path, ...],
    policies: tuple[Path, ...],
    pairs: tuple[Path, ...],
    costs: tuple[Path, ...],
    tables: tuple[Path, ...] = (),
    licence: str | None = None,
    card: Path,
) -> Summary:
    """Write README.md, as the hub shows it: base model and licence, settings, data, policies, cost and results.

    Nothing in it names a folder outside the project.

    Args:
        title: What the model is called.
        method: The method it was trained by, as tables name it.
        settings: The config as the method has it, as JSON.
        model: Manifest of the initial policy.
        base: Manifest of the model as it was fetched.
        prompts: Prompts of training and of evaluation.
        policies: policy.pt of every round up to the exported one.
        pairs: The pairs that each of them was trained on.
        costs: Costs of all that led to the policy.
        tables: Tables of results that speak of this policy.
        licence: Licence of the exported model; that of the base model's card if not given.
        card: Where README.md goes.
    """
    source, licence = read_json(base)["source"], licence_of(base, licence)
    found = [text for text in (results_of(table, ["initial", method]) for table in tables) if text]
    parts = [
        header(source, licence),
        f"# {title}",
        "A language model aligned with online preferences by [Snakemake](https://snakemake.github.io) and prefloop, "
        "adapters merged in float32. It answers in the chat template that stands beside its tokenizer.",
        f"Licence: {licence}." if licence else "Licence: not known here; see the base model's.",
        "## Policies",
        "\n".join(lineage(base, model, list(zip(policies, pairs, strict=True)))),
        "## Data",
        "\n".join(f"* {path.name}: SHA-256 {sha256_of(path)}" for path in prompts),
        "## Settings",
        f"```yaml\n{yaml.safe_dump(public(json.loads(settings)), allow_unicode=True)}```",
        "## Cost",
        in_markdown(ledger(costs)),
        *(["## Results", "Of the method over all its seeds, after the last round.", *found] if found else []),
    ]
    with whole(card) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return Summary(f"{len(found)} tables -> {card}")


run(main)
