"""Wrong configs are refused before any job: by the schema, and by what no single key shows.

Snakemake reads this at every start, so nothing heavy is imported here; the words of a registry are read from its
module's source.
"""

import ast
import difflib
import math
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import yaml

from prefloop.config import HUB_ID, TRAINED, exports_of, model_sources, of_method, repository_of
from prefloop.experiment import CHOSEN
from prefloop.fetch import PACKAGE, PACKAGE_FORM
from prefloop.rows import InputError
from prefloop.samplers import REFERENCE, SAMPLERS, Mixp, Sampling, mixes_logits, models_of, possible

LIBRARY = Path(__file__).parent
FILES = ("source", "model", "base", "embedding", "template")  # keys that may name a file or folder
PROMPTS_ONLY = ("ultrachat", "rlhflow")  # formats without responses


def load_schema(path: Path) -> dict:
    """The config schema, with every `registry: module.NAME` replaced by the words of that registry.

    `when: {key: {not: [word]}}` becomes all the other words of that key, so that a setting counts under new ones too.
    """

    def resolve(node):
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        node = {key: resolve(value) for key, value in node.items()}
        if "registry" in node and isinstance(node["registry"], str):
            node["enum"] = registry_words(node.pop("registry"))
        for settings in node.get("properties", {}).values():
            for key, words in settings.get("when", {}).items():
                if isinstance(words, dict):
                    choices = node["properties"][key]["enum"]
                    settings["when"][key] = [word for word in choices if word not in words["not"]]
        return node

    return resolve(yaml.safe_load(Path(path).read_text(encoding="utf-8")))


def registry_words(name: str) -> list[str]:
    """The keys of a registry such as `metrics.METRICS`, read from source without importing torch."""
    module, variable = name.split(".")
    for node in ast.parse((LIBRARY / f"{module}.py").read_text(encoding="utf-8")).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
            words = node.value.keys if isinstance(node.value, ast.Dict) else node.value.elts
            return [ast.literal_eval(word) for word in words]
    raise LookupError(f"{module}.py defines no {variable}")


NEEDS_REFERENCE = registry_words("metrics.NEEDS_REFERENCE")


def checked(config: dict, schema: dict) -> dict:
    """A copy of `config` with the schema's defaults; InputError naming every wrong key and the choices."""
    import jsonschema

    config = retyped(config, schema, schema)
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        raise InputError("config: " + "\nconfig: ".join(explain(error) for error in errors))
    config = with_defaults(config, schema, schema)
    for name, settings in config["reward_models"].items():
        config["reward_models"][name] = with_defaults(settings, schema["$defs"]["reward_model"], schema)
    config.setdefault("compare", list(config["methods"]))
    problems = contradictions(config)
    if problems:
        raise InputError("config: " + "\nconfig: ".join(problems))
    return config


def explain(error) -> str:
    """A jsonschema error as one line: key, what was found, what was expected."""
    where, found = ".".join(map(str, error.absolute_path)), error.instance
    if error.validator == "additionalProperties" and isinstance(found, dict):
        known = list(error.schema.get("properties", {}))
        lines = []
        for key in [key for key in found if key not in known]:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
            lines.append(f"{f'{where}.{key}' if where else key}: unknown key; {hint}")
        return "\nconfig: ".join(lines)
    if error.validator == "enum":
        close = difflib.get_close_matches(str(found), map(str, error.validator_value), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{where}: {found!r} is none of {', '.join(map(str, error.validator_value))}{hint}"
    if error.validator == "type" and isinstance(found, str) and is_number(found):
        return f"{where}: {found!r} is text, not a number; YAML reads 5e-7 as text: write 5.0e-7"
    if error.validator == "pattern" and where.endswith("api_key_env"):  # what was found may be the key
        return f"{where}: not the name of an environment variable; a key itself must not stand in config"
    if error.validator == "required":
        return f"{where + ': ' if where else ''}{error.message}"
    description = error.schema.get("description") if isinstance(error.schema, dict) else None
    return f"{where}: {error.message}" + (f" ({description})" if description else "")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def retyped(value, schema: dict, root: dict):
    """`value` with texts read as YAML where the schema wants no text: `--config a={b: 1}` passes nested 1 as text."""
    schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    if isinstance(value, dict):
        other = schema.get("additionalProperties") or {}
        known = schema.get("properties", {})
        return {key: retyped(item, known.get(key, other), root) for key, item in value.items()}
    if isinstance(value, list):
        return [retyped(item, schema.get("items", {}), root) for item in value]
    wanted = schema.get("type", "number" if "anyOf" in schema else "string")  # words of an enum are text
    if value == "null" and "null" in wanted:
        return None
    if isinstance(value, str) and "string" not in wanted:
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError:
            return value
    return value


def with_defaults(value: dict, schema: dict, root: dict) -> dict:
    """`value` with the defaults of absent properties, recursively."""
    result = dict(value)
    for name, sub in schema.get("properties", {}).items():
        default = sub.get("default")
        sub = root["$defs"][sub["$ref"].rsplit("/", 1)[1]] if "$ref" in sub else sub
        if name not in result and (default is not None or sub.get("default", ...) is None):
            result[name] = default
        if isinstance(result.get(name), dict):
            result[name] = with_defaults(result[name], sub, root)
    return result


def contradictions(config: dict) -> list[str]:
    """What no single key shows: combinations that could not run, found before any job."""
    evaluator = config["evaluation"]["evaluator"]
    problems = impossible_feedback("feedback", config["feedback"], config)
    problems += impossible_feedback("evaluation.evaluator", evaluator, config)
    if evaluator["kind"] == "dataset":
        problems.append("evaluation.evaluator: the data set has no preference between new samples; name another kind")
    problems += [f"{where}: {value} is not a finite number" for where, value in not_finite(config)]
    problems += [f"{where}: {problem}" for where, text in texts(config) for problem in unusable(where, text)]
    if config["sft"]["enabled"] and config["prompts"]["format"] in PROMPTS_ONLY:
        problems.append(f"sft.enabled: prompts.format {config['prompts']['format']} has no chosen responses")
    if config["prompts"]["messages_template"] and config["prompts"]["format"] != "columns":
        problems.append("prompts.messages_template: only with prompts.format columns; a data set's format has its own")
    problems += impossible_evaluation(config)
    problems += impossible_export(config)
    for method in config["compare"]:
        if method not in config["methods"]:
            problems.append(f"compare: no method {method}; known: {', '.join(config['methods'])}")
            continue
        settings = of_method(config, method)
        problems += impossible_feedback(f"methods.{method}.feedback", settings["feedback"], config)
        found = impossible_method(settings) + too_little(settings)
        problems += [f"{problem} (method {method})" for problem in found]
    if not problems:
        problems += [
            f"model {source}: expected {PACKAGE_FORM}"
            for source in model_sources(config).values()
            if source.startswith("pypi:") and not PACKAGE.fullmatch(source)
        ]
    return list(dict.fromkeys(problems))


def impossible_evaluation(config: dict) -> list[str]:
    """Opponents, baselines and figures that the experiment has nothing for."""
    evaluation, methods, figures = config["evaluation"], config["compare"], config["figures"]
    first, *others = evaluation["opponents"]
    theory = {"tabular"}
    problems = []
    if first not in ("initial", CHOSEN):
        problems.append(f"evaluation.opponents: {first} is first, and all figures need initial or {CHOSEN} there")
    problems += [
        f"evaluation.opponents: {name} is neither initial nor {CHOSEN} nor compared"
        for name in others
        if name not in ("initial", CHOSEN, *methods)
    ]
    for where, names in {
        "baseline": [evaluation["baseline"]],
        "by_temperature.methods": evaluation["by_temperature"]["methods"] or [],
        "by_checkpoint.methods": evaluation["by_checkpoint"]["methods"] or [],
    }.items():
        problems += [
            f"evaluation.{where}: {name} is not compared" for name in names if name is not None and name not in methods
        ]
    if not methods and (set(figures) - theory or config["tables"]):
        problems.append(
            f"compare: names no method, which only figures: [{', '.join(theory)}] and tables: [] can do with"
        )
    if "checkpoints" in figures and not evaluation["by_checkpoint"]["steps"]:
        problems.append("figures: checkpoints need evaluation.by_checkpoint.steps")
    if CHOSEN in evaluation["opponents"] and config["prompts"]["format"] in PROMPTS_ONLY:
        problems.append(f"evaluation.opponents: prompts.format {config['prompts']['format']} has no {CHOSEN} responses")
    problems += impossible_figures(config)
    return problems


def impossible_figures(config: dict) -> list[str]:
    """Figures and tables for which the compared methods, or who rewards them, have nothing to show."""
    figures, tables, target = config["figures"], config["tables"], config["evaluation"]["target"]["measure"]
    settings = [of_method(config, method) for method in config["compare"] if method in config["methods"]]
    problems = []
    if "cluster_counts" in figures and not any(s["bandit"]["allocation"] not in ("uniform", "all") for s in settings):
        problems.append("figures: cluster_counts needs a method whose bandit.allocation looks at clusters")
    if "gradients" in figures and settings and settings[0]["train"]["parameters"] == "full":
        problems.append(
            f"figures: gradients are measured over adapters, and {config['compare'][0]}, the first method, trains all "
            "parameters; compare another first, or leave the figure out"
        )
    judged = {"feedback": config["feedback"], "reward": config["evaluation"]["evaluator"]}
    if "cost_to_reach" in tables and target in judged and judged[target]["kind"] in ("judge", "dataset"):
        problems.append(
            f"evaluation.target.measure: {target} is no number, as a {judged[target]['kind']} gives none; use another"
        )
    return problems


def impossible_method(settings: dict) -> list[str]:
    """Choices of one method that cannot stand together, each with the reason."""
    bandit, generation, train = settings["bandit"], settings["generation"], settings["train"]
    sampler, loss, rule = generation["sampler"], train["loss"], train["beta_rule"]
    n, sampling = generation["n"], Sampling(sampler, generation["n"], Mixp(**generation["mixp"]))
    answers = len(SAMPLERS[sampler](n, [0.0] * n, sampling.mixp))
    found = {
        "generation.temperature: 0 makes all responses of a prompt equal": (
            generation["temperature"] == 0 and sampler != "dataset"
        ),
        f"generation.engine: vllm cannot mix two models' logits, as sampler {sampler} does; use auto or transformers": (
            generation["engine"] == "vllm" and mixes_logits(sampling)
        ),
        f"generation.n: sampler {sampler} answers in groups, {answers} of n: {n}; take an n that they fill": (
            models_of(sampling) and answers != n
        ),
        f"generation.sampler: {sampler} needs a reference other than the policy, and reference.kind previous is "
        "the policy before each round; use sampler policy or another reference": (
            settings["reference"]["kind"] == "previous" and "reference" in models_of(sampling)
        ),
        f"generation.sampler: dataset needs responses, and prompts.format {settings['prompts']['format']} has none": (
            sampler == "dataset" and settings["prompts"]["format"] in PROMPTS_ONLY
        ),
        f"pairs.metric: {settings['pairs']['metric']} compares with the reference, and reference.kind previous is the "
        "policy that answered: all pairs would be alike": (
            settings["reference"]["kind"] == "previous" and settings["pairs"]["metric"] in NEEDS_REFERENCE
        ),
        f"bandit.metric: {bandit['metric']} compares with the reference, and reference.kind previous is the policy "
        "that answered: all arms would be alike": (
            settings["reference"]["kind"] == "previous"
            and bandit["metric"] in NEEDS_REFERENCE
            and bandit["allocation"] not in ("uniform", "all")
        ),
        "bandit.neighbours: exp3 keeps weights of its own, which no neighbour shares": (
            bandit["allocation"] == "exp3" and bandit["neighbours"] > 0
        ),
        "feedback.kind: dataset knows the data set's own responses only; it needs generation.sampler dataset": (
            settings["feedback"]["kind"] == "dataset" and sampler != "dataset"
        ),
        f"train.loss: xpo needs a response of the reference, and sampler {sampler} gives none; use policy_reference": (
            loss == "xpo" and REFERENCE not in possible(sampling)
        ),
        f"bandit.normalise: allocation {bandit['allocation']} needs rewards in [0, 1], which only rank gives": (
            bandit["allocation"] in ("thompson", "exp3") and bandit["normalise"] != "rank"
        ),
        "train.beta_schedule.values: beta_rule schedule needs at least one": (
            rule == "schedule" and not train["beta_schedule"]["values"]
        ),
        f"train.beta_risk.beta_min: loss {loss} divides by beta, so it must be above 0": (
            rule.startswith("risk") and loss in ("ipo", "ipo_mean", "sppo") and train["beta_risk"]["beta_min"] == 0
        ),
        f"train.beta: {train['beta']} lies outside train.beta_risk.beta_min and beta_max": (
            rule.startswith("risk")
            and not train["beta_risk"]["beta_min"] <= train["beta"] <= train["beta_risk"]["beta_max"]
        ),
        "train.micro_batch_size: larger than train.batch_size": train["micro_batch_size"] > train["batch_size"],
    }
    return [problem for problem, holds in found.items() if holds]


def too_little(settings: dict) -> list[str]:
    """What a run is too short for, or its prompts too few, as far as config tells."""
    bandit, pairs, train, take = settings["bandit"], settings["pairs"], settings["train"], settings["prompts"]["take"]
    problems = []
    wanted = bandit["budget"] * settings["steps"] * settings["rounds"]
    if take is not None and bandit["allocation"] != "all" and not bandit["reuse"]:
        left = take - min(max(1, round(settings["prompts"]["eval_fraction"] * take)), take - 1)
        if wanted > left:
            problems.append(
                f"bandit.budget: {bandit['budget']} a step come to {wanted} prompts in all, and prompts.take leaves "
                f"{left} for training; lower it, take more, or set bandit.reuse: true"
            )
    if train["beta_rule"].startswith("risk") and pairs["top_n"] is not None:
        steps = train["epochs"] * math.ceil(pairs["top_n"] / train["batch_size"])
        steps *= settings["rounds"] if train["carry_beta"] else 1
        if steps <= train["beta_risk"]["warmup"]:
            problems.append(
                f"train.beta_risk.warmup: {train['beta_risk']['warmup']} steps, and the rule sees {steps} at most: "
                "beta would never move; lower it or train longer"
            )
    return problems


def impossible_feedback(where: str, feedback: dict, config: dict) -> list[str]:
    """What a feedback of this kind cannot do without, and reward models that nobody trains."""
    kind, model, judge = feedback["kind"], feedback["model"], feedback["judge"]
    problems = []
    if kind in feedback and not feedback[kind]:  # kind function has its setting `function`
        problems.append(f"{where}: kind {kind} needs {where}.{kind}")
    if kind == "reward_model" and not model:
        problems.append(f"{where}: kind reward_model needs {where}.model")
    if kind == "judge" and bool(model) == bool(judge["base_url"]):
        problems.append(f"{where}: kind judge needs either {where}.model or, for a server, judge.base_url")
    if kind == "judge" and judge["base_url"] and not judge["model"]:
        problems.append(f"{where}.judge.model: the server's name of its model is missing")
    if kind == "judge" and model and model.startswith(TRAINED):
        problems.append(f"{where}.model: {model} gives rewards and writes no answers; a judge is a language model")
    if model and model.startswith(TRAINED) and model.removeprefix(TRAINED) not in config["reward_models"]:
        known = ", ".join(config["reward_models"]) or "none"
        problems.append(f"{where}.model: {model}, but reward_models has no such name; known: {known}")
    return problems


def impossible_export(config: dict) -> list[str]:
    """Exports of runs that there are not, and repositories that are none or would be overwritten by another export."""
    export = config["export"]
    known = {"methods": config["compare"], "seeds": config["seeds"], "rounds": range(1, config["rounds"] + 1)}
    problems = [
        f"export.{key}: {name} is none of {', '.join(map(str, names))}"
        for key, names in known.items()
        for name in export[key] or []
        if name not in names
    ]
    wanted = [repository_of(export["hub_id"], where) for where in exports_of(config)] if export["hub_id"] else []
    problems += [f"export.hub_id: {name!r} is not owner/name" for name in wanted if not HUB_ID.fullmatch(name)]
    if len(set(wanted)) < len(wanted):
        problems.append(
            f"export.hub_id: {len(wanted)} exports would overwrite each other in {wanted[0]}; "
            "tell them apart by {method}, {seed} and {round}"
        )
    return problems


def unusable(where: str, text: str) -> list[str]:
    """Why a text of config can be no part of a workflow: what no file or command can hold, and secrets.

    All other texts are safe, as they reach programs quoted for the shell.
    """
    problems, key = [], where.split(".")[-1]
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t" for c in text):
        problems.append("holds a control character")
    if set(text) & set("{}<>") and key in FILES and not where.endswith("judge.model"):
        problems.append(f"{text!r}: Snakemake reads {{…}} and <…> in file names as patterns; rename the file or folder")
    if re.search(r"://[^/\s]*@", text):
        problems.append(
            "an address with a user name or password in it, which would stand in command lines and logs; "
            "put a key into an environment variable"
        )
    return problems


def texts(value, where: str = "") -> Iterable[tuple[str, str]]:
    """Key and value of every text."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, where)
    elif isinstance(value, str):
        yield where, value


def not_finite(value, where: str = "") -> Iterable[tuple[str, float]]:
    """Key and value of every infinity and NaN, which YAML can write and no schema bound refuses."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from not_finite(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, float) and not math.isfinite(value):
        yield where, value
