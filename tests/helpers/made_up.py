"""Made-up experiments for tests of figures and tables, whose programs run with the flags that rules pass."""

import runpy
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from prefloop.config.experiment import Experiment
from prefloop.config.resolve import flags
from prefloop.core.files import write_json

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"


def experiment_in(root: Path, **changes) -> Experiment:
    """Return an experiment with cost files but no rows; by default one run with one round and one step."""
    usual = {"methods": ("only",), "seeds": (0,), "rounds": 1, "steps": 1}
    experiment = Experiment(root=root, **(usual | changes))
    for _, folder in experiment.folders():
        write_json(folder / "train.cost.json", {"stage": "train", "tokens_out": 0, "flops": 1e12})
    for _, folder in experiment.step_folders():
        for stage in ("generate", "reward", "logprobs"):
            write_json(folder / f"{stage}.cost.json", {"stage": stage, "tokens_out": 100, "flops": 1e12})
    return experiment


def drawn(program: str, experiment: Experiment, *more: str) -> tuple[pd.DataFrame, str]:
    """Run plot_<word> or tabulate_<word>, with further flags `more`, and return its CSV and its caption."""
    verb, word = program.split("_", maxsplit=1)
    kind = {"plot": "figure", "tabulate": "table"}[verb]
    path = experiment.root / f"{kind}s/{word}.{'pdf' if kind == 'figure' else 'csv'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        patch.setattr(sys, "argv", [program, *shlex.split(flags(asdict(experiment))), *more, f"--{kind}", str(path)])
        runpy.run_path(str(SCRIPTS / f"{kind}s/{program}.py"), run_name="__main__")
    suffixes = ("pdf", "svg", "png") if kind == "figure" else ("tex",)
    assert all(path.with_suffix(f".{suffix}").stat().st_size > 60 for suffix in suffixes)
    return pd.read_csv(path.with_suffix(".csv")), path.with_suffix(".rst").read_text()
