"""Checks for contradictory settings of evaluation, figures and tables. Each error gives the reason and a fix.

As in `consistency`, a check fails if its condition is true.
"""

from prefloop.config.checks import failed
from prefloop.config.experiment import CHOSEN
from prefloop.config.measure_checks import impossible_perplexity, impossible_validation
from prefloop.config.messages import no_choice
from prefloop.config.method_consistency import AT_RANDOM
from prefloop.config.outputs import FIGURES
from prefloop.config.resolve import (
    asks_judge,
    baseline_of,
    gives_rewards,
    measure_words,
    of_method,
    reward_sources,
    target_measure,
)
from prefloop.core.own_functions import is_own, split


def impossible_evaluation(config: dict) -> list[str]:
    """Return errors of evaluation settings, such as opponents and baselines that the experiment does not have."""
    evaluation, methods = config["evaluation"], config["compare"]
    first, *others = evaluation["opponents"]
    checks = [
        (
            first not in ("initial", CHOSEN),
            f"evaluation.opponents: {first} comes first, but figures need initial or {CHOSEN} as first opponent",
        )
    ]
    for name in others:
        known = ("initial", CHOSEN, *methods)
        checks.append(
            (
                name not in known,
                f"evaluation.opponents: {name} is not one of {', '.join(known)}; choose one, or add it to compare",
            )
        )
    for key, names in {
        "baseline": [evaluation["baseline"]] if evaluation["baseline"] else [],
        "primary.method": [evaluation["primary"]["method"]] if evaluation["primary"]["method"] is not None else [],
        "by_temperature.methods": evaluation["by_temperature"]["methods"] or [],
        "by_checkpoint.methods": evaluation["by_checkpoint"]["methods"] or [],
    }.items():
        for name in names:
            message = f"evaluation.{key}: {name} is not one of {', '.join(methods)}; choose one, or add it to compare"
            checks.append((name not in methods, message))
    for section in ("target", "primary", "validation"):
        word, words = evaluation[section]["measure"], measure_words(config)
        checks.append((word not in words, f"evaluation.{section}.measure: {no_choice(word, words)}"))
    problems = impossible_primary(config) + impossible_benchmark(config)
    return failed(checks) + problems + impossible_perplexity(config) + impossible_validation(config)


def impossible_primary(config: dict) -> list[str]:
    """Return errors of the primary contrast: the baseline against itself, or a measure without numbers."""
    method, measure = config["evaluation"]["primary"]["method"], target_measure(config, "primary")
    source = reward_sources(config).get(measure)
    return failed(
        [
            (
                method is not None and method == baseline_of(config),
                f"evaluation.primary.method: {method} is the baseline, so there is no contrast; choose another method, "
                "or set evaluation.baseline",
            ),
            (
                method is not None and source is not None and not gives_rewards(source),
                f"evaluation.primary.measure: {measure} is not available, because kind {(source or {}).get('kind')} "
                "gives no rewards; set it to win",
            ),
            (
                method is None and config["evaluation"]["primary"]["measure"] != "auto",
                "evaluation.primary.method: missing; name the method of the primary contrast, or remove its measure",
            ),
        ]
    )


def impossible_benchmark(config: dict) -> list[str]:
    """Return errors of a benchmark: no command, no value to plot, or a command without the model or the output."""
    benchmark = config["evaluation"]["benchmark"]
    missing = [name for name in ("{model}", "{output}") if name not in (benchmark["command"] or "")]
    return failed(
        [
            (
                "benchmark" in config["figures"] and not (benchmark["command"] and benchmark["value"]),
                "figures: benchmark needs evaluation.benchmark.command and evaluation.benchmark.value; set both",
            ),
            (
                bool(benchmark["command"]) and bool(missing),
                f"evaluation.benchmark.command: has no {' and no '.join(missing)}; the command needs {{model}}, the "
                "model's folder, and {output}, the folder for its files",
            ),
        ]
    )


def impossible_figures(config: dict) -> list[str]:
    """Return errors of figures and tables that the methods or their feedback leave without data."""
    figures, tables, methods = config["figures"], config["tables"], config["compare"]
    settings = [of_method(config, method) for method in methods if method in config["methods"]]
    own_figures = [split(figure)[1] for figure in figures if is_own(figure)]
    clashes = [name for name in own_figures if own_figures.count(name) > 1 or name in FIGURES]
    rewards = reward_sources(config)
    without_numbers = [name for name, feedback in rewards.items() if not gives_rewards(feedback)]
    target = target_measure(config)
    alternatives = " or ".join(name for name in ("win", *rewards) if name not in without_numbers)
    kind = rewards[target]["kind"] if target in rewards else ""
    return failed(
        [
            (
                not methods and bool(set(figures) - {"tabular"} or tables),
                "compare: names no method, but figures and tables need one; name a method, or set figures: [tabular] "
                "and tables: []",
            ),
            (
                bool(clashes),
                f"figures: {', '.join(clashes[:1])} is also the name of another figure; rename your function",
            ),
            (
                "checkpoints" in figures and not config["evaluation"]["by_checkpoint"]["steps"],
                "figures: checkpoints need evaluation.by_checkpoint.steps; list optimizer steps, such as [8, 16]",
            ),
            (
                "cluster_counts" in figures and all(s["bandit"]["allocation"] in AT_RANDOM for s in settings),
                "figures: cluster_counts needs a method whose bandit.allocation uses clusters",
            ),
            (
                "sweep" in figures and not any(config["methods"].get(m, {}).get("sweep") for m in methods),
                "figures: sweep needs values of settings; set `sweep`, for example to {train.beta: [0.05, 0.1]}",
            ),
            (
                "gradients" in figures and bool(settings) and settings[0]["train"]["parameters"] == "full",
                f"figures: gradients are measured on adapters, but {', '.join(methods[:1])}, the first method, "
                "trains all parameters; put another method first in compare, or remove the figure",
            ),
            (
                "judge_answers" in tables and not asks_judge(config),
                "tables: judge_answers needs a judge as feedback or evaluator; remove it",
            ),
            (
                "cost_to_reach" in tables and target in without_numbers,
                f"evaluation.target.measure: {target} is not available, because kind {kind} gives no rewards; set it "
                f"to {alternatives}, or remove cost_to_reach from tables",
            ),
        ]
    )
