"""Checks that the lengths in a config fit the positions of the policy's model, if its config.json is on this machine.

Snakemake imports this module at every start, so it imports nothing heavy. Stages check the lengths of real prompts
(`prefloop.models.positions`).
"""

from pathlib import Path

from prefloop.config.resolve import of_method
from prefloop.core.errors import InputError
from prefloop.core.files import read_json
from prefloop.models.sources import model_name


def beyond_positions(config: dict) -> list[str]:
    """Return one line per maximum length that leaves no position for a prompt."""
    limit = known_positions(config["policy"]["model"]) if config["compare"] else None
    if limit is None:
        return []
    lengths = [("evaluation.max_new_tokens", config["evaluation"]["max_new_tokens"])]
    for method in config["compare"]:
        generation = of_method(config, method)["generation"]
        if generation["sampler"] != "dataset":
            lengths.append(("generation.max_new_tokens", generation["max_new_tokens"]))
    perplexity = config["evaluation"]["perplexity"]
    problems = []
    if perplexity["text"] is not None and perplexity["max_tokens"] > limit:
        size = perplexity["max_tokens"]
        problems.append(f"evaluation.perplexity.max_tokens: {size}, but policy.model has {limit} positions; lower it")
    return problems + [
        f"{key}: {length}, but policy.model has {limit} positions for a prompt and its response; lower it"
        for key, length in dict.fromkeys(lengths)
        if length >= limit
    ]


def known_positions(source: str) -> int | None:
    """Return the positions of a local or fetched model; None if they are unknown or if rotary positions are scaled."""
    folder = Path(source) if Path(source).is_dir() else Path("results/models", model_name(source))
    if not (folder / "config.json").is_file():
        return None
    try:
        config = read_json(folder / "config.json")
    except InputError:  # fetch_model reports the error
        return None
    text = config.get("text_config", config)
    rope = isinstance(text, dict) and (text.get("rope_parameters") or text.get("rope_scaling") or {})
    if not isinstance(text, dict) or not isinstance(rope, dict) or "factor" in rope:
        return None
    limit = text.get("max_position_embeddings", text.get("n_positions"))
    return limit if type(limit) is int else None
