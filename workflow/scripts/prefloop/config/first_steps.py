"""Shared first steps: methods with the same first step copy it from a hidden method, which computes it only once.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

import hashlib
import json

from prefloop.config.declarations import inner, relevant
from prefloop.config.resolve import of_method
from prefloop.config.settings import ExperimentConfig
from prefloop.core.registry import registry_words

AT_RANDOM = registry_words("methods.bandit.AT_RANDOM")
PREFIX = "_first_step_"  # of hidden methods; names of users' methods begin with a letter or digit


def draw_settings(bandit: dict, acquisition: dict, sampler: str) -> dict:
    """Return the settings that decide which prompts a step draws. Other settings do not rerun the step.

    Args:
        bandit (dict): Relevant settings of the section bandit.
        acquisition (dict): Relevant settings of the section acquisition.
        sampler (str): Sampler of the responses.
    """
    keys = ["allocation", "budget", "reuse"]
    if bandit["allocation"] == "all":
        keys = ["allocation"]
    settings = bandit | {"budget": acquisition.get("pool", 1) * bandit["budget"]}
    if bandit["allocation"] not in AT_RANDOM:
        keys = [key for key in settings if key not in ("metric", "normalize", "gamma")]
    pairs_only = {"pairs_only": True} if sampler == "dataset" else {}
    return {key: settings[key] for key in keys} | pairs_only


def first_steps(config: dict) -> dict[str, str]:
    """Return the hidden method that computes the first step of each compared method whose first step can be shared.

    Its name depends only on settings, so that adding a method does not affect the others. Methods with their own
    clusters, and methods that choose which responses get a label, do not share their first step.
    """
    if not config["share_first_step"]:
        return {}
    shared = {}
    for method in config["compare"]:
        settings = of_method(config, method)
        if settings["clusters"] == config["clusters"] and settings["acquisition"]["rule"] == "all":
            text = json.dumps(beginning(settings), sort_keys=True, default=list)
            shared[method] = PREFIX + hashlib.sha256(text.encode()).hexdigest()[:8]
    return shared


def beginning(settings: dict) -> dict:
    """Return the settings of a method that affect its drawn prompts and its responses in round 1, step 1.

    In round 1 the policy and every kind of reference are the initial policy.
    """
    known = {name: relevant(settings[name], inner(ExperimentConfig, name)) for name in ("bandit", "acquisition")}
    generation = relevant(settings["generation"], inner(ExperimentConfig, "generation"))
    draw = draw_settings(known["bandit"], known["acquisition"], generation["sampler"])
    return {"bandit": draw, "generation": generation}


def with_first_steps(config: dict) -> dict:
    """Return a config with the hidden methods, which override only settings of drawing and sampling."""
    methods = {}
    for method, shared in first_steps(config).items():
        settings = of_method(config, method)
        draw = {key: value for key, value in beginning(settings)["bandit"].items() if key in settings["bandit"]}
        methods[shared] = {"bandit": draw, "generation": settings["generation"], "acquisition": {"rule": "all"}}
    return config | {"methods": config["methods"] | methods}


def sharing(config: dict, stage: str) -> list[str]:
    """Return the compared methods that can share a stage of their first step, in which they have the shared settings.

    Args:
        config (dict): Config of the experiment.
        stage (str): `generate`, `reward` or `logprobs`.
    """
    read = {
        "generate": lambda settings: None,
        "reward": lambda settings: settings["feedback"],
        "logprobs": lambda settings: [settings["logprobs"], settings["train"]["ld_alpha"]],
    }[stage]
    return [method for method in first_steps(config) if read(of_method(config, method)) == read(config)]
