"""Draw the figures and tables of an experiment from its rows, without the run."""

import os
import shlex
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from _program import run
from prefloop.config import outputs
from prefloop.config.output_flags import output_flags, shown_evaluators
from prefloop.config.outputs_of_rows import TABLES, drawable, evaluates_rounds, listed_figures, listed_tables
from prefloop.config.recorded_settings import RecordedExperiment, read_settings
from prefloop.config.resolve import flags, target_measure
from prefloop.core.errors import InputError
from prefloop.core.progress import Summary
from prefloop.evaluation.figure_rows import has_figure_files
from prefloop.evaluation.result_files import rows_folder_of, stored_index
from prefloop.report.captions import count_of

SCRIPTS = Path(__file__).parent


def main(
    *,
    rows: Path,
    output: Path,
    figures: tuple[str, ...] = (),
    tables: tuple[str, ...] = (),
    page: Path | None = None,
    config: Path | None = None,
) -> Summary:
    """Run the workflow's programs on a folder of rows, for figures, tables, the run's facts and a pilot.

    Args:
        rows: A folder of rows: results/<name>/rows, or one to which `merge_rows` has added seeds.
        output: Folder for figures/, tables/, run.rst and pilot.csv.
        figures: Figures to draw; by default all figures of the config that can be drawn from these rows.
        tables: Tables to write; by default all tables of the config that can be written from rows.
        page: A page of the documentation with these figures and tables (make_gallery.py); by default none.
        config: The experiment's config, whose first comment is the introduction of `page`.
    """
    if (page is None) != (config is None):
        raise InputError("page and config: give both or none")
    if page is not None and page.suffix != ".md":
        raise InputError(f"page: {page}, expected a file .md")
    if rows_folder_of(rows) != rows:
        raise InputError(f"{rows}: no rows; `snakemake --cores all rows` writes results/<name>/rows")
    recorded = read_settings(rows)
    own = output_flags(recorded.config, str(rows), [str(rows / path) for path in stored_index(rows)["shared_costs"]])
    own["tabulate_reward_models"] = {"reports": sorted(map(str, rows.glob("reward_models/*.report.json")))}
    known_figures = [n for n in outputs.FIGURES if has_figure_files(recorded.experiment, recorded.config, n)]
    known_tables = [name for name, reads in TABLES.items() if reads.from_rows]
    wanted = {
        "figure": drawable("figure", known_figures, figures, listed_figures(recorded)),
        "table": drawable("table", known_tables, tables, listed_tables(recorded)),
    }
    paths: dict[str, list[Path]] = {}
    for kind, names in wanted.items():
        verb, suffix = {"figure": ("plot", "pdf"), "table": ("tabulate", "csv")}[kind]
        paths[kind] = [output / f"{kind}s/{name}.{suffix}" for name in names]
        for name, path in zip(names, paths[kind], strict=True):
            program = f"{verb}_{name}"
            run_on_rows(f"{kind}s/{program}", recorded, own.get(program, {}) | {kind: str(path)})
    run_on_rows("describe_run", recorded, {"output": str(output / "run.rst"), "evaluated": evaluates_rounds(recorded)})
    measure = target_measure(recorded.config)
    run_on_rows("write_pilot", recorded, {"measure": measure, "output": str(output / "pilot.csv")})
    if page:
        pictures = [path.with_suffix(".png") for path in paths["figure"]]
        parts = {"config": config, "page": page, "facts": output / "run.rst"}
        parts |= {"figures": pictures, "tables": paths["table"]}
        run_program("make_gallery", parts)
    seeds = count_of(len(recorded.experiment.seeds), "seed")
    return Summary(f"{len(wanted['figure'])} figures and {len(wanted['table'])} tables of {seeds} -> {output}")


def run_on_rows(name: str, recorded: RecordedExperiment, more: dict) -> None:
    """Run a program of the workflow with the flags of the experiment and `more` flags."""
    if "reports" not in more:  # the table of reward models reads no runs
        experiment = recorded.experiment
        identities = dict(zip(experiment.evaluators, experiment.evaluated_by, strict=True))
        shown = shown_evaluators(name.rpartition("/")[2], recorded.config, experiment.evaluators)
        experiment = replace(experiment, evaluators=shown, evaluated_by=tuple(identities[name] for name in shown))
        more = asdict(experiment) | more
    run_program(name, more)


def run_program(name: str, settings: dict) -> None:
    """Run a program of the workflow with `settings` as flags, and print what it prints."""
    command = [sys.executable, SCRIPTS / f"{name}.py", *shlex.split(flags(settings))]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"ended with exit status {done.returncode}"]
        raise InputError(f"{name}: {lines[-1].removeprefix('error: ')}")
    print(done.stdout, end="")


run(main)
