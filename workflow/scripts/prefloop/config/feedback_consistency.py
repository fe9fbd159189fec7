"""Checks of a feedback's noise, judged pairs and sources; see `consistency`.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

from prefloop.config.checks import failed
from prefloop.config.feedback_identity import column_names
from prefloop.config.feedback_settings import MEMBER_KINDS, RESERVED_NAMES
from prefloop.config.resolve import COMBINED, TRAINED, feedback_sources


def impossible_noise(where: str, feedback: dict) -> list[str]:
    """Return errors of noise in evaluation, or in feedback without rewards."""
    noisy, is_judge = feedback["noise"]["kind"] is not None, feedback["kind"] == "judge"
    evaluates = where.startswith("evaluation.")
    return failed(
        [
            (
                noisy and evaluates,
                f"{where}.noise.kind: evaluation has no noise; set it to null, and use feedback.noise for training "
                "labels",
            ),
            (
                noisy and is_judge and not evaluates,
                f"{where}.noise.kind: noise is added to rewards, but a judge gives none; set it to null",
            ),
        ]
    )


def impossible_plan(where: str, feedback: dict) -> list[str]:
    """Return errors of a judge that evaluates with a plan for fewer pairs: evaluation has one pair per prompt."""
    plan = feedback["judge"]["pairs"]
    return failed(
        [
            (
                where.startswith("evaluation.") and feedback["kind"] == "judge" and plan != "all",
                f"{where}.judge.pairs: {plan}, but evaluation has one pair per prompt; set it to all",
            )
        ]
    )


def impossible_combination(where: str, feedback: dict, reward_models: dict) -> list[str]:
    """Return errors of the sources of a sum or an ensemble, such as sources without rewards and repeated names."""
    kind = feedback["kind"]
    if kind not in COMBINED:
        return []
    sources, where = feedback_sources(feedback), f"{where}.sources"
    names = column_names(sources)
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    reserved = [name for name in names if name in RESERVED_NAMES]
    checks = [
        (not sources, f"{where}: empty, but kind {kind} needs functions or reward models; list them"),
        (
            kind == "ensemble" and len(sources) == 1,
            f"{where}: one member, but an ensemble needs at least two; add one, or use the member's kind",
        ),
        (
            kind == "ensemble" and any(source["weight"] != 1 for source in sources),
            f"{where}: an ensemble is the mean of its members; remove weight, or use kind sum",
        ),
        (
            bool(twice),
            f"{where}: several sources have the name {', '.join(twice)}, but each needs its own column; set name",
        ),
        (
            bool(reserved),
            f"{where}: {', '.join(reserved)} is the name of another column; give the source another name",
        ),
    ]
    known = ", ".join(reward_models) or "none"
    for source in sources:
        source_kind, model = source["kind"], source["model"] or ""
        checks += [
            (
                source_kind not in MEMBER_KINDS,
                f"{where}: kind {source_kind} is not one of {', '.join(MEMBER_KINDS)}, which give one reward per "
                "response; choose one of these",
            ),
            (
                source_kind == "function" and not source["function"],
                f"{where}: kind function needs function, as module:function",
            ),
            (
                source_kind == "reward_model" and not model,
                f"{where}: kind reward_model needs model, as owner/name or trained:<name>",
            ),
            (
                source_kind == "reward_model"
                and model.startswith(TRAINED)
                and model.removeprefix(TRAINED) not in reward_models,
                f"{where}: model {model}, but reward_models has no such name; known: {known}",
            ),
        ]
    return failed(checks)
