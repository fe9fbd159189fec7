"""Flags of figures and tables that depend on the config, for the rules and for redrawing from a rows folder.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from prefloop.config import outputs
from prefloop.config.declarations import inner, relevant
from prefloop.config.evaluator_measures import split_measure
from prefloop.config.resolve import of_method, target_measure
from prefloop.config.settings import ExperimentConfig
from prefloop.config.sweeps import sweep_places
from prefloop.core.registry import registry_words

AT_RANDOM = registry_words("methods.bandit.AT_RANDOM")


def measures_divergence(config: dict) -> bool:
    """Whether KL from the initial policy is measured, which figure `frontier` needs."""
    return "frontier" in config["figures"]


def measures_perplexity(config: dict) -> bool:
    """Whether the perplexity of plain text is measured."""
    return config["evaluation"]["perplexity"]["text"] is not None and bool(config["compare"])


def shown_evaluators(program: str, config: dict, evaluators: Sequence[str]) -> tuple[str, ...]:
    """Return the named evaluators that a program shows.

    Args:
        program: Name of the program without its folder, such as plot_quality.
        config: The experiment's config.
        evaluators: Names of the evaluators.
    """
    if program in ("tabulate_cost_to_reach", "write_pilot"):  # these have one measure
        measured, _ = split_measure(target_measure(config))
        return tuple(name for name in evaluators if name == measured)
    verb, _, name = program.partition("_")
    known = outputs.FIGURES if verb == "plot" else outputs.TABLES | outputs.OF_JUDGES | outputs.OF_VALIDATION
    reads_all = program in ("describe_run", "write_rows")
    is_users = verb == "plot" and name not in known  # a function of the user
    return tuple(evaluators) if reads_all or is_users or (name in known and known[name].evaluators) else ()


def section_of(config: dict, section: str, method: str | None = None) -> dict:
    """Return a config section of a method, without settings that its other settings make irrelevant."""
    return relevant(of_method(config, method)[section], inner(ExperimentConfig, section))


def has_own_clusters(config: dict, method: str | None) -> bool:
    """Whether a method's prompts have their own clusters, because its settings differ from the shared ones."""
    return section_of(config, "clusters", method) != section_of(config, "clusters")


def cluster_tables(config: dict) -> list[str]:
    """Return the clusters.csv of every method, relative to the experiment's folder."""
    methods = config["compare"]
    return [f"{method}/clusters.csv" if has_own_clusters(config, method) else "clusters.csv" for method in methods]


def gradients_file(config: dict, root: str) -> str:
    """Return the file of figure `gradients`: pairs of the last round of the first method and seed."""
    return f"{root}/{config['compare'][0]}/seed-{config['seeds'][0]}/round-{config['rounds']}/gradients.jsonl"


def output_flags(config: dict, root: str, shared_costs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the flags of figures and tables in addition to those of the experiment, by program.

    Args:
        config: The experiment's config.
        root: The experiment's folder, or a rows folder.
        shared_costs: Cost files of stages that methods share.
    """
    divergence, text = measures_divergence(config), config["evaluation"]["perplexity"]["text"]
    methods = config["compare"]
    at_random = [method for method in methods if section_of(config, "bandit", method)["allocation"] in AT_RANDOM]
    deltas = {section_of(config, "train", method).get("beta_risk", {}).get("delta") for method in methods}
    return {
        "plot_quality": {"divergence": divergence},
        "plot_sweep": {"points": sweep_places(config)},
        "plot_perplexity": {"text": text},
        "plot_cluster_counts": {"at_random": at_random},
        "plot_benchmark": {"label": config["evaluation"]["benchmark"]["label"]},
        "plot_betas": {"delta": sorted(deltas - {None})},
        "plot_prompts": {"clusters": [f"{root}/{path}" for path in cluster_tables(config)]},
        "plot_gradients": {"gradients": gradients_file(config, root) if methods else None},
        "plot_cluster_wins": {"clusters": f"{root}/clusters_eval.csv"},
        "tabulate_results": {"divergence": divergence, "text": text},
        "tabulate_best_round": config["evaluation"]["validation"] | {"measure": target_measure(config, "validation")},
        "tabulate_cost_to_reach": {
            "measure": target_measure(config),
            "target": config["evaluation"]["target"]["value"],
        },
        "tabulate_costs": {
            "shared": list(shared_costs),
            "divergence": divergence,
            "perplexity": measures_perplexity(config) or None,
        },
    }
