"""Interprets a config: resolves it per method, and derives flags, models, measures and exports from it.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

import itertools
import json
import shlex

from prefloop.config.declarations import defaults
from prefloop.config.evaluator_measures import MEASURE_KINDS, OF_MAIN, reward_measure, win_measure
from prefloop.config.feedback_settings import WeightedSource
from prefloop.core.own_functions import is_own, split
from prefloop.models.sources import model_name

# Mappings with any keys, which programs read as JSON; a loss may also be a word.
AS_JSON = ("chat_template_kwargs", "extra", "rename", "loss")
SWITCHES = ("rslora", "dora")  # flags that are omitted if false
REPLACED = ("loss",)  # mappings that a method replaces instead of merging: the weights of a sum
COMBINED = ("sum", "ensemble")  # kinds of feedback with several sources
ABOUT_METHODS = ("label", "like", "sweep")  # keys of a method that are not sections
TRAINED = "trained:"  # before the name of a reward model that this experiment trains


def of_method(config: dict, method: str | None) -> dict:
    """Return the config of one method: its own settings merged over the shared sections."""
    if not method:
        return config
    return merged(config, {key: own for key, own in config["methods"][method].items() if key not in ABOUT_METHODS})


def first_beta(train: dict, round_index: int) -> float:
    """Return the β with which a method's training begins in a round, from its `train` section.

    If a rule changes β and keeps it for later rounds, this is the β of the first round.
    """
    schedule = train["beta_schedule"]
    if train["beta_rule"] != "schedule":
        return train["beta"]
    index = round_index - 1 if schedule["by"] == "round" else 0
    return schedule["values"][min(index, len(schedule["values"]) - 1)]


def labels_of(config: dict) -> dict[str, str]:
    """Return the name of each compared method in figures and tables."""
    methods = config["methods"]
    return {name: methods.get(name, {}).get("label") or name for name in config["compare"]}


def merged(base: dict, differences: dict) -> dict:
    """Return `base` with `differences` merged over it. Mappings are merged key by key, except those in REPLACED."""
    result = dict(base)
    for key, value in differences.items():
        by_key = key not in REPLACED and isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if by_key else value
    return result


def flags(settings: dict, prefix: str = "") -> str:
    """Return settings as command-line flags with shell-quoted values. null is omitted, and nested keys become a.b.

    Mappings in AS_JSON are one value. Flags are sorted, so that reordering the keys of a config causes no rerun.
    """
    words = []
    for key, value in sorted(settings.items()):
        name = prefix + key.replace("_", "-")
        value = list(value) if isinstance(value, tuple) else value
        if key in AS_JSON and not isinstance(value, str):
            words.append(f"--{name} {shlex.quote(json.dumps(value, sort_keys=True))}" if value else "")
        elif key in SWITCHES and not value:
            continue
        elif isinstance(value, dict):
            words.append(flags(value, f"{name}."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            words.append(f"--{name} {shlex.quote(json.dumps(value, ensure_ascii=False))}")
        elif value is not None and value != []:
            values = [shlex.quote(str(item)) for item in (value if isinstance(value, list) else [value])]
            # Text that begins with a dash would be read as a flag; a negative number is not.
            joint = "=" if isinstance(value, str) and value.startswith("-") else " "
            words.append(f"--{name}{joint}{' '.join(values)}")
    return " ".join(word for word in words if word)


def figure_names(config: dict) -> dict[str, str]:
    """Return the figures of an experiment by the name of their files. A user's function names its file."""
    return {split(figure)[1] if is_own(figure) else figure: figure for figure in config["figures"]}


def asked(config: dict) -> list[dict]:
    """Return every feedback that the experiment uses: of the methods, of the evaluators, and the section feedback."""
    methods = [of_method(config, method)["feedback"] for method in config["compare"]]
    return [*methods, *evaluators_of(config).values(), config["feedback"]]


def evaluators_of(config: dict) -> dict[str, dict]:
    """Return the feedback of each evaluator by its key in the config: the main one, and the named ones."""
    evaluation = config["evaluation"]
    named = {f"evaluation.evaluators.{name}": settings for name, settings in evaluation["evaluators"].items()}
    return {"evaluation.evaluator": evaluation["evaluator"]} | named


def feedback_sources(feedback: dict) -> list[dict]:
    """Return the sources of a feedback with all defaults, or the feedback itself if it has no sources."""
    if feedback["kind"] not in COMBINED:
        return [feedback]
    return [merged(defaults(WeightedSource), source) for source in feedback["sources"]]


def asked_sources(config: dict) -> list[dict]:
    """Return every source of every feedback that the experiment uses."""
    return [source for feedback in asked(config) for source in feedback_sources(feedback)]


def feedback_functions(config: dict) -> dict[str, str]:
    """The functions of all feedback, and the first key of the config that names each."""
    methods = [("feedback", of_method(config, method)["feedback"]) for method in config["compare"]]
    keys: dict[str, str] = {}
    for key, feedback in [*methods, ("feedback", config["feedback"]), *evaluators_of(config).items()]:
        for source in feedback_sources(feedback):
            if source["kind"] == "function" and source["function"]:
                keys.setdefault(source["function"], f"{key}.function")
    return keys


def asks_judge(config: dict) -> bool:
    """Whether a judge is a method's feedback or an evaluator. The section feedback alone is used only for rewards."""
    return any(feedback["kind"] == "judge" for feedback in asked(config)[:-1])


def gives_rewards(feedback: dict) -> bool:
    """Whether a feedback gives one number per response; a judge and the data set only compare responses."""
    return feedback["kind"] not in ("judge", "dataset")


def target_measure(config: dict, section: str = "target") -> str:
    """Return the measure of table cost_to_reach, or of another section, such as `primary` for the primary contrast.

    auto is the reward of the evaluator if it gives rewards, else its win rate. The same holds for a named evaluator.
    """
    evaluation = config["evaluation"]
    word, evaluators = evaluation[section]["measure"], evaluation["evaluators"]
    if word == "auto":
        return "reward" if gives_rewards(evaluation["evaluator"]) else "win"
    if word in evaluators:
        return reward_measure(word) if gives_rewards(evaluators[word]) else win_measure(word)
    return word


def reward_sources(config: dict) -> dict[str, dict]:
    """Return the feedback behind each measure of rewards."""
    evaluation = config["evaluation"]
    by_measure = {reward_measure(name): settings for name, settings in evaluation["evaluators"].items()}
    return {"feedback": config["feedback"], "reward": evaluation["evaluator"]} | by_measure


def measure_words(config: dict) -> list[str]:
    """Return the valid values of evaluation.target.measure and evaluation.primary.measure."""
    names = config["evaluation"]["evaluators"]
    return ["auto", *OF_MAIN, *names, *(f"{name}_{kind}" for name in names for kind in MEASURE_KINDS)]


def baseline_of(config: dict) -> str:
    """Return the method that is subtracted in differences; empty if no method is compared."""
    methods = list(config["compare"])
    return config["evaluation"]["baseline"] or ("uniform" if "uniform" in methods else next(iter(methods), ""))


def trained_here(config: dict) -> list[str]:
    """Return the names of the reward models that the experiment trains because a feedback uses them."""
    models = [model_of(source) or "" for source in asked_sources(config)]
    return sorted({name.removeprefix(TRAINED) for name in models if name.startswith(TRAINED)})


def model_sources(config: dict) -> dict[str, str]:
    """Return every model that the experiment fetches: folder name -> source."""
    models = [model_of(source) for source in asked_sources(config)]
    sources = [config["policy"]["model"]] if config["policy"]["model"] else []
    sources += [config["reward_models"][name]["base"] for name in trained_here(config)]
    sources += [name for name in models if name and not name.startswith(TRAINED)]
    sources += [name for name in embeddings(config) if name != "policy"]
    return {model_name(source): source for source in sources}


def may_run_code(config: dict, source: str) -> bool:
    """Whether a section that names this model allows it to run its own code."""
    sections = [(config["policy"]["model"], config["policy"])]
    sections += [(model["base"], model) for model in config["reward_models"].values()]
    sections += [(model_of(source), source) for source in asked_sources(config)]
    return any(name == source and section["trust_remote_code"] for name, section in sections)


def embeddings(config: dict) -> list[str]:
    """Return the embedding models of the config and of every compared method."""
    return [of_method(config, method)["clusters"]["embedding"] for method in (None, *config["compare"])]


def model_of(feedback: dict) -> str | None:
    """Return the model that a feedback or a source loads; None if it loads none."""
    return feedback["model"] if feedback["kind"] in ("reward_model", "judge") else None


def exports_of(config: dict) -> list[dict]:
    """Return {method, seed, round} of every policy to export; by default each method's last round and first seed."""
    wanted = config["export"]
    methods, seeds = wanted["methods"] or config["compare"], wanted["seeds"] or config["seeds"][:1]
    runs = itertools.product(methods, seeds, wanted["rounds"] or [config["rounds"]])
    return [{"method": method, "seed": seed, "round": number} for method, seed, number in runs]


def repository_of(hub_id: str, where: dict) -> str:
    """Return the hub id of one export, with {method}, {seed} and {round} filled in."""
    for key in ("method", "seed", "round"):
        hub_id = hub_id.replace(f"{{{key}}}", str(where[key]))
    return hub_id
