"""Figures and tables drawn from the rows of a finished run equal those of the run, byte by byte."""

import subprocess
import sys

from conftest import ROOT, Workdir
from prefloop.config.outputs import TABLES
from prefloop.config.recorded_settings import read_settings
from prefloop.evaluation.merged_rows import merged_seeds
from prefloop.evaluation.paired_experiments import check_comparable


def files_below(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_redrawn_figures_and_tables_equal_those_of_the_run(finished: Workdir, copy_of, tmp_path):
    """They are drawn from merged rows of one run after the run is deleted."""
    directory = copy_of(finished)
    directory.configure(figures=["learning_curves", "quality", "differences", "perplexity", "tabular"])
    directory.configure(evaluation={"evaluators": {"letters": {"function": "rewards:vowels"}}})
    plain = {"text": "packaged", "max_tokens": 128}
    directory.configure(evaluation={"perplexity": plain, "validation": {"fraction": 0.5}})
    done = directory.run("all", "rows", "pilot")
    assert done.returncode == 0, done.stdout
    assert directory.jobs("rows") == set()
    results, moved = directory.path / "results/tiny", tmp_path / "elsewhere"
    drawn = files_below(results / "figures") | files_below(results / "tables")
    facts = {name: (results / name).read_bytes() for name in ("run.rst", "pilot.csv")}
    check_comparable(read_settings(results), read_settings(results / "rows"))
    assert merged_seeds(results / "rows", moved / "rows") == ([0], [])
    assert files_below(moved / "rows") == files_below(results / "rows")
    for path in (directory.path / "results", directory.path / "rewards.py"):
        path.rename(tmp_path / f"gone-{path.name}")
    program = ROOT / "workflow/scripts/redraw.py"
    (moved / "tiny.yaml").write_text("# Which method is better?\nname: tiny\n")
    command = [sys.executable, program, "--rows", "rows", "--output", "redrawn", "--page", "page.md"]
    done = subprocess.run([*command, "--config", "tiny.yaml"], cwd=moved, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    config = read_settings(moved / "rows").config
    figures, tables = {"learning_curves", "quality", "differences", "perplexity"}, set(config["tables"])
    assert {"results", "differences", "costs"} <= tables and all(TABLES[name].from_rows for name in tables)
    tables.add("best_round")
    redrawn = files_below(moved / "redrawn/figures") | files_below(moved / "redrawn/tables")
    assert {name.split(".")[0] for name in redrawn} == figures | tables
    assert {name: drawn[name] for name in redrawn} == redrawn
    assert {name: (moved / "redrawn" / name).read_bytes() for name in facts} == facts
    page = (moved / "page.md").read_text()
    assert page.startswith("# page\n\nWhich method is better?\n\n* ")
    pictures = [page.index(f"](page/{name}.png)") for name in config["figures"] if name in figures]
    assert pictures == sorted(pictures) and all(f"](page/{name}.csv)" in page for name in tables)
    assert done.stdout.startswith("redraw: rows are not enough for tabular\n")


def test_redrawing_a_folder_without_rows_prints_one_line(tmp_path):
    program = ROOT / "workflow/scripts/redraw.py"
    command = [sys.executable, program, "--rows", tmp_path, "--output", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: {tmp_path}: no rows; `snakemake --cores all rows` writes results/<name>/rows"
