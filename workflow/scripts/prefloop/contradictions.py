"""What no single key of a config shows: combinations that could not run, each with the reason and a way out.

Snakemake reads this at every start, so nothing heavy is imported here.
"""

import math

from prefloop.config import HUB_ID, TRAINED, exports_of, gives_rewards, of_method, repository_of, target_measure
from prefloop.experiment import CHOSEN
from prefloop.presence import lines_up_to
from prefloop.registries import registry_words
from prefloop.samplers import REFERENCE, SAMPLERS, Mixp, Sampling, mixes_logits, models_of, possible

PROMPTS_ONLY = registry_words("formats.PROMPTS_ONLY")
AT_RANDOM = registry_words("bandit.AT_RANDOM")
NEEDS_REFERENCE = registry_words("metrics.NEEDS_REFERENCE")


def contradictions(config: dict) -> list[str]:
    """What no single key shows: combinations that could not run, found before any job."""
    evaluator = config["evaluation"]["evaluator"]
    problems = impossible_feedback("feedback", config["feedback"], config)
    problems += impossible_feedback("evaluation.evaluator", evaluator, config)
    if evaluator["kind"] == "dataset":
        problems.append("evaluation.evaluator: the data set has no preference between new samples; name another kind")
    if config["sft"]["enabled"] and config["prompts"]["format"] in PROMPTS_ONLY:
        problems.append(f"sft.enabled: prompts.format {config['prompts']['format']} has no chosen responses; set false")
    if config["prompts"]["messages_template"] and config["prompts"]["format"] != "columns":
        problems.append("prompts.messages_template: only with prompts.format columns; a data set's format has its own")
    template = config["prompts"]["messages_template"]
    if template and template[-1]["role"] != "user":
        problems.append(
            f"prompts.messages_template: ends with role {template[-1]['role']}, expected user; move it last"
        )
    problems += impossible_evaluation(config)
    problems += impossible_export(config)
    by_problem: dict[str, list[str]] = {}
    for method in config["compare"]:
        if method not in config["methods"]:
            problems.append(f"compare: no method {method}; known: {', '.join(config['methods'])}")
            continue
        settings = of_method(config, method)
        if settings["feedback"] != config["feedback"]:
            problems += impossible_feedback(f"methods.{method}.feedback", settings["feedback"], config)
        for problem in impossible_method(settings) + too_little(settings, config, method):
            by_problem.setdefault(problem, []).append(method)
    for problem, methods in by_problem.items():
        problems.append(f"{problem} (method{'s' * (len(methods) > 1)} {', '.join(methods)})")
    return list(dict.fromkeys(problems))


def impossible_evaluation(config: dict) -> list[str]:
    """Opponents, baselines and figures that the experiment has nothing for."""
    evaluation, methods, figures = config["evaluation"], config["compare"], config["figures"]
    first, *others = evaluation["opponents"]
    theory = {"tabular"}
    problems = []
    if first not in ("initial", CHOSEN):
        problems.append(f"evaluation.opponents: {first} is first, where all figures need initial or {CHOSEN}")
    problems += [
        f"evaluation.opponents: {name} is none of initial, {CHOSEN}, {', '.join(methods)}; take one, or compare it"
        for name in others
        if name not in ("initial", CHOSEN, *methods)
    ]
    for where, names in {
        "baseline": [evaluation["baseline"]],
        "by_temperature.methods": evaluation["by_temperature"]["methods"] or [],
        "by_checkpoint.methods": evaluation["by_checkpoint"]["methods"] or [],
    }.items():
        problems += [
            f"evaluation.{where}: {name} is none of {', '.join(methods)}; take one, or compare it"
            for name in names
            if name is not None and name not in methods
        ]
    if not methods and (set(figures) - theory or config["tables"]):
        problems.append(
            f"compare: names no method, which only figures: [{', '.join(theory)}] and tables: [] can do with"
        )
    if "checkpoints" in figures and not evaluation["by_checkpoint"]["steps"]:
        problems.append("figures: checkpoints need evaluation.by_checkpoint.steps; write optimizer steps, as [8, 16]")
    if CHOSEN in evaluation["opponents"] and config["prompts"]["format"] in PROMPTS_ONLY:
        problems.append(
            f"evaluation.opponents: prompts.format {config['prompts']['format']} has no {CHOSEN} responses; use initial"
        )
    problems += impossible_figures(config)
    return problems


def impossible_figures(config: dict) -> list[str]:
    """Figures and tables for which the compared methods, or who rewards them, have nothing to show."""
    figures, tables, target = config["figures"], config["tables"], target_measure(config)
    settings = [of_method(config, method) for method in config["compare"] if method in config["methods"]]
    problems = []
    if "cluster_counts" in figures and not any(s["bandit"]["allocation"] not in AT_RANDOM for s in settings):
        problems.append("figures: cluster_counts needs a method whose bandit.allocation looks at clusters")
    if "gradients" in figures and settings and settings[0]["train"]["parameters"] == "full":
        problems.append(
            f"figures: gradients are measured over adapters, and {config['compare'][0]}, the first method, trains all "
            "parameters; compare another first, or leave the figure out"
        )
    judged = {"feedback": config["feedback"], "reward": config["evaluation"]["evaluator"]}
    unpriced = [name for name, who in judged.items() if not gives_rewards(who)]
    if "cost_to_reach" in tables and target in unpriced:
        others = " or ".join(name for name in ("win", "feedback", "reward") if name not in unpriced)
        problems.append(
            f"evaluation.target.measure: {target} is no number, as a {judged[target]['kind']} gives none; set it to "
            f"{others}, or leave cost_to_reach out of tables"
        )
    return problems


def impossible_method(settings: dict) -> list[str]:
    """Choices of one method that cannot stand together, each with the reason."""
    bandit, generation, train = settings["bandit"], settings["generation"], settings["train"]
    sampler, loss, rule = generation["sampler"], train["loss"], train["beta_rule"]
    n, sampling = generation["n"], Sampling(sampler, generation["n"], Mixp(**generation["mixp"]))
    answers = len(SAMPLERS[sampler](n, [0.0] * n, sampling.mixp))
    found = {
        "generation.temperature: 0 makes all responses of a prompt equal, and equal ones are no pair; raise it": (
            generation["temperature"] == 0 and sampler != "dataset"
        ),
        f"generation.engine: vllm cannot mix two models' logits, as sampler {sampler} does; use auto or transformers": (
            generation["engine"] == "vllm" and mixes_logits(sampling)
        ),
        f"generation.n: {n}, and the groups of sampler {sampler} make {answers}; take an n that they fill": (
            models_of(sampling) and answers != n
        ),
        f"generation.sampler: {sampler} needs a reference other than the policy, and reference.kind previous is "
        "the policy before each round; use sampler policy or another reference": (
            settings["reference"]["kind"] == "previous" and "reference" in models_of(sampling)
        ),
        f"generation.sampler: dataset needs responses, and prompts.format {settings['prompts']['format']} has none; "
        "take sampler policy": (sampler == "dataset" and settings["prompts"]["format"] in PROMPTS_ONLY),
        f"pairs.metric: {settings['pairs']['metric']} compares with the reference, and reference.kind previous is the "
        "policy that answered: all pairs would be alike; take another metric or reference": (
            settings["reference"]["kind"] == "previous" and settings["pairs"]["metric"] in NEEDS_REFERENCE
        ),
        f"bandit.metric: {bandit['metric']} compares with the reference, and reference.kind previous is the policy "
        "that answered: all arms would be alike; take another metric or reference": (
            settings["reference"]["kind"] == "previous"
            and bandit["metric"] in NEEDS_REFERENCE
            and bandit["allocation"] not in AT_RANDOM
        ),
        "bandit.neighbours: exp3 keeps weights of its own, which no neighbour shares; set it to 0": (
            bandit["allocation"] == "exp3" and bandit["neighbours"] > 0
        ),
        "feedback.kind: dataset knows the data set's own responses only; it needs generation.sampler dataset": (
            settings["feedback"]["kind"] == "dataset" and sampler != "dataset"
        ),
        f"train.loss: xpo needs a response of the reference, and sampler {sampler} gives none; use policy_reference": (
            loss == "xpo" and REFERENCE not in possible(sampling)
        ),
        f"bandit.normalise: allocation {bandit['allocation']} needs rewards in [0, 1], as rank gives; set rank": (
            bandit["allocation"] in ("thompson", "exp3") and bandit["normalise"] != "rank"
        ),
        "train.beta_schedule.values: empty, and beta_rule schedule needs at least one; write a list, as [0.2, 0.1]": (
            rule == "schedule" and not train["beta_schedule"]["values"]
        ),
        f"train.beta_risk.beta_min: loss {loss} divides by beta, so it must be above 0, as 1.0e-3": (
            rule.startswith("risk") and loss in ("ipo", "ipo_mean", "sppo") and train["beta_risk"]["beta_min"] == 0
        ),
        f"train.beta: {train['beta']} lies outside train.beta_risk.beta_min and beta_max; change one of them": (
            rule.startswith("risk")
            and not train["beta_risk"]["beta_min"] <= train["beta"] <= train["beta_risk"]["beta_max"]
        ),
        f"train.micro_batch_size: {train['micro_batch_size']} is larger than train.batch_size, {train['batch_size']}; "
        "lower it": train["micro_batch_size"] > train["batch_size"],
    }
    return [problem for problem, holds in found.items() if holds]


def for_training(prompts: dict, wanted: int) -> tuple[float, str, str]:
    """How many prompts are left for training at most, what limits them, and what gives more; infinite if unknown.

    A file of one's own has at most as many prompts as lines. They are counted no further than `wanted` needs.
    """
    there, limit, more = math.inf, "", ""
    if prompts["take"] is not None:
        there, limit, more = prompts["take"], "prompts.take", "take more"
    enough = 2 + math.ceil(wanted / (1 - prompts["eval_fraction"]))
    lines = lines_up_to(prompts["source"], enough)
    if lines is not None and lines < min(enough, there):
        there, limit, more = lines, f"prompts.source with {lines} lines", "add prompts"
    if there == math.inf:
        return there, limit, more
    held_out = max(1, round(prompts["eval_fraction"] * there))
    return max(there - held_out, min(1, there)), limit, more


def too_little(settings: dict, config: dict, method: str) -> list[str]:
    """What a run is too short for, or its prompts too few, as far as config tells."""
    bandit, pairs, train = settings["bandit"], settings["pairs"], settings["train"]
    k, n = settings["clusters"]["k"], settings["generation"]["n"]
    problems = []
    wanted = bandit["budget"] * settings["steps"] * settings["rounds"]
    left, limit, more = for_training(settings["prompts"], max(wanted, 0 if k == "elbow" else k))
    if wanted > left and bandit["allocation"] != "all" and not bandit["reuse"]:
        problems.append(
            f"bandit.budget: {bandit['budget']} a step come to {wanted} prompts in all, and {limit} leaves "
            f"{left} for training; lower it, {more}, or set bandit.reuse: true"
        )
    if k != "elbow" and k > left:
        problems.append(f"clusters.k: {k}, and {limit} leaves {left} to cluster; lower it or {more}")
    most = bandit["budget"] * settings["steps"] * math.comb(n, 2)
    sampled = settings["generation"]["sampler"] != "dataset"  # which has the one pair that it has
    if sampled and bandit["allocation"] != "all" and pairs["top_n"] is not None and pairs["top_n"] > most:
        problems.append(
            f"pairs.top_n: {pairs['top_n']}, and a round has {most} pairs at most; lower it, set it to null, or "
            "raise bandit.budget, steps or generation.n"
        )
    steps = math.inf
    if pairs["top_n"] is not None:
        steps = train["epochs"] * math.ceil(pairs["top_n"] / train["batch_size"])
    kept = config["evaluation"]["by_checkpoint"]
    if method in (kept["methods"] or config["compare"]) and max(kept["steps"], default=0) > steps:
        problems.append(
            f"evaluation.by_checkpoint.steps: {max(kept['steps'])}, and a round trains {steps} steps at most; "
            "lower it or train longer"
        )
    steps *= settings["rounds"] if train["carry_beta"] else 1
    if train["beta_rule"].startswith("risk") and steps <= train["beta_risk"]["warmup"]:
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
        example = ", as module:function" if kind == "function" else ""
        problems.append(f"{where}: kind {kind} needs {where}.{kind}{example}")
    if kind == "reward_model" and not model:
        problems.append(f"{where}: kind reward_model needs {where}.model, as owner/name or trained:<name>")
    if kind == "judge" and bool(model) == bool(judge["base_url"]):
        problems.append(f"{where}: kind judge needs either {where}.model or, for a server, judge.base_url")
    if kind == "judge" and judge["base_url"] and not judge["model"]:
        problems.append(f"{where}.judge.model: missing; write the server's name of its model, as /v1/models lists it")
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
        f"export.{key}: {name} is none of {', '.join(map(str, names))}, which this experiment has"
        for key, names in known.items()
        for name in export[key] or []
        if name not in names
    ]
    wanted = [repository_of(export["hub_id"], where) for where in exports_of(config)] if export["hub_id"] else []
    problems += [
        f"export.hub_id: {name!r} is not owner/name, as me/my-model" for name in wanted if not HUB_ID.fullmatch(name)
    ]
    if len(set(wanted)) < len(wanted):
        problems.append(
            f"export.hub_id: {len(wanted)} exports would overwrite each other in {wanted[0]}; "
            "tell them apart by {method}, {seed} and {round}"
        )
    return problems
