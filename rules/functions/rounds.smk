# What a job of a round reads, and its flags.
from prefloop.registries import registry_words
from prefloop.samplers import Mixp, Sampling, models_of

NEEDS_BETA = registry_words("metrics.NEEDS_BETA")
AT_RANDOM = registry_words("bandit.AT_RANDOM")


def beta_for(section):
    """The first β as a flag for metrics that ask for it; others do not run again when it changes."""

    def of_wildcards(wildcards):
        settings = of_method(config, wildcards.method)
        asks = settings[section]["metric"] in NEEDS_BETA
        return flags({"beta": settings["train"]["beta"] if asks else None})

    return of_wildcards


def clusters_of(wildcards):
    """clusters.pkl of the wildcards' method."""
    return f"{cluster_folder(wildcards.method)}/clusters.pkl"


def policy_before(wildcards):
    """The policy a round starts from: the initial one, or the round before's."""
    before = int(wildcards.round) - 1
    return f"{run_of(wildcards)}/round-{before}/policy.pt" if before else BASE


def reference_of(wildcards, before=0):
    """The reference of a round, or of so many rounds before it."""
    kind = settings_of("reference", wildcards.method)["kind"]
    number = int(wildcards.round) - before
    if kind == "previous":
        return policy_before(wildcards)
    if kind == "initial" or number == 1:
        return BASE
    return f"{run_of(wildcards)}/round-{number}/reference.pt"


def speakers(wildcards):
    """The policies that the sampler asks: policy, reference, both or none."""
    settings = settings_of("generation", wildcards.method)
    sampling = Sampling(
        settings["sampler"], settings.get("n", 2), Mixp(**settings.get("mixp", {}))
    )
    files = {"policy": policy_before, "reference": reference_of}
    return {name: files[name](wildcards) for name in models_of(sampling)}


def speaker_flags(wildcards, input):
    """The policies that the sampler asks, as flags."""
    return flags(dict(zip(speakers(wildcards), input.speakers)))


def generation_flags(wildcards):
    """How a method samples, as flags."""
    return flags_of("generation", without=["vllm_build"])(wildcards)


def engine_environment(wildcards):
    """The environment of what samples: with vLLM its own, as it pins too much for the one of all others."""
    settings = settings_of("generation", wildcards.get("method"))
    if settings["engine"] != "vllm":
        return "../environment.yml"
    return {
        "cuda": "../workflow/envs/vllm.yml",
        "cpu": "../workflow/envs/vllm-cpu.yml",
    }[settings["vllm_build"]]


def engine_gpus(wildcards):
    """GPUs that share a model while it samples."""
    settings = settings_of("generation", wildcards.get("method"))
    return settings.get("vllm", {}).get("tensor_parallel_size", 1)


def steps_before(wildcards):
    """Every (round, step) of the run before this one, oldest first."""
    here = int(wildcards.round), int(wildcards.step)
    return [(r, s) for r in range(1, here[0] + 1) for s in STEPS if (r, s) < here]


def looks_at_arms(method):
    """Whether a method's allocation depends on what the arms have learnt."""
    return settings_of("bandit", method)["allocation"] not in AT_RANDOM


def arms_seen(wildcards):
    """arms.json that an allocation goes by: none where it draws at random."""
    return arms_before(wildcards) if looks_at_arms(wildcards.method) else []


def allocation_flags(wildcards):
    """What the draw of a step's prompts depends on, and nothing else: a random one does not run again with α."""
    settings = settings_of("bandit", wildcards.method)
    keys = ["allocation", "budget", "reuse"]
    if settings["allocation"] == "all":
        keys = ["allocation"]
    if looks_at_arms(wildcards.method):
        keys = [k for k in settings if k not in ("metric", "normalise", "gamma")]
    sampler = settings_of("generation", wildcards.method)["sampler"]
    pairs_only = {"pairs_only": True} if sampler == "dataset" else {}
    return flags({key: settings[key] for key in keys} | pairs_only)


def arms_before(wildcards):
    """arms.json of the step before; none in a run's first step."""
    return [
        f"{run_of(wildcards)}/round-{r}/step-{s}/arms.json"
        for r, s in steps_before(wildcards)[-1:]
    ]


def draws(wildcards):
    """One cluster job for draws that nothing heavy stands between: a run's, or that of a step with the arms before it."""
    if not looks_at_arms(wildcards.method):
        return f"draws_{wildcards.method}_seed_{wildcards.seed}"
    return after_step(wildcards, *(steps_before(wildcards)[-1:] or [(0, 0)])[0])


def after_step(wildcards, round, step):
    """The cluster job after a step: its shards' rows gathered, its arms, and the draw of the step after it."""
    return f"after_{wildcards.method}_seed_{wildcards.seed}_round_{round}_step_{step}"


def prompts_before(wildcards):
    """The prompts of every step before, which are not fresh any more."""
    return [
        f"{run_of(wildcards)}/round-{r}/step-{s}/prompts.jsonl"
        for r, s in steps_before(wildcards)
    ]


def reward_flags(wildcards):
    """Flags of the feedback that trains a method."""
    return feedback_flags("feedback", of_method(config, wildcards.method)["feedback"])
