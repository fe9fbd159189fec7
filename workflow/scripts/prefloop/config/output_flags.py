"""Flags of figures and tables that follow from the config, for the rules and for drawing from a rows folder.

Snakemake reads this at every start, so nothing heavy is imported here.
"""

from collections.abc import Iterable
from typing import Any

from prefloop.config.resolve import target_measure
from prefloop.config.sweeps import sweep_places


def measures_divergence(config: dict) -> bool:
    """Whether KL from the initial policy is measured, as figure `frontier` needs it."""
    return "frontier" in config["figures"]


def output_flags(config: dict, shared_costs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Flags of programs that figures and tables have in addition to those of the experiment, by program.

    Args:
        config: The experiment's config.
        shared_costs: Cost files of stages that methods share.
    """
    divergence = measures_divergence(config)
    return {
        "plot_quality": {"divergence": divergence},
        "plot_sweep": {"points": sweep_places(config)},
        "tabulate_results": {"divergence": divergence},
        "tabulate_cost_to_reach": {
            "measure": target_measure(config),
            "target": config["evaluation"]["target"]["value"],
        },
        "tabulate_costs": {"shared": list(shared_costs), "divergence": divergence},
    }
