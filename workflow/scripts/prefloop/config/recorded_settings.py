"""Records the settings of an experiment next to its results, and compares the settings of two experiments."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefloop.config.declarations import defaults, hints
from prefloop.config.experiment import Experiment, experiment_of
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.config.resolve import of_method
from prefloop.config.settings import MethodConfig
from prefloop.config.training_settings import RewardModelSection
from prefloop.core.errors import InputError, refused
from prefloop.core.files import json_bytes, read_json, write_json

SETTINGS_FILE = "settings.json"
# Keys of a config that do not affect results, or that are compared within the settings of the methods.
UNCOMPARED = ("name", "compare", "methods", "sweep", "figures", "tables", "export", "tracking")
START = "snakemake --cores 1 --forcerun describe_run"


@dataclass
class RecordedExperiment:
    """An experiment as recorded in its results folder."""

    experiment: Experiment
    """Its runs and evaluations."""
    config: dict
    """Its config with all defaults, without methods that are neither compared nor swept."""


def write_settings(config: dict, experiment: Experiment) -> None:
    """Write the config and the identities of the evaluators into an experiment's folder, unless they are unchanged."""
    path = experiment.root / SETTINGS_FILE
    swept = [entry["like"] for name in config["compare"] if (entry := config["methods"][name]).get("sweep")]
    methods = {name: config["methods"][name] for name in dict.fromkeys([*config["compare"], *swept])}
    evaluators = dict(zip(experiment.evaluators, experiment.evaluated_by, strict=True))
    content = {"evaluator": experiment.evaluator, "evaluators": evaluators, "settings": config | {"methods": methods}}
    if not path.exists() or path.read_bytes() != json_bytes(content):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)


def read_settings(root: Path) -> RecordedExperiment:
    """Read the settings file in an experiment's folder or in a rows folder.

    Raises:
        InputError: The file is missing, or another version of the project has written it.
    """
    path = root / SETTINGS_FILE
    if not path.exists():
        raise InputError(f"{path}: missing; Snakemake writes it when it starts a job: {START} with its --configfile")
    content = read_json(path)
    with refused(f"{path}: not the settings that this version writes; write them again: {START}"):
        config = content["settings"]
        experiment = experiment_of(config, str(root))
        evaluated_by = tuple(content["evaluators"][name] for name in experiment.evaluators)
        experiment = replace(experiment, evaluator=content["evaluator"], evaluated_by=evaluated_by)
        if "trained_by" in content:  # in a rows folder, which may be read without the feedback's files
            experiment = replace(experiment, trained_by=tuple(content["trained_by"]))
        return RecordedExperiment(experiment, config)


def differing_settings(a: dict, b: dict, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Return the settings that differ between two configs: (key, value in `a`, value in `b`), values as JSON.

    Differences of the experiments come first. Then each pair of methods (a's, b's) follows with those differences that
    the experiments do not have; their keys begin with the names of the methods.
    """
    a, b = without_defaults(a, b), without_defaults(b, a)
    shared = differences_of(without(a, UNCOMPARED), without(b, UNCOMPARED))
    differences = [(key, *values) for key, values in shared.items()]
    for first, second in pairs:
        sections = [
            {name: of_method(config, m)[name] for name in hints(MethodConfig)}
            for config, m in ((a, first), (b, second))
        ]
        name = first if first == second else f"{first} and {second}"
        of_pair = differences_of(*sections)
        differences += [(f"{name}: {key}", *values) for key, values in of_pair.items() if shared.get(key) != values]
        equal_keys = [key for key in shared if key.partition(".")[0] in sections[0] and key not in of_pair]
        differences += [(f"{name}: {key}", "equal", "equal") for key in equal_keys]
    return differences


def without_defaults(config: dict, other: dict) -> dict:
    """Return a config whose evaluators and reward models that `other` lacks have only settings other than defaults."""
    evaluation, of_other = config["evaluation"], other["evaluation"]
    evaluators = {
        name: own if name in of_other["evaluators"] else changed(own, defaults(FeedbackConfig))
        for name, own in evaluation["evaluators"].items()
    }
    models = {
        name: own if name in other["reward_models"] else changed(own, defaults(RewardModelSection))
        for name, own in config["reward_models"].items()
    }
    return config | {"evaluation": evaluation | {"evaluators": evaluators}, "reward_models": models}


def changed(settings: dict, base: dict) -> dict:
    """Return the settings that differ from those in `base`."""
    result = {}
    for key, value in settings.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            value = changed(value, base[key])
            if not value:
                continue
        if value != base.get(key):
            result[key] = value
    return result


def without(settings: dict, keys: Iterable[str]) -> dict:
    """Return a mapping without some keys."""
    return {key: value for key, value in settings.items() if key not in keys}


def differences_of(a: dict, b: dict) -> dict[str, tuple[str, str]]:
    """Return the two values, as JSON, of every dotted key whose values differ; "–" for a missing key."""
    left, right = dict(leaves(a)), dict(leaves(b))
    # An empty mapping is not listed if the other config has values in it, because these are listed.
    filled = {
        ".".join(parts[:end]) for parts in (key.split(".") for key in [*left, *right]) for end in range(1, len(parts))
    }
    keys = [key for key in dict.fromkeys([*left, *right]) if left.get(key, "–") != right.get(key, "–")]
    keys = [key for key in keys if key not in filled]
    return {key: (left.get(key, "–"), right.get(key, "–")) for key in keys}


def leaves(settings: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, JSON value) for every value that is not a mapping."""
    value: Any
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
