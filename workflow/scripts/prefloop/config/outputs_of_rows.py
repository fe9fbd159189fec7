"""Which figures and tables of an experiment can be drawn from its rows."""

from collections.abc import Iterable

from prefloop.config import outputs
from prefloop.config.recorded_settings import RecordedExperiment
from prefloop.config.resolve import asks_judge, trained_here
from prefloop.core.errors import InputError

TABLES = outputs.TABLES | outputs.OF_JUDGES | outputs.OF_VALIDATION


def listed_figures(recorded: RecordedExperiment) -> list[str]:
    """The figures of the config; a single method has no figure of differences."""
    several = len(recorded.experiment.methods) > 1
    return [name for name in recorded.config["figures"] if several or name != "differences"]


def listed_tables(recorded: RecordedExperiment) -> list[str]:
    """The tables of the config, and those of judges, reward models and best rounds if the config asks for them."""
    several = len(recorded.experiment.methods) > 1
    tables = [name for name in recorded.config["tables"] if several or name != "differences"]
    chosen = recorded.config["evaluation"]["validation"]["fraction"] is not None
    models = ["reward_models"] * bool(trained_here(recorded.config))
    return [*tables, *["judges"] * asks_judge(recorded.config), *models, *["best_round"] * chosen]


def evaluates_rounds(recorded: RecordedExperiment) -> bool:
    """Whether a listed figure or table shows the evaluation of every round."""
    known = outputs.FIGURES | TABLES
    listed = known.keys() & {*listed_figures(recorded), *listed_tables(recorded)}
    return any(known[name].judgments == "by_round" for name in listed)


def drawable(kind: str, possible: Iterable[str], named: tuple[str, ...], listed: list[str]) -> list[str]:
    """The named outputs or, without names, the listed ones that can be drawn from rows; the others are printed.

    Args:
        kind: Figure or table, for messages.
        possible: Outputs that can be drawn.
        named: Names from the command line.
        listed: Names from the config.

    Raises:
        InputError: A named output cannot be drawn.
    """
    possible = list(possible)
    if wrong := [name for name in named if name not in possible]:
        raise InputError(f"{kind} {wrong[0]}: not drawn from these rows, expected {', '.join(possible)}")
    if left_out := [name for name in listed if not named and name not in possible]:
        print(f"redraw: rows are not enough for {', '.join(left_out)}")
    return list(named) or [name for name in listed if name in possible]
