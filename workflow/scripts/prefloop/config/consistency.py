"""Checks for settings that contradict each other. Each error gives the reason and a fix.

Every function makes a list of checks (condition, message). A check fails if its condition is true. Snakemake imports
this module at every start, so it imports nothing heavy.
"""

from prefloop.config.checks import failed
from prefloop.config.declarations import defaults
from prefloop.config.evaluation_consistency import impossible_evaluation, impossible_figures
from prefloop.config.experiment import CHOSEN
from prefloop.config.feedback_consistency import impossible_combination, impossible_noise, impossible_plan
from prefloop.config.method_consistency import (
    formats_without_responses,
    impossible_method,
    too_little,
)
from prefloop.config.overridden_settings import equal_variants, overridden_settings
from prefloop.config.prompt_settings import EvalPromptsSection, SourceConfig
from prefloop.config.resolve import (
    TRAINED,
    evaluators_of,
    exports_of,
    labels_of,
    of_method,
    repository_of,
)
from prefloop.config.source_names import SOURCE_FORM, configured_sources
from prefloop.config.start_checks import impossible_start
from prefloop.models.sources import HUB_ID

LEXICONS = "prefloop.feedback.lexicons:"  # packaged reward functions that count words of a list
MAX_JOINED_STEPS = 100  # Linux allows 128 KB per shell command; the five paths of a step have up to 1 KB
FIXED_FIELDS = ("messages", "model", "n", "stream")  # of a judge's request, which a config must not change


def contradictions(config: dict) -> list[str]:
    """Return one line per combination of settings that cannot run."""
    problems = impossible_evaluation(config) + impossible_figures(config) + impossible_export(config)
    problems += impossible_jobs(config)
    if config["compare"]:
        problems += missing_sources(config) + impossible_prompts(config)
        problems += impossible_feedback("feedback", config["feedback"], config)
        for key, evaluator in evaluators_of(config).items():
            problems += impossible_feedback(key, evaluator, config)
    by_problem: dict[str, list[str]] = {}
    if set(config["compare"]) <= set(config["methods"]):
        problems += impossible_start(config)
    for method in config["compare"]:
        if method not in config["methods"]:
            problems.append(f"compare: no method {method}; known: {', '.join(config['methods'])}")
            continue
        settings = of_method(config, method)
        if settings["feedback"] != config["feedback"]:
            problems += impossible_feedback(f"methods.{method}.feedback", settings["feedback"], config)
        for problem in impossible_method(settings) + too_little(settings, config, method):
            by_problem.setdefault(problem, []).append(method)
    labels = [labels_of(config)[method] for method in config["compare"]]
    for label in dict.fromkeys(label for label in labels if labels.count(label) > 1):
        problems.append(f"methods: two compared methods are shown as {label!r}; give one of them another label")
    for problem, methods in by_problem.items():
        problems.append(f"{problem} (method{'s' * (len(methods) > 1)} {', '.join(methods)})")
    return list(dict.fromkeys(problems))


def missing_sources(config: dict) -> list[str]:
    """Return errors for missing required settings: the policy, the prompts, and the pairs of a reward model."""
    prompts, eval_set = config["prompts"], config["evaluation"]["prompts"]
    checks = [
        (
            config["policy"]["model"] is None,
            "policy.model: missing; name the model to align, as owner/name",
        ),
        (not configured_sources(prompts), f"prompts.source: missing; name your prompts: {SOURCE_FORM}"),
        (
            not configured_sources(eval_set) and eval_set != defaults(EvalPromptsSection),
            f"evaluation.prompts.source: missing, but other keys are set; name the evaluation set: {SOURCE_FORM}",
        ),
    ]
    for name, model in config["reward_models"].items():
        message = f"reward_models.{name}.source: missing; name your pairs: {SOURCE_FORM}"
        checks.append((model["source"] is None, message))
    return failed(checks)


def impossible_sources(where: str, section: dict) -> list[str]:
    """Return errors of prompt sources: conflicting keys, shares that do not add up, and templates that are ignored."""
    sources, several = configured_sources(section), bool(section["sources"])
    changed = [name for name in defaults(SourceConfig) if section[name] != defaults(SourceConfig)[name]]
    changed += ["messages_template"] * bool(section["messages_template"])
    shares = [source["share"] for source in sources if several and source["share"] is not None]
    checks = [
        (
            several and bool(changed),
            f"{where}.{''.join(changed[:1])}: the entries of {where}.sources have their own; set one of the two",
        ),
        (
            several and any(source["source"] is None for source in sources),
            f"{where}.sources: an entry has no source; name each: {SOURCE_FORM}",
        ),
        (
            bool(shares)
            and section["take"] is not None
            and (len(shares) < len(sources) or abs(sum(shares) - 1) > 1e-6),
            f"{where}.sources: {len(shares)} of {len(sources)} have a share of take, with sum {sum(shares):g}; give "
            "all of them a share, with sum 1, or none",
        ),
    ]
    for source in sources:
        template = source["messages_template"]
        role = template[-1]["role"] if template else "user"
        checks += [
            (
                bool(template) and source["format"] != "columns",
                f"{where}.messages_template: only for {where}.format columns; other formats define the messages",
            ),
            (role != "user", f"{where}.messages_template: ends with role {role}; put a user message last"),
        ]
    return failed(checks)


def impossible_prompts(config: dict) -> list[str]:
    """Return errors of prompt sources, and of settings that need responses which the data set does not have."""
    prompts, evaluation = config["prompts"], config["evaluation"]
    eval_set = evaluation["prompts"] if configured_sources(evaluation["prompts"]) else prompts
    without_responses, opponents = formats_without_responses(prompts), formats_without_responses(eval_set)
    checks = [
        *(
            (
                evaluator["kind"] == "dataset",
                f"{key}: the data set has no preference between new samples; choose another kind",
            )
            for key, evaluator in evaluators_of(config).items()
        ),
        (
            config["sft"]["enabled"] and 0 < len(without_responses) == len(configured_sources(prompts)),
            f"sft.enabled: prompts.format {', '.join(without_responses)} has no chosen responses; set it to false",
        ),
        (
            CHOSEN in evaluation["opponents"] and bool(opponents),
            f"evaluation.opponents: prompts.format {', '.join(opponents)} has no {CHOSEN} responses; use initial",
        ),
    ]
    sections = {"prompts": prompts, "evaluation.prompts": evaluation["prompts"]}
    return failed(checks) + [problem for item in sections.items() for problem in impossible_sources(*item)]


def impossible_jobs(config: dict) -> list[str]:
    """Return errors of settings that divide stages into jobs in contradictory ways."""
    return failed(
        [
            (
                config["join_steps"] and config["shards"] > 1,
                f"join_steps: true, but shards: {config['shards']} divides each step into jobs; set join_steps: false "
                "or shards: 1",
            ),
            (
                config["join_steps"] and config["share_first_step"],
                "share_first_step: true, but join_steps: true runs all steps of a round as one job; set one of them "
                "to false",
            ),
            (
                config["join_steps"] and config["steps"] > MAX_JOINED_STEPS,
                f"join_steps: true, but a command can name the files of {MAX_JOINED_STEPS} steps, not of "
                f"{config['steps']}; set join_steps: false or lower steps",
            ),
        ]
    )


def impossible_feedback(where: str, feedback: dict, config: dict) -> list[str]:
    """Return errors of one feedback section: missing or contradictory settings, and undeclared reward models."""
    kind, model, judge = feedback["kind"], feedback["model"], feedback["judge"]
    request = judge["request"]
    fixed = [name for name in FIXED_FIELDS if name in {*request["extra"], *request["rename"].values()}]
    twice = [name for name in request["drop"] if name in request["rename"]]
    trained = bool(model) and model.startswith(TRAINED)
    example = ", as module:function" if kind == "function" else ""
    known = ", ".join(config["reward_models"]) or "none"
    problems = impossible_noise(where, feedback) + impossible_combination(where, feedback, config["reward_models"])
    problems += impossible_plan(where, feedback)
    return problems + failed(
        [
            # A kind and its own setting have the same name: kind function has the setting `function`.
            (kind in feedback and not feedback[kind], f"{where}: kind {kind} needs {where}.{kind}{example}"),
            (
                kind == "reward_model" and not model,
                f"{where}: kind reward_model needs {where}.model, as owner/name or trained:<name>",
            ),
            (
                kind == "judge" and bool(model) == bool(judge["base_url"]),
                f"{where}: kind judge needs either {where}.model or, for a server, judge.base_url",
            ),
            (
                kind == "judge" and bool(judge["base_url"]) and not judge["model"],
                f"{where}.judge.model: missing; set it to the server's name for its model, as in /v1/models",
            ),
            (
                kind == "judge" and bool(judge["base_url"]) and bool(feedback["template_date"]),
                f"{where}.template_date: a server applies its model's chat template itself; remove it",
            ),
            (
                kind == "judge" and bool(fixed),
                f"{where}.judge.request: sets {', '.join(fixed)}, which must not be changed; remove it",
            ),
            (
                kind == "judge" and bool(twice),
                f"{where}.judge.request: {', '.join(twice)} is both dropped and renamed; do one of the two",
            ),
            (
                kind == "judge" and trained,
                f"{where}.model: {model} is a reward model, which writes no answers; name a language model",
            ),
            (
                kind in ("judge", "dataset") and feedback["length_penalty"] is not None,
                f"{where}.length_penalty: kind {kind} gives no rewards, so nothing can be subtracted from them; set it "
                "to null",
            ),
            (
                trained and model.removeprefix(TRAINED) not in config["reward_models"],
                f"{where}.model: {model}, but reward_models has no such name; known: {known}",
            ),
        ]
    )


def impossible_export(config: dict) -> list[str]:
    """Return errors of exports: unknown runs, and exports that would overwrite each other."""
    export = config["export"]
    known = {"methods": config["compare"], "seeds": config["seeds"], "rounds": range(1, config["rounds"] + 1)}
    checks = []
    for key, names in known.items():
        listed = ", ".join(map(str, names))
        for name in export[key] or []:
            checks.append(
                (name not in names, f"export.{key}: {name} is not one of {listed}, which this experiment has")
            )
    wanted = [repository_of(export["hub_id"], run) for run in exports_of(config)] if export["hub_id"] else []
    for name in wanted:
        checks.append(
            (not HUB_ID.fullmatch(name), f"export.hub_id: {name!r}, expected owner/name, such as me/my-model")
        )
    checks.append(
        (
            len(set(wanted)) < len(wanted),
            f"export.hub_id: {len(wanted)} exports would overwrite each other in {''.join(wanted[:1])}; distinguish "
            "them by {method}, {seed} and {round}",
        )
    )
    return failed(checks)


def doubts(config: dict) -> list[str]:
    """Return one warning per setting that can run but probably gives no useful result."""
    evaluation = config["evaluation"]
    trained = [of_method(config, method)["feedback"] for method in config["compare"]]
    other_feedback = [feedback for feedback in trained if feedback["kind"] != "dataset" and not is_lexicon(feedback)]
    return failed(
        [
            *(
                (
                    bool(other_feedback) and is_lexicon(evaluator),
                    f"{key}: {evaluator['function']} counts words of a list, which says little about policies trained "
                    "on another reward; name your own evaluator",
                )
                for key, evaluator in evaluators_of(config).items()
            ),
            (
                evaluation["samples"] > 1 and evaluation["temperature"] == 0,
                f"evaluation.samples: {evaluation['samples']}, but at evaluation.temperature 0 all samples of a prompt "
                "are equal; raise the temperature, or set samples to 1",
            ),
        ]
    ) + [*overridden_settings(config), *equal_variants(config)]


def is_lexicon(feedback: dict) -> bool:
    """Whether a feedback is one of the packaged word lists."""
    return feedback["kind"] == "function" and (feedback["function"] or "").startswith(LEXICONS)
