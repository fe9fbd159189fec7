"""arms.json: the state of the bandit's arms after a step."""

from pathlib import Path

import numpy as np

from prefloop.core.errors import InputError
from prefloop.core.files import read_json, write_json
from prefloop.methods.bandit import ARM_FIELDS, Arms


def write_arms(path: Path, arms: Arms, **step: int) -> None:
    """Write arms.json: the round and step, and one object per arm with its state and mean reward."""
    columns = {name: getattr(arms, name).tolist() for name in (*ARM_FIELDS, "mean")}
    rows = [{"cluster": c} | {name: values[c] for name, values in columns.items()} for c in range(len(arms.count))]
    write_json(path, step | {"arms": rows})


def read_arms(path: Path) -> Arms:
    """Read arms.json.

    Raises:
        InputError: The file is missing or is not an arms file.
    """
    try:
        rows = read_json(path)["arms"]
        return Arms(*(np.array([row[name] for row in rows]) for name in ARM_FIELDS))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not an arms file: missing {error}; recreate it") from error


def arms_before(path: Path | None, k: int, clusters: Path) -> Arms:
    """Return the arms after the previous step, or new arms in a run's first step.

    Args:
        path: arms.json of the previous step; None in the first step.
        k: Number of clusters.
        clusters: clusters.pkl, for error messages.

    Raises:
        InputError: The file has a different number of arms.
    """
    if path is None:
        return Arms.fresh(k)
    arms = read_arms(path)
    if len(arms.count) != k:
        raise InputError(
            f"{path}: {len(arms.count)} arms, expected {k}, the number of clusters in {clusters}; recreate it"
        )
    return arms
