"""Which figures and tables of an experiment can be drawn from its rows."""

from prefloop.config import outputs
from prefloop.config.recorded_settings import RecordedExperiment
from prefloop.config.resolve import asks_judge
from prefloop.core.errors import InputError

TABLES = outputs.TABLES | outputs.OF_JUDGES | outputs.OF_VALIDATION


def listed_figures(recorded: RecordedExperiment) -> list[str]:
    """The figures of the config; a single method has no figure of differences."""
    several = len(recorded.experiment.methods) > 1
    return [name for name in recorded.config["figures"] if several or name != "differences"]


def listed_tables(recorded: RecordedExperiment) -> list[str]:
    """The tables of the config, and those of judges and of the best rounds if the config asks for them."""
    several = len(recorded.experiment.methods) > 1
    tables = [name for name in recorded.config["tables"] if several or name != "differences"]
    chosen = recorded.config["evaluation"]["validation"]["fraction"] is not None
    return [*tables, *["judges"] * asks_judge(recorded.config), *["best_round"] * chosen]


def drawable(known: dict[str, outputs.Output], named: tuple[str, ...], listed: list[str]) -> list[str]:
    """The named outputs or, without names, the listed ones that can be drawn from rows; the others are printed."""
    possible = [name for name, reads in known.items() if reads.from_rows]
    if wrong := [name for name in named if name not in possible]:
        raise InputError(f"{wrong[0]}: not drawn from rows, expected {', '.join(possible)}")
    if left_out := [name for name in listed if not named and name not in possible]:
        print(f"redraw: rows are not enough for {', '.join(left_out)}")
    return list(named) or [name for name in listed if name in possible]
