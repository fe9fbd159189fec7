"""External benchmark commands: filling in the command and reading the number from the file that it wrote."""

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.core.files import read_json
from prefloop.evaluation.figure_rows import benchmark_value


def filled(command: str, values: dict[str, str]) -> str:
    """A shell command with each {name} in `values` replaced by its quoted value; other braces stay unchanged."""
    names = "|".join(map(re.escape, values))
    return re.sub(rf"\{{({names})\}}", lambda match: shlex.quote(values[match[1]]), command)


def read_number(folder: Path, pattern: str, keys: Sequence[str]) -> float:
    """The number that a benchmark wrote.

    Args:
        folder: The folder to which the benchmark wrote its files.
        pattern: Glob pattern, relative to `folder`, that matches only the JSON file with the number.
        keys: Keys from the top level of the file down to the number; for a list, an index.

    Raises:
        InputError: No file or several files match, a key is missing, or the value is not a finite number.
    """
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        found = ", ".join(str(file.relative_to(folder)) for file in files) or "none"
        raise InputError(f"evaluation.benchmark.file: {pattern!r} below {folder} matches {found}, expected one file")
    value = read_json(files[0])
    for depth, key in enumerate(keys):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            known = ", ".join(map(str, value)) if isinstance(value, dict) else f"a {type(value).__name__}"
            location = " > ".join(keys[:depth]) or "the top"
            raise InputError(
                f"evaluation.benchmark.value: no {key!r} at {location} of {files[0]}; found {known}"
            ) from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"evaluation.benchmark.value: {value!r} in {files[0]}, expected a finite number")
    return float(value)


def benchmark_values(experiment: Experiment) -> pd.DataFrame:
    """The value of every round of every run, with the initial policy as round 0: columns method, seed, round, value."""
    initial = benchmark_value(experiment.root / "initial")
    rows = [
        {"method": method, "seed": seed, "round": 0, "value": initial}
        for method in experiment.methods
        for seed in experiment.seeds
    ]
    rows += [keys | {"value": benchmark_value(folder)} for keys, folder in experiment.folders()]
    return pd.DataFrame(rows)
