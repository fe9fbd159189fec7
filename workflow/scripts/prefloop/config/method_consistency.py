"""Settings of one method that contradict each other; see `consistency`."""

import math

from prefloop.config.source_names import configured_sources, lines_up_to
from prefloop.core.registry import chosen_words, registry_words
from prefloop.methods.samplers import REFERENCE, SAMPLERS, Mixp, Sampling, mixes_logits, models_of, possible_components

PROMPTS_ONLY = registry_words("data.formats.PROMPTS_ONLY")
AT_RANDOM = registry_words("methods.bandit.AT_RANDOM")
OF_BATCH = registry_words("methods.losses.OF_BATCH")
NEEDS_REFERENCE = registry_words("methods.pair_metrics.NEEDS_REFERENCE")

Check = tuple[bool, str]  # whether it fails, and the message


def formats_without_responses(section: dict) -> list[str]:
    """The formats of a section's sources that have no responses."""
    return [source["format"] for source in configured_sources(section) if source["format"] in PROMPTS_ONLY]


def failed(checks: list[Check]) -> list[str]:
    """The messages of the checks that fail."""
    return [message for fails, message in checks if fails]


def impossible_method(settings: dict) -> list[str]:
    """Settings of one method that exclude each other."""
    return impossible_sampling(settings) + impossible_reference(settings) + impossible_training(settings)


def impossible_sampling(settings: dict) -> list[str]:
    """Samplers, allocations and feedback that do not fit."""
    bandit, generation, prompts = settings["bandit"], settings["generation"], settings["prompts"]
    sampler, n = generation["sampler"], generation["n"]
    without_responses = formats_without_responses(prompts)
    sampling = Sampling(sampler, n, Mixp(**generation["mixp"]))
    responses = len(SAMPLERS[sampler](n, [0.0] * n, sampling.mixp))
    return failed(
        [
            (
                generation["temperature"] == 0 and sampler != "dataset",
                "generation.temperature: 0 makes all responses of a prompt equal, and equal ones are no pair; raise it",
            ),
            (
                generation["engine"] == "vllm" and mixes_logits(sampling),
                f"generation.engine: vllm cannot mix two models' logits, as sampler {sampler} does; use auto or "
                "transformers",
            ),
            (
                bool(models_of(sampling)) and responses != n,
                f"generation.n: {n}, and the groups of sampler {sampler} make {responses}; take an n that they fill",
            ),
            (
                sampler == "dataset" and bool(without_responses),
                f"generation.sampler: dataset needs responses, and prompts.format {''.join(without_responses[:1])} has "
                "none; take sampler policy",
            ),
            (
                settings["feedback"]["kind"] == "dataset" and sampler != "dataset",
                "feedback.kind: dataset knows the data set's own responses only; it needs generation.sampler dataset",
            ),
            (
                "xpo" in chosen_words(settings["train"]["loss"]) and REFERENCE not in possible_components(sampling),
                f"train.loss: xpo needs a response of the reference, and sampler {sampler} gives none; use "
                "policy_reference",
            ),
            (
                bandit["allocation"] == "exp3" and bandit["neighbors"] > 0,
                "bandit.neighbors: exp3 keeps weights of its own, which no neighbor shares; set it to 0",
            ),
            (
                bandit["allocation"] in ("thompson", "exp3") and bandit["normalize"] != "rank",
                f"bandit.normalize: allocation {bandit['allocation']} needs rewards in [0, 1], as rank gives; set rank",
            ),
        ]
    )


def impossible_reference(settings: dict) -> list[str]:
    """Samplers and metrics that compare the policy with the reference, where both are the same model."""
    if settings["reference"]["kind"] != "previous":
        return []
    bandit, pairs, generation = settings["bandit"], settings["pairs"], settings["generation"]
    sampling = Sampling(generation["sampler"], generation["n"], Mixp(**generation["mixp"]))
    reason = "compares with the reference, and reference.kind previous is the policy that answered: all"
    return failed(
        [
            (
                "reference" in models_of(sampling),
                f"generation.sampler: {sampling.sampler} needs a reference other than the policy, and reference.kind "
                "previous is the policy before each round; use sampler policy or another reference",
            ),
            (
                pairs["metric"] in NEEDS_REFERENCE,
                f"pairs.metric: {pairs['metric']} {reason} pairs would be alike; take another metric or reference",
            ),
            (
                bandit["metric"] in NEEDS_REFERENCE and bandit["allocation"] not in AT_RANDOM,
                f"bandit.metric: {bandit['metric']} {reason} arms would be alike; take another metric or reference",
            ),
        ]
    )


def impossible_training(settings: dict) -> list[str]:
    """Losses, β rules and batches that do not fit."""
    train, risk = settings["train"], settings["train"]["beta_risk"]
    by_risk, losses = train["beta_rule"].startswith("risk"), chosen_words(train["loss"])
    divided_by_beta = [loss for loss in losses if loss in ("ipo", "ipo_mean", "sppo")]
    is_dora = train["parameters"] == "lora" and train["lora"]["dora"]
    of_batch = [loss for loss in losses if loss in OF_BATCH]
    return failed(
        [
            (
                is_dora and settings["reference"]["kind"] == "ema",
                "train.lora.dora: reference.kind ema averages what adapters add to the weights, and DoRA also scales "
                "them; set it to false or take another reference",
            ),
            (
                train["pair_weights"] is not None and bool(of_batch),
                f"train.pair_weights: {train['pair_weights']} weights single pairs, and loss {''.join(of_batch[:1])} "
                "depends on all pairs of a batch; set it to null or take another loss",
            ),
            (
                train["beta_rule"] == "schedule" and not train["beta_schedule"]["values"],
                "train.beta_schedule.values: empty, and beta_rule schedule needs at least one; write a list, as "
                "[0.2, 0.1]",
            ),
            (
                by_risk and bool(divided_by_beta) and risk["beta_min"] == 0,
                f"train.beta_risk.beta_min: loss {''.join(divided_by_beta[:1])} divides by beta, so it must be above "
                "0, as 1.0e-3",
            ),
            (
                "exo" in losses and train["label_smoothing"] == 0,
                "train.label_smoothing: loss exo needs a value above 0, as 1.0e-3",
            ),
            (
                by_risk and not risk["beta_min"] <= train["beta"] <= risk["beta_max"],
                f"train.beta: {train['beta']} is outside train.beta_risk.beta_min and beta_max; change one of them",
            ),
            (
                train["micro_batch_tokens"] is None and train["micro_batch_size"] > train["batch_size"],
                f"train.micro_batch_size: {train['micro_batch_size']} is larger than train.batch_size, "
                f"{train['batch_size']}; lower it",
            ),
        ]
    )


def for_training(prompts: dict, eval_fraction: float, wanted: int) -> tuple[float, str, str]:
    """The largest number of prompts left for training, what limits it, and how to raise it; infinite if unknown.

    A file has at most as many prompts as lines. They are counted no further than `wanted` needs.

    Args:
        prompts: The section prompts.
        eval_fraction: Fraction of the prompts that is held out; 0 if the evaluation set has a source of its own.
        wanted: Number of prompts that a run needs for training.
    """
    available, limit, more = math.inf, "", ""
    if prompts["take"] is not None:
        available, limit, more = prompts["take"], "prompts.take", "take more"
    enough = 2 + math.ceil(wanted / (1 - eval_fraction))
    lines = lines_up_to(prompts["source"] or "", enough)
    if lines is not None and lines < min(enough, available):
        available, limit, more = lines, f"prompts.source with {lines} lines", "add prompts"
    if available == math.inf:
        return available, limit, more
    evaluated = max(1, round(eval_fraction * available)) if eval_fraction else 0
    return max(available - evaluated, min(1, available)), limit, more


def too_little(settings: dict, config: dict, method: str) -> list[str]:
    """More prompts, pairs or optimizer steps than a run has, as far as the config shows."""
    bandit, pairs, k = settings["bandit"], settings["pairs"], settings["clusters"]["k"]
    wanted = bandit["budget"] * settings["steps"] * settings["rounds"]
    prompts, own_eval = settings["prompts"], configured_sources(config["evaluation"]["prompts"])
    eval_fraction = 0.0 if own_eval else prompts["eval_fraction"]
    left, limit, more = for_training(prompts, eval_fraction, max(wanted, 0 if k == "elbow" else k))
    most = bandit["budget"] * settings["steps"] * math.comb(settings["generation"]["n"], 2)
    sampled = settings["generation"]["sampler"] != "dataset"  # which has one pair per prompt
    checks = [
        (
            wanted > left and bandit["allocation"] != "all" and not bandit["reuse"],
            f"bandit.budget: {bandit['budget']} per step come to {wanted} prompts in all, and {limit} leaves {left} "
            f"for training; lower it, {more}, or set bandit.reuse: true",
        ),
        (k != "elbow" and k > left, f"clusters.k: {k}, and {limit} leaves {left} to cluster; lower it or {more}"),
        (
            sampled and bandit["allocation"] != "all" and (pairs["top_n"] or 0) > most,
            f"pairs.top_n: {pairs['top_n']}, and a round has {most} pairs at most; lower it, set it to null, or raise "
            "bandit.budget, steps or generation.n",
        ),
    ]
    return failed(checks) + too_few_steps(settings, config["evaluation"]["by_checkpoint"], method, config["compare"])


def too_few_steps(settings: dict, checkpoints: dict, method: str, compared: list[str]) -> list[str]:
    """Checkpoints and warm-ups after the last optimizer step."""
    train, top_n = settings["train"], settings["pairs"]["top_n"]
    steps = math.inf if top_n is None else train["epochs"] * math.ceil(top_n / train["batch_size"])
    seen = steps * (settings["rounds"] if train["carry_beta"] else 1)
    last, warmup = max(checkpoints["steps"], default=0), train["beta_risk"]["warmup"]
    return failed(
        [
            (
                method in (checkpoints["methods"] or compared) and last > steps,
                f"evaluation.by_checkpoint.steps: {last}, and a round trains {steps} steps at most; lower it or train "
                "longer",
            ),
            (
                train["beta_rule"].startswith("risk") and seen <= warmup,
                f"train.beta_risk.warmup: {warmup} steps, and the rule sees {seen} at most: beta would never change; "
                "lower it or train longer",
            ),
        ]
    )
