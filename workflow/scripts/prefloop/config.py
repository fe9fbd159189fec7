"""What config.yaml means: resolved for each method, turned into flags, models and the code that a stage runs.

Snakemake reads this at every start, so nothing heavy is imported here.
"""

import hashlib
import itertools
import json
import re
import shlex
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)  # owner/name
TRAINED = "trained:"  # before the name of a reward model that this experiment trains


def of_method(config: dict, method: str | None) -> dict:
    """The config as one method has it: its own differences laid over the shared sections."""
    return merged(config, config["methods"][method]) if method else config


def merged(base: dict, differences: dict) -> dict:
    """`base` with `differences` laid over it, mappings key by key."""
    result = dict(base)
    for key, value in differences.items():
        result[key] = merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return result


def flags(settings: dict, prefix: str = "") -> str:
    """Settings as command-line flags, each value quoted for the shell; null is left out, mappings become a.b.

    In alphabetical order: a mapping written in another order is the same and must not run anything again.
    """
    words = []
    for name, value in sorted(settings.items()):
        name = prefix + name.replace("_", "-")
        value = list(value) if isinstance(value, tuple) else value
        if isinstance(value, dict):
            words.append(flags(value, f"{name}."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            words.append(f"--{name} {shlex.quote(json.dumps(value, ensure_ascii=False))}")
        elif value is not None and value != []:
            values = [shlex.quote(str(item)) for item in (value if isinstance(value, list) else [value])]
            # A word that begins with a dash would be taken for a flag; a number that does is not.
            joint = "=" if isinstance(value, str) and value.startswith("-") else " "
            words.append(f"--{name}{joint}{' '.join(values)}")
    return " ".join(word for word in words if word)


def model_name(source: str) -> str:
    """The folder of a model below results/models: readable, and distinct for distinct sources."""
    last = source.split("#")[0].rstrip("/").split("/")[-1].removesuffix(".gguf")
    readable = "".join(c if c.isalnum() or c in "._-" else "-" for c in last).lstrip(".") or "model"
    return f"{readable}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def asked(config: dict) -> list[dict]:
    """Every feedback that the experiment asks: the methods', the evaluator, and the one shown beside it."""
    methods = [of_method(config, method)["feedback"] for method in config["compare"]]
    return [*methods, config["evaluation"]["evaluator"], config["feedback"]]


def asks_judge(config: dict) -> bool:
    """Whether a judge compares anything; the config's own feedback shows rewards only, which a judge has none of."""
    return any(feedback["kind"] == "judge" for feedback in asked(config)[:-1])


def gives_rewards(feedback: dict) -> bool:
    """Whether a feedback gives a response a number of its own; a judge and the data set only prefer one to another."""
    return feedback["kind"] not in ("judge", "dataset")


def target_measure(config: dict) -> str:
    """What table cost_to_reach reads: config's word, or for auto the evaluator's reward if there is one, else win."""
    word, evaluator = config["evaluation"]["target"]["measure"], config["evaluation"]["evaluator"]
    return word if word != "auto" else "reward" if gives_rewards(evaluator) else "win"


def trained_here(config: dict) -> list[str]:
    """Names of the reward models that the experiment trains because somebody asks them."""
    named = [model_of(feedback) or "" for feedback in asked(config)]
    return sorted({name.removeprefix(TRAINED) for name in named if name.startswith(TRAINED)})


def model_sources(config: dict) -> dict[str, str]:
    """Every model the experiment fetches: folder name -> source."""
    named = [model_of(feedback) for feedback in asked(config)]
    sources = [config["policy"]["model"], *(config["reward_models"][name]["base"] for name in trained_here(config))]
    sources += [name for name in named if name and not name.startswith(TRAINED)]
    sources += [name for name in embeddings(config) if name != "policy"]
    return {model_name(source): source for source in sources}


def embeddings(config: dict) -> list[str]:
    """What prompts are embedded by: config's own choice, and those of methods with clusters of their own."""
    return [of_method(config, method)["clusters"]["embedding"] for method in (None, *config["compare"])]


def model_of(feedback: dict) -> str | None:
    """The model that a feedback asks, if it asks one here."""
    return feedback["model"] if feedback["kind"] in ("reward_model", "judge") else None


def in_words(feedback: dict) -> str:
    """Who a feedback asks, as captions say it."""
    kind = feedback["kind"]
    if kind == "dataset":
        return "the data set's own preference"
    if kind not in ("reward_model", "judge"):
        return f"the {kind} {feedback[kind]}" if kind in feedback else f"the feedback {kind}"
    judge = feedback["judge"]
    model = shown((feedback["model"] or judge["model"]).split("#")[0])
    if kind == "reward_model":
        return f"the reward model {model}"
    return f"the judge {model} with {shown(judge['template'])}"


def exports_of(config: dict) -> list[dict]:
    """{method, seed, round} of every policy to export: each method's last round with the first seed if not said."""
    wanted = config["export"]
    methods, seeds = wanted["methods"] or config["compare"], wanted["seeds"] or config["seeds"][:1]
    runs = itertools.product(methods, seeds, wanted["rounds"] or [config["rounds"]])
    return [{"method": method, "seed": seed, "round": number} for method, seed, number in runs]


def repository_of(hub_id: str, where: dict) -> str:
    """The hub's id for one export: {method}, {seed} and {round} in config's word filled in."""
    for key in ("method", "seed", "round"):
        hub_id = hub_id.replace(f"{{{key}}}", str(where[key]))
    return hub_id


def shown(source: str) -> str:
    """A model or file as captions and cards name it: of a path from the root or home only the last part is public."""
    return Path(source).name if source.startswith(("/", "~")) else source


def relevant(settings: dict, schema: dict) -> dict:
    """A section without the settings whose `when` does not hold: they count under other words than those chosen."""

    def counts(name: str) -> bool:
        conditions = schema["properties"][name].get("when", {})
        return all(settings[key] in words for key, words in conditions.items())

    return {name: value for name, value in settings.items() if counts(name)}
