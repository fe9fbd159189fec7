"""A short summary of an experiment, from its config: methods, seeds, rounds, labels and outputs."""

from collections.abc import Sequence

from prefloop.config.acquisition_checks import labels_per_prompt
from prefloop.config.judge_checks import pairs_per_prompt
from prefloop.config.resolve import of_method
from prefloop.report.captions import count_of


def planned_labels(settings: dict) -> int | None:
    """Number of labels that one run of a method requests, counted as in `count_labels`; None if it annotates all
    prompts.

    For a judge, each question is a label. With judge.pairs best_worst_tournament the number is an upper bound.

    Args:
        settings: The config of the method, from `of_method`.
    """
    if settings["bandit"]["allocation"] == "all":
        return None
    prompts = settings["bandit"]["budget"] * settings["steps"] * settings["rounds"]
    if settings["generation"]["sampler"] == "dataset":
        return 2 * prompts
    if settings["feedback"]["kind"] == "judge":
        return 2 * pairs_per_prompt(settings) * prompts
    return labels_per_prompt(settings) * prompts


def plan_summary(config: dict, figures: Sequence[str], tables: Sequence[str]) -> str:
    """Describe what an experiment runs and which outputs it writes.

    Args:
        config: The checked config, with all defaults.
        figures: Names of the figures.
        tables: Names of the tables.
    """
    name, methods, seeds = config["name"], config["compare"], config["seeds"]
    lines = []
    if methods:
        runs = f"{count_of(len(methods), 'method')} x {count_of(len(seeds), 'seed')} ({', '.join(map(str, seeds))})"
        lines.append(f"{name}: {runs} x {count_of(config['rounds'], 'round')}")
        width = max(map(len, ["method", *methods]))
        lines.append(f"{'method':{width}}  {'steps':>6}  {'prompts':>8}  {'labels':>8}  per run")
        for method in methods:
            settings = of_method(config, method)
            labels, steps = planned_labels(settings), config["rounds"] * config["steps"]
            prompts = "all" if labels is None else f"{settings['bandit']['budget'] * steps:,}"
            count = "all" if labels is None else f"{labels:,}"
            lines.append(f"{method:{width}}  {steps:>6,}  {prompts:>8}  {count:>8}")
    else:
        lines.append(f"{name}: no methods")
    lines += [f"{kind}: {', '.join(names)}" for kind, names in [("figures", figures), ("tables", tables)] if names]
    lines.append(f"outputs: results/{name}/; `snakemake -n -p` lists every job with its reason and command")
    return "\n".join(lines)
