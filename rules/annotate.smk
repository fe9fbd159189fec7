# The steps of a round: draw prompts, generate and score responses, and update the arms.
from prefloop.config.first_steps import draw_settings
from prefloop.core.registry import registry_words
from prefloop.methods.samplers import Mixp, Sampling, models_of

NEEDS_BETA = registry_words("methods.pair_metrics.NEEDS_BETA")
AT_RANDOM = registry_words("methods.bandit.AT_RANDOM")


def beta_for(section, *keys):
    """Return the first β of a round as a flag for metrics that may use it. Others do not rerun when it changes."""

    settings_for = per_method(lambda method: of_method(config, method))

    def of_wildcards(wildcards):
        settings = settings_for(wildcards)
        words = [settings[section][key] for key in keys]
        if not any(word in NEEDS_BETA or is_own(word) for word in words):
            return ""
        return flags({"beta": first_beta(settings["train"], int(wildcards.round))})

    return of_wildcards


def clusters_of(wildcards):
    """Return clusters.pkl of the wildcards' method."""
    return f"{cluster_folder(wildcards.method)}/clusters.pkl"


def sampling_models(wildcards):
    """Return the models that the sampler draws from: policy, reference, both or none."""
    settings = settings_of("generation", wildcards.method)
    sampling = Sampling(
        settings["sampler"], settings.get("n", 2), Mixp(**settings.get("mixp", {}))
    )
    files = {"policy": policy_before, "reference": reference_of}
    return {name: files[name](wildcards) for name in models_of(sampling)}


def sampling_flags(wildcards, input):
    """Return flags for the models that the sampler draws from."""
    return flags(dict(zip(sampling_models(wildcards), input.sampling_models)))


def engine_environment(wildcards):
    """Return the environment of stages that sample. vLLM pins too many packages to share an environment."""
    settings = settings_of("generation", wildcards.get("method"))
    if settings["engine"] != "vllm":
        return "../environment.yml"
    return {
        "cuda": "../workflow/envs/vllm.yml",
        "cpu": "../workflow/envs/vllm-cpu.yml",
    }[settings["vllm_build"]]


def engine_gpus(wildcards):
    """Return the number of GPUs over which a model is split while it samples."""
    settings = settings_of("generation", wildcards.get("method"))
    return settings.get("vllm", {}).get("tensor_parallel_size", 1)


def generation_environment(wildcards):
    """Return the environment of rule generate. A sampler that draws from no model needs no engine."""
    if sampling_models(wildcards):
        return engine_environment(wildcards)
    return "../environment.yml"


def generation_gpus(wildcards):
    """Return the number of GPUs of rule generate; 0 if the sampler draws from no model."""
    return engine_gpus(wildcards) if sampling_models(wildcards) else 0


def shard_flags(wildcards):
    """Return flags for the shard of a stage; none if the stage is not divided."""
    if "shard" not in wildcards.keys():
        return ""
    return flags({"shard": {"index": int(wildcards.shard), "count": config["shards"]}})


def steps_before(wildcards):
    """Return every earlier (round, step) of the run, oldest first."""
    here = int(wildcards.round), int(wildcards.step)
    return [(r, s) for r in range(1, here[0] + 1) for s in STEPS if (r, s) < here]


def looks_at_arms(method):
    """Whether a method's allocation depends on the arms."""
    return settings_of("bandit", method)["allocation"] not in AT_RANDOM


def arms_seen(wildcards):
    """Return the arms.json that an allocation reads; none if it draws at random."""
    return arms_before(wildcards) if looks_at_arms(wildcards.method) else []


def allocation_flags(wildcards):
    """Return the flags that decide which prompts a step draws. For a random draw, for example, α is not one of them."""
    bandit = settings_of("bandit", wildcards.method)
    acquisition = settings_of("acquisition", wildcards.method)
    sampler = settings_of("generation", wildcards.method)["sampler"]
    return flags(draw_settings(bandit, acquisition, sampler))


def arms_before(wildcards):
    """Return the arms.json of the previous step; none in a run's first step."""
    return [
        f"{run_of(wildcards)}/round-{r}/step-{s}/arms.json"
        for r, s in steps_before(wildcards)[-1:]
    ]


def for_cluster(group):
    """Return the function that names job groups if jobs are sent to a cluster, which has a limit of jobs (--jobs).

    On one machine it is None. Snakemake runs no groups there, but it would check them in a dry run, which takes time.
    """
    return None if workflow.resource_settings.nodes is None else group


def draw_group(wildcards):
    """Return the job group of a draw: one group per run if draws ignore the arms, else that of the previous step."""
    if not looks_at_arms(wildcards.method):
        return f"draws_{wildcards.method}_seed_{wildcards.seed}"
    return group_after(wildcards, *(steps_before(wildcards)[-1:] or [(0, 0)])[0])


def step_group(wildcards):
    """Return the job group after the wildcards' step."""
    return group_after(wildcards, wildcards.round, wildcards.step)


def group_after(wildcards, round_index, step):
    """Return the job group after a step: gathering shards, PFP, arms, and the draw of the next step."""
    return f"after_{wildcards.method}_seed_{wildcards.seed}_round_{round_index}_step_{step}"


def prompts_before(wildcards):
    """Return the prompts of all earlier steps."""
    return [
        f"{run_of(wildcards)}/round-{r}/step-{s}/prompts.jsonl"
        for r, s in steps_before(wildcards)
    ]


def logprob_flags(wildcards):
    """Return flags for log-probabilities, the layer of features (if needed), and whether training splits responses."""
    layer = settings_of("acquisition", wildcards.method).get("layer")
    splits = settings_of("train", wildcards.method)["ld_alpha"] is not None
    prefixes = {"prefixes": True} if splits else {}
    return flags(
        settings_of("logprobs", wildcards.method) | {"layer": layer} | prefixes
    )


def acquired_responses(wildcards):
    """Return the file that lists a step's responses that get a label; no file if all responses get one."""
    if not acquires(wildcards.method):
        return []
    return f"{run_of(wildcards)}/round-{wildcards.round}/step-{wildcards.step}/acquired.jsonl"


def acquired_flags(wildcards, input):
    """Return the flag for the list of responses that get a label."""
    return flags({"acquired": input.get("acquired") or None})


rule allocate:
    input:
        prompts=rules.prepare_prompts.output.train,
        clusters=clusters_of,
        arms=arms_seen,
        used=prompts_before,
    output:
        "<results>/{method}/seed-{seed}/round-{round}/step-{step}/prompts.jsonl",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/allocate.log",
    group:
        for_cluster(draw_group)
    conda:
        "../environment.yml"
    params:
        **program("allocate"),
        own=own_functions("bandit", "allocation"),
        flags=allocation_flags,
        before=lambda wildcards, input: flags(
            {"arms": input.arms or None, "used": list(input.used) or None}
        ),
        steps=len(STEPS),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --prompts {input.prompts} --clusters {input.clusters}"
        " {params.before} {params.flags} --seed {wildcards.seed} --round {wildcards.round}"
        " --step {wildcards.step} --steps {params.steps} --output {output} > {log} 2>&1"


rule generate:
    input:
        prompts=rules.allocate.output,
        chat=rules.prepare_prompts.output.chat,
        model=BASE,
        sampling_models=lambda wildcards: list(sampling_models(wildcards).values()),
    output:
        generations="<results>/{method}/seed-{seed}/round-{round}/step-{step}/generations.jsonl",
        cost="<results>/{method}/seed-{seed}/round-{round}/step-{step}/generate.cost.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/generate.log",
    conda:
        generation_environment
    threads: THREADS
    resources:
        gpu=generation_gpus,
    params:
        **program("generate", warm=samples_by_transformers),
        flags=flags_of("generation", without=["vllm_build"]),
        sampling_models=sampling_flags,
        stream="round-{round}/step-{step}",
        shard=shard_flags,
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --prompts {input.prompts} --model {input.model}"
        " --chat {input.chat} {params.sampling_models} {params.flags} --seed {wildcards.seed}"
        " --stream {params.stream} {params.shard} --threads {threads}"
        " --output {output.generations} --cost {output.cost} > {log} 2>&1"


rule reward:
    input:
        prompts=rules.allocate.output,
        generations=rules.generate.output.generations,
        acquired=acquired_responses,
        chat=rules.prepare_prompts.output.chat,
        feedback=reward_files,
    output:
        rewards="<results>/{method}/seed-{seed}/round-{round}/step-{step}/rewards.jsonl",
        cost="<results>/{method}/seed-{seed}/round-{round}/step-{step}/reward.cost.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/reward.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=reward_gpus,
    params:
        **program("reward"),
        feedback=reward_code,
        flags=reward_flags,
        acquired=acquired_flags,
        shard=shard_flags,
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --prompts {input.prompts} --generations {input.generations}"
        " {params.acquired} --chat {input.chat} {params.flags} {params.shard} --threads {threads}"
        " --output {output.rewards} --cost {output.cost} > {log} 2>&1"


rule logprobs:
    input:
        prompts=rules.allocate.output,
        generations=rules.generate.output.generations,
        chat=rules.prepare_prompts.output.chat,
        model=BASE,
        policy=policy_before,
        reference=reference_of,
    output:
        logprobs="<results>/{method}/seed-{seed}/round-{round}/step-{step}/logprobs.jsonl",
        cost="<results>/{method}/seed-{seed}/round-{round}/step-{step}/logprobs.cost.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/logprobs.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        **program("logprobs"),
        flags=logprob_flags,
        features=lambda wildcards, output: flags({"features": output.get("features")}),
        shard=shard_flags,
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --prompts {input.prompts} --generations {input.generations}"
        " --model {input.model} --policy {input.policy} --reference {input.reference}"
        " --chat {input.chat} {params.flags} {params.features} {params.shard} --threads {threads}"
        " --output {output.logprobs} --cost {output.cost} > {log} 2>&1"


rule pfp:
    input:
        prompts=rules.allocate.output,
        generations=rules.generate.output.generations,
        rewards=rules.reward.output.rewards,
        logprobs=rules.logprobs.output.logprobs,
        acquired=acquired_responses,
    output:
        "<results>/{method}/seed-{seed}/round-{round}/step-{step}/pfp.jsonl",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/pfp.log",
    group:
        for_cluster(step_group)
    conda:
        "../environment.yml"
    params:
        **program("pfp"),
        acquired=acquired_flags,
    shell:
        "PREFLOOP_LOG={log} python {params.program} --prompts {input.prompts} --generations {input.generations}"
        " --rewards {input.rewards} --logprobs {input.logprobs} {params.acquired} --output {output} > {log} 2>&1"


rule update_arms:
    input:
        clusters=clusters_of,
        pfp=rules.pfp.output,
        arms=arms_before,
    output:
        "<results>/{method}/seed-{seed}/round-{round}/step-{step}/arms.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/update_arms.log",
    group:
        for_cluster(step_group)
    conda:
        "../environment.yml"
    params:
        **program("update_arms"),
        own=own_functions("bandit", "metric"),
        flags=flags_of(
            "bandit",
            *["metric", "normalize", "gamma", "alpha", "exploration"],
            *["neighbors", "neighbor_weight"],
        ),
        beta=beta_for("bandit", "metric"),
        before=lambda wildcards, input: flags({"arms": input.arms or None}),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --clusters {input.clusters} --pfp {input.pfp}"
        " {params.before} {params.flags} {params.beta} --seed {wildcards.seed}"
        " --round {wildcards.round} --step {wildcards.step} --output {output} > {log} 2>&1"
