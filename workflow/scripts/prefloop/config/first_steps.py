"""Methods that begin in the same way: their first step is made once, by a method that no figure shows, and copied.

Snakemake reads this at every start, so nothing heavy is imported here.
"""

import hashlib
import json

from prefloop.config.declarations import inner, relevant
from prefloop.config.resolve import of_method
from prefloop.config.settings import ExperimentConfig
from prefloop.core.registry import registry_words

AT_RANDOM = registry_words("methods.bandit.AT_RANDOM")
PREFIX = "_first_step_"  # of a method's name; those of users begin with a letter or digit


def draw_settings(bandit: dict, acquisition: dict, sampler: str) -> dict:
    """The settings that a step's draw of prompts depends on: relevant ones only, so that others rerun nothing.

    Args:
        bandit (dict): Relevant settings of this section.
        acquisition (dict): Likewise.
        sampler (str): Of the responses.
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
    """The method that makes the first step of each compared method, for those whose first step may be shared.

    Its name follows from the settings alone, so that a method that is added later changes nothing for the others.
    Methods with clusters of their own share no step, and neither do those that choose which responses get a label.
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
    """The settings of a method that its drawn prompts and responses of round 1, step 1 depend on.

    In round 1 the policy and every kind of reference are the initial policy.
    """
    known = {name: relevant(settings[name], inner(ExperimentConfig, name)) for name in ("bandit", "acquisition")}
    generation = relevant(settings["generation"], inner(ExperimentConfig, "generation"))
    draw = draw_settings(known["bandit"], known["acquisition"], generation["sampler"])
    return {"bandit": draw, "generation": generation}


def with_first_steps(config: dict) -> dict:
    """A config with the methods of `first_steps`, which differ from the experiment only in what draws and samples."""
    methods = {}
    for method, shared in first_steps(config).items():
        settings = of_method(config, method)
        draw = {key: value for key, value in beginning(settings)["bandit"].items() if key in settings["bandit"]}
        methods[shared] = {"bandit": draw, "generation": settings["generation"], "acquisition": {"rule": "all"}}
    return config | {"methods": config["methods"] | methods}


def sharing(config: dict, stage: str) -> list[str]:
    """The compared methods whose first step has what the experiment's own settings give in a stage.

    Args:
        config (dict): Of the experiment.
        stage (str): `generate`, `reward` or `logprobs`.
    """
    read = {
        "generate": lambda settings: None,
        "reward": lambda settings: settings["feedback"],
        "logprobs": lambda settings: [settings["logprobs"], settings["train"]["ld_alpha"]],
    }[stage]
    return [method for method in first_steps(config) if read(of_method(config, method)) == read(config)]
