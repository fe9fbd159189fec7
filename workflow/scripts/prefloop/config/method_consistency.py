"""Checks for settings of one method that contradict each other; see `consistency`."""

import math

from prefloop.config.acquisition_checks import impossible_acquisition, labels_per_prompt
from prefloop.config.checks import failed
from prefloop.config.feature_checks import impossible_metrics, impossible_split
from prefloop.config.judge_checks import impossible_questions, pairs_per_prompt
from prefloop.config.quantization_checks import impossible_quantization
from prefloop.config.source_names import configured_sources, lines_up_to
from prefloop.core.registry import chosen_words, registry_words
from prefloop.methods.pairings import MIN_RESPONSES
from prefloop.methods.samplers import REFERENCE, SAMPLERS, Mixp, Sampling, mixes_logits, models_of, possible_components

PROMPTS_ONLY = registry_words("data.formats.PROMPTS_ONLY")
AT_RANDOM = registry_words("methods.bandit.AT_RANDOM")
OF_BATCH = registry_words("methods.losses.OF_BATCH")
NEEDS_REFERENCE = registry_words("methods.pair_metrics.NEEDS_REFERENCE")

# Losses that need something that pairs of the data set do not have.
NOT_IN_DATA_SET = {"xpo": "a response of the reference", "rev_kl": "rewards of the feedback"}


def formats_without_responses(section: dict) -> list[str]:
    """Return the formats of a section's sources that have no responses."""
    return [source["format"] for source in configured_sources(section) if source["format"] in PROMPTS_ONLY]


def impossible_method(settings: dict) -> list[str]:
    """Return errors of one method's settings that contradict each other."""
    return [
        problem
        for check in (
            impossible_sampling,
            impossible_acquisition,
            impossible_questions,
            impossible_reference,
            impossible_metrics,
            impossible_pairs,
            impossible_additions,
            impossible_training,
            impossible_split,
            impossible_quantization,
        )
        for problem in check(settings)
    ]


def impossible_sampling(settings: dict) -> list[str]:
    """Return errors of samplers, allocations and feedback that do not fit each other."""
    bandit, generation, prompts = settings["bandit"], settings["generation"], settings["prompts"]
    sampler, n = generation["sampler"], generation["n"]
    without_responses = formats_without_responses(prompts)
    sampling = Sampling(sampler, n, Mixp(**generation["mixp"]))
    responses = len(SAMPLERS[sampler](n, [0.0] * n, sampling.mixp))
    return failed(
        [
            (
                generation["temperature"] == 0 and sampler != "dataset",
                "generation.temperature: 0 makes all responses of a prompt equal, so they form no pairs; raise it",
            ),
            (
                generation["engine"] == "vllm" and mixes_logits(sampling),
                f"generation.engine: vllm cannot mix two models' logits, as sampler {sampler} does; use auto or "
                "transformers",
            ),
            (
                bool(models_of(sampling)) and responses != n,
                f"generation.n: {n}, but the groups of sampler {sampler} give {responses}; choose an n that they fill",
            ),
            (
                sampler == "dataset" and bool(without_responses),
                f"generation.sampler: dataset needs responses, but prompts.format {''.join(without_responses[:1])} has "
                "none; use sampler policy",
            ),
            (
                settings["feedback"]["kind"] == "dataset" and sampler != "dataset",
                "feedback.kind: dataset labels only the data set's own responses; set generation.sampler: dataset",
            ),
            (
                "xpo" in chosen_words(settings["train"]["loss"]) and REFERENCE not in possible_components(sampling),
                f"train.loss: xpo needs a response of the reference, but sampler {sampler} gives none; use "
                "policy_reference",
            ),
            (
                bandit["allocation"] == "exp3" and bandit["neighbors"] > 0,
                "bandit.neighbors: exp3 keeps its own weights, which neighbors do not share; set it to 0",
            ),
            (
                bandit["allocation"] in ("thompson", "exp3") and bandit["normalize"] != "rank",
                f"bandit.normalize: allocation {bandit['allocation']} needs rewards in [0, 1]; set it to rank",
            ),
        ]
    )


def impossible_reference(settings: dict) -> list[str]:
    """Return errors of samplers and metrics that compare the policy with a reference that is the same model."""
    if settings["reference"]["kind"] != "previous":
        return []
    bandit, pairs, generation = settings["bandit"], settings["pairs"], settings["generation"]
    sampling = Sampling(generation["sampler"], generation["n"], Mixp(**generation["mixp"]))
    reason = "compares with the reference, which for reference.kind previous is the sampling policy, so all"
    return failed(
        [
            (
                "reference" in models_of(sampling),
                f"generation.sampler: {sampling.sampler} needs a reference other than the policy, but reference.kind "
                "previous is the policy before each round; use sampler policy or another reference",
            ),
            (
                pairs["metric"] in NEEDS_REFERENCE,
                f"pairs.metric: {pairs['metric']} {reason} pairs would be equal; choose another metric or reference",
            ),
            (
                bandit["metric"] in NEEDS_REFERENCE and bandit["allocation"] not in AT_RANDOM,
                f"bandit.metric: {bandit['metric']} {reason} arms would be equal; choose another metric or reference",
            ),
        ]
    )


def impossible_pairs(settings: dict) -> list[str]:
    """Return errors of pairings and metrics that do not fit the responses or the first round."""
    pairs, sampler, labels = settings["pairs"], settings["generation"]["sampler"], labels_per_prompt(settings)
    key = "generation.n" if settings["acquisition"]["rule"] == "all" else "acquisition.labels"
    pairing, first = pairs["pairing"], pairs["first_metric"]
    least = MIN_RESPONSES.get(pairing, 0)
    return failed(
        [
            (
                bool(pairing) and sampler in ("best_worst", "dataset"),
                f"pairs.pairing: sampler {sampler} leaves one pair per prompt, so {pairing} has no choice; use sampler "
                "policy, or set pairing to null",
            ),
            (
                sampler not in ("best_worst", "dataset") and labels < least,
                f"pairs.pairing: {pairing} compares the best response with the worst of 5 random ones, which are "
                f"almost all for {key} {labels}; raise {key} to {least}, or use pairs.metric best_worst",
            ),
            (
                bool(pairing) and "best_worst" in (pairs["metric"], first),
                f"pairs.metric: best_worst keeps only the pair of the best and the worst response, which {pairing} "
                "rarely forms; choose another metric or set pairing to null",
            ),
            (
                first in NEEDS_REFERENCE,
                f"pairs.first_metric: {first} compares with the reference, which in round 1 is the policy, so all "
                "pairs would be equal; choose another, such as random",
            ),
            (
                first is not None and settings["rounds"] == 1,
                "pairs.first_metric: with rounds 1 pairs.metric is never used; raise rounds, or set first_metric to "
                "null",
            ),
        ]
    )


def impossible_additions(settings: dict) -> list[str]:
    """Return errors of added pairs: they do not exist, leave none of the round's own, or do not suit the loss."""
    pairs, losses = settings["pairs"], chosen_words(settings["train"]["loss"])
    replay, offline = pairs["replay"], pairs["offline_share"]
    without_responses = formats_without_responses(settings["prompts"])
    return failed(
        [
            (
                replay["share"] + offline >= 1,
                f"pairs.offline_share: {offline} and pairs.replay.share {replay['share']} leave nothing for a round's "
                "own pairs; keep their sum below 1",
            ),
            (
                replay["share"] > 0 and settings["rounds"] == 1,
                "pairs.replay.share: with rounds 1 there is no earlier round; raise rounds, or set it to 0",
            ),
            (
                replay["share"] == 0 and replay["rounds"] > 1,
                f"pairs.replay.rounds: {replay['rounds']}, but pairs.replay.share 0 replays nothing; set share, for "
                "example to 0.25",
            ),
            (
                offline > 0 and settings["generation"]["sampler"] == "dataset",
                "pairs.offline_share: with sampler dataset a round's own pairs are the data set's; set it to 0",
            ),
            (
                offline > 0 and bool(without_responses),
                f"pairs.offline_share: prompts.format {''.join(without_responses[:1])} has no responses; set it to 0",
            ),
            *(
                (
                    offline > 0 and word in losses,
                    f"pairs.offline_share: loss {word} needs {what}, which pairs of the data set lack; set it to 0",
                )
                for word, what in NOT_IN_DATA_SET.items()
            ),
        ]
    )


def impossible_training(settings: dict) -> list[str]:
    """Return errors of losses, β rules and batches that do not fit each other."""
    train, risk = settings["train"], settings["train"]["beta_risk"]
    by_risk, losses = train["beta_rule"].startswith("risk"), chosen_words(train["loss"])
    divided_by_beta = [loss for loss in losses if loss in ("ipo", "ipo_mean", "sppo")]
    is_dora = train["parameters"] == "lora" and train["lora"]["dora"]
    of_batch = [loss for loss in losses if loss in OF_BATCH]
    return failed(
        [
            (
                is_dora and settings["reference"]["kind"] == "ema",
                "train.lora.dora: reference.kind ema averages what adapters add to the weights, but DoRA also scales "
                "the weights; set it to false or choose another reference",
            ),
            (
                train["pair_weights"] is not None and bool(of_batch),
                f"train.pair_weights: {train['pair_weights']} weights single pairs, but loss {''.join(of_batch[:1])} "
                "depends on all pairs of a batch; set it to null or choose another loss",
            ),
            (
                train["beta_rule"] == "schedule" and not train["beta_schedule"]["values"],
                "train.beta_schedule.values: empty, but beta_rule schedule needs at least one; write a list such as "
                "[0.2, 0.1]",
            ),
            (
                by_risk and bool(divided_by_beta) and risk["beta_min"] == 0,
                f"train.beta_risk.beta_min: loss {''.join(divided_by_beta[:1])} divides by beta, so it must be above "
                "0, such as 1.0e-3",
            ),
            (
                "exo" in losses and train["label_smoothing"] == 0,
                "train.label_smoothing: loss exo needs a value above 0, such as 1.0e-3",
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
    """Return the maximum number of training prompts, what limits it, and how to raise it; infinite if unknown.

    A file has at most one prompt per line. Lines are counted only as far as `wanted` requires.

    Args:
        prompts: The section prompts.
        eval_fraction: Fraction of the prompts that is held out; 0 if the evaluation set has its own source.
        wanted: Number of prompts that a run needs for training.
    """
    available, limit, more = math.inf, "", ""
    if prompts["take"] is not None:
        available, limit, more = prompts["take"], "prompts.take", "raise prompts.take"
    enough = 2 + math.ceil(wanted / (1 - eval_fraction))
    lines = lines_up_to(prompts["source"] or "", enough)
    if lines is not None and lines < min(enough, available):
        available, limit, more = lines, f"prompts.source with {lines} lines", "add prompts"
    if available == math.inf:
        return available, limit, more
    evaluated = max(1, round(eval_fraction * available)) if eval_fraction else 0
    return max(available - evaluated, min(1, available)), limit, more


def too_little(settings: dict, config: dict, method: str) -> list[str]:
    """Return errors of settings that need more prompts, pairs or optimizer steps than a run has."""
    bandit, pairs, k = settings["bandit"], settings["pairs"], settings["clusters"]["k"]
    chooses = settings["acquisition"]["rule"] != "all"
    pool = settings["acquisition"]["pool"] if chooses else 1
    drawn = pool * bandit["budget"]
    wanted = drawn * settings["steps"] * settings["rounds"]
    prompts, own_eval = settings["prompts"], configured_sources(config["evaluation"]["prompts"])
    eval_fraction = 0.0 if own_eval else prompts["eval_fraction"]
    left, limit, more = for_training(prompts, eval_fraction, max(wanted, 0 if k == "elbow" else k))
    per_prompt = 1 if pairs["pairing"] else pairs_per_prompt(settings)
    most = bandit["budget"] * settings["steps"] * per_prompt
    sampled = settings["generation"]["sampler"] != "dataset"  # the data set has one pair per prompt
    checks = [
        (
            wanted > left and bandit["allocation"] != "all" and not bandit["reuse"],
            f"bandit.budget: {drawn} per step makes {wanted} prompts in all, but {limit} leaves {left} "
            f"for training; lower it, {more}, or set bandit.reuse: true",
        ),
        (k != "elbow" and k > left, f"clusters.k: {k}, but {limit} leaves {left} to cluster; lower it or {more}"),
        (
            sampled and bandit["allocation"] != "all" and (pairs["top_n"] or 0) > most,
            f"pairs.top_n: {pairs['top_n']}, but a round has at most {most} pairs; lower it, set it to null, or raise "
            f"bandit.budget, steps or {'acquisition.labels' if chooses else 'generation.n'}",
        ),
    ]
    return failed(checks) + too_few_steps(settings, config["evaluation"]["by_checkpoint"], method, config["compare"])


def most_steps(train: dict, top_n: int | None, share: float) -> float:
    """Return the maximum optimizer steps per round if `share` of its pairs are added ones; infinite without a limit."""
    if top_n is None or share >= 1:
        return math.inf
    return train["epochs"] * math.ceil(round(top_n / (1 - share)) / train["batch_size"])


def too_few_steps(settings: dict, checkpoints: dict, method: str, compared: list[str]) -> list[str]:
    """Return errors of checkpoints and warm-ups that come after the last optimizer step."""
    train, pairs = settings["train"], settings["pairs"]
    first, later = pairs["offline_share"], pairs["offline_share"] + pairs["replay"]["share"]
    steps, later_steps = (most_steps(train, pairs["top_n"], share) for share in (first, later))
    seen = later_steps * (settings["rounds"] if train["carry_beta"] else 1)
    last, warmup = max(checkpoints["steps"], default=0), train["beta_risk"]["warmup"]
    return failed(
        [
            (
                method in (checkpoints["methods"] or compared) and last > steps,
                f"evaluation.by_checkpoint.steps: {last}, but a round has at most {steps} optimizer steps; lower it or "
                "train longer",
            ),
            (
                train["beta_rule"].startswith("risk") and seen <= warmup,
                f"train.beta_risk.warmup: {warmup} steps, but the rule sees at most {seen}, so beta would never "
                "change; lower it or train longer",
            ),
        ]
    )
