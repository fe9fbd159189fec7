"""What config.yaml means: resolved for each method, turned into flags, models and the code that a stage runs.

Snakemake reads this at every start, so nothing heavy is imported here.
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
SWITCHES = ("rslora", "dora")  # off without a flag
WHOLE = ("loss",)  # mappings that a method replaces and does not add to: the weights are a sum
COMBINED = ("sum", "ensemble")  # kinds of feedback with several sources
ABOUT_METHODS = ("label", "like", "sweep")  # keys of a method that are no section
TRAINED = "trained:"  # before the name of a reward model that this experiment trains


def of_method(config: dict, method: str | None) -> dict:
    """The config as one method has it: its own differences laid over the shared sections."""
    if not method:
        return config
    return merged(config, {key: own for key, own in config["methods"][method].items() if key not in ABOUT_METHODS})


def labels_of(config: dict) -> dict[str, str]:
    """The name of each compared method in figures and tables."""
    methods = config["methods"]
    return {name: methods.get(name, {}).get("label") or name for name in config["compare"]}


def merged(base: dict, differences: dict) -> dict:
    """`base` with `differences` laid over it, mappings key by key but for those of WHOLE."""
    result = dict(base)
    for key, value in differences.items():
        by_key = key not in WHOLE and isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if by_key else value
    return result


def flags(settings: dict, prefix: str = "") -> str:
    """Settings as command-line flags, each value quoted for the shell; null is left out, mappings become a.b.

    Those of AS_JSON are one value. Flags are sorted, so that another order of the keys in a config reruns nothing.
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
    """The figures of an experiment by the name of their files; that of a function of the user is the function's."""
    return {split(figure)[1] if is_own(figure) else figure: figure for figure in config["figures"]}


def asked(config: dict) -> list[dict]:
    """Every feedback that the experiment uses: the methods', the evaluators, and the config's own, shown with them."""
    methods = [of_method(config, method)["feedback"] for method in config["compare"]]
    return [*methods, *evaluators_of(config).values(), config["feedback"]]


def evaluators_of(config: dict) -> dict[str, dict]:
    """Every feedback that evaluates by its key: the evaluator that decides, and the named ones."""
    evaluation = config["evaluation"]
    named = {f"evaluation.evaluators.{name}": settings for name, settings in evaluation["evaluators"].items()}
    return {"evaluation.evaluator": evaluation["evaluator"]} | named


def feedback_sources(feedback: dict) -> list[dict]:
    """What gives the numbers of a feedback: each of its sources with all defaults, or the feedback itself."""
    if feedback["kind"] not in COMBINED:
        return [feedback]
    return [merged(defaults(WeightedSource), source) for source in feedback["sources"]]


def asked_sources(config: dict) -> list[dict]:
    """Every source of every feedback that the experiment uses."""
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
    """Whether a judge compares anything; `feedback` alone is asked for rewards only, and a judge gives none."""
    return any(feedback["kind"] == "judge" for feedback in asked(config)[:-1])


def gives_rewards(feedback: dict) -> bool:
    """Whether a feedback gives one number per response; a judge and the data set only compare responses."""
    return feedback["kind"] not in ("judge", "dataset")


def target_measure(config: dict, section: str = "target") -> str:
    """The measure of table cost_to_reach, or that of the primary contrast with section `primary`.

    auto is the evaluator's reward if it gives one, else the win rate, and the name of an evaluator likewise.
    """
    evaluation = config["evaluation"]
    word, named = evaluation[section]["measure"], evaluation["evaluators"]
    if word == "auto":
        return "reward" if gives_rewards(evaluation["evaluator"]) else "win"
    if word in named:
        return reward_measure(word) if gives_rewards(named[word]) else win_measure(word)
    return word


def reward_sources(config: dict) -> dict[str, dict]:
    """The feedback that each measure of rewards is from."""
    evaluation = config["evaluation"]
    named = {reward_measure(name): settings for name, settings in evaluation["evaluators"].items()}
    return {"feedback": config["feedback"], "reward": evaluation["evaluator"]} | named


def measure_words(config: dict) -> list[str]:
    """What evaluation.target.measure and evaluation.primary.measure may be."""
    names = config["evaluation"]["evaluators"]
    return ["auto", *OF_MAIN, *names, *(f"{name}_{kind}" for name in names for kind in MEASURE_KINDS)]


def baseline_of(config: dict) -> str:
    """The method from which differences are taken; empty if no method is compared."""
    methods = list(config["compare"])
    return config["evaluation"]["baseline"] or ("uniform" if "uniform" in methods else next(iter(methods), ""))


def trained_here(config: dict) -> list[str]:
    """Names of the reward models that the experiment trains, because a feedback uses them."""
    named = [model_of(source) or "" for source in asked_sources(config)]
    return sorted({name.removeprefix(TRAINED) for name in named if name.startswith(TRAINED)})


def model_sources(config: dict) -> dict[str, str]:
    """Every model the experiment fetches: folder name -> source."""
    named = [model_of(source) for source in asked_sources(config)]
    sources = [config["policy"]["model"]] if config["policy"]["model"] else []
    sources += [config["reward_models"][name]["base"] for name in trained_here(config)]
    sources += [name for name in named if name and not name.startswith(TRAINED)]
    sources += [name for name in embeddings(config) if name != "policy"]
    return {model_name(source): source for source in sources}


def may_run_code(config: dict, source: str) -> bool:
    """Whether a section that names this model lets it run code of its own."""
    named = [(config["policy"]["model"], config["policy"])]
    named += [(model["base"], model) for model in config["reward_models"].values()]
    named += [(model_of(source), source) for source in asked_sources(config)]
    return any(name == source and section["trust_remote_code"] for name, section in named)


def embeddings(config: dict) -> list[str]:
    """The embedding models of the config and of every compared method."""
    return [of_method(config, method)["clusters"]["embedding"] for method in (None, *config["compare"])]


def model_of(feedback: dict) -> str | None:
    """The model that a feedback, or one of its sources, loads, if any."""
    return feedback["model"] if feedback["kind"] in ("reward_model", "judge") else None


def exports_of(config: dict) -> list[dict]:
    """{method, seed, round} of every policy to export; by default each method's last round with the first seed."""
    wanted = config["export"]
    methods, seeds = wanted["methods"] or config["compare"], wanted["seeds"] or config["seeds"][:1]
    runs = itertools.product(methods, seeds, wanted["rounds"] or [config["rounds"]])
    return [{"method": method, "seed": seed, "round": number} for method, seed, number in runs]


def repository_of(hub_id: str, where: dict) -> str:
    """The hub id of one export, with {method}, {seed} and {round} filled in."""
    for key in ("method", "seed", "round"):
        hub_id = hub_id.replace(f"{{{key}}}", str(where[key]))
    return hub_id
