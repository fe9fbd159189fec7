"""Write the card of an exported model."""

import json
from pathlib import Path

import yaml

from _program import run
from prefloop.core.files import atomic_write, sha256_of
from prefloop.core.progress import Summary
from prefloop.report.captions import count_of
from prefloop.report.cards import code_block, cost_sums, header, license_of, lineage, public, results_of
from prefloop.report.tables import in_markdown, in_plain_markdown


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
    start: Path | None = None,
    license: str | None = None,
    card: Path,
) -> Summary:
    """Write README.md for the hub: base model and license, settings, data, policies, cost and results.

    The card does not show folders outside the project.

    Args:
        title: Name of the model.
        method: The method's name in tables.
        settings: The method's config as JSON.
        model: Manifest of the initial policy.
        base: Manifest of the fetched model.
        prompts: Training and eval prompts.
        policies: policy.pt of every round up to the exported one.
        pairs: The pairs on which each policy was trained.
        costs: Costs of all stages that led to the policy.
        tables: Tables with results of this policy.
        start: policy.pt of another run from which the first round started.
        license: License of the exported model; by default that on the base model's card.
        card: Output path for README.md.
    """
    terms = license_of(base, license)
    names = in_plain_markdown(", ".join(map(str, terms.values())))
    found = [text for text in (results_of(table, ["initial", method]) for table in tables) if text]
    parts = [
        header(base, terms),
        f"# {title}",
        "A language model aligned with online preferences by [Snakemake](https://snakemake.github.io) and prefloop, "
        "adapters merged in float32. It answers in the chat template next to its tokenizer.",
        f"License: {names}." if names else "License: unknown; see the base model's card.",
        "## Policies",
        "\n".join(lineage(base, model, list(zip(policies, pairs, strict=True)), start)),
        "## Data",
        "\n".join(f"* {path.name}: SHA-256 {sha256_of(path)}" for path in prompts),
        "## Settings",
        code_block(yaml.safe_dump(public(json.loads(settings)), allow_unicode=True)),
        "## Cost",
        in_markdown(cost_sums(costs)),
        *(["## Results", "The method's results over all its seeds, after the last round.", *found] if found else []),
    ]
    with atomic_write(card) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return Summary(f"{count_of(len(found), 'table')} -> {card}")


run(main)
