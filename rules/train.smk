# Training of the initial policy, of reward models, and of each round's policy on its pairs.
from prefloop.config.training_settings import MixConfig
from prefloop.models.options import RuntimeConfig
from prefloop.monitor.launch import launch

# Runtime options. They do not affect the trained weights, so changing one causes no rerun: a params function of threads
# and resources passes them to the program, and Snakemake does not compare it with the last run.
RUNTIME = list(hints(RuntimeConfig))


# Settings of mix_pairs, which select_pairs does not read.
MIX = list(hints(MixConfig))


def training_settings(section, wildcards):
    """Return the settings of a training: of a section, or of one of the reward models."""
    if section == "reward_models":
        return config[section][wildcards.name]
    return settings_of(section, wildcards.get("method"))


def processes_of(section, wildcards, resources):
    """Return the number of processes: that in the config, or one per GPU."""
    return training_settings(section, wildcards)["processes"] or max(
        1, int(resources.get("gpu", 1))
    )


def launch_command(section):
    """Return a function that gives the command to start a training on its processes and nodes."""

    def of_job(wildcards, threads, resources):
        processes = processes_of(section, wildcards, resources)
        try:
            command = launch(processes, int(resources.get("nodes", 1)), threads)
        except ValueError as error:
            if training_settings(section, wildcards)["processes"]:
                raise WorkflowError(f"{section}.{error}")
            problem = str(error).removeprefix("processes: ")
            raise WorkflowError(f"resource gpu: {problem}, or set {section}.processes")
        if command != "python":
            return command
        return shlex.join(["python", *map(str, warm_start())])

    return of_job


def in_launch(wildcards):
    """Return False: the launch command of a training, not its program, contains the start from the warm process."""
    return False


def runtime_flags(section, run):
    """Return a function that gives flags for runtime options, threads per process, and trackers with the name `run`."""

    def of_job(wildcards, threads, resources):
        settings = training_settings(section, wildcards)
        processes = processes_of(section, wildcards, resources)
        nodes = int(resources.get("nodes", 1))
        tracking = config["tracking"] | {
            "run": f"{config['name']}/{run}".format(**dict(wildcards.items())),
            "folder": f"{RESULTS}/tracking",
        }
        return flags(
            {key: settings[key] for key in RUNTIME if key != "processes"}
            | {"threads": max(1, threads * nodes // processes)}
            | {"tracking": tracking if tracking["trackers"] else {}}
        )

    return of_job


def replayed_pairs(wildcards):
    """Return pairs.jsonl of the earlier rounds that a round replays, the latest first."""
    replay, last = (
        settings_of("pairs", wildcards.method)["replay"],
        int(wildcards.round) - 1,
    )
    first = max(1, last - replay["rounds"] + 1) if replay["share"] else last + 1
    return [
        f"{run_of(wildcards)}/round-{r}/pairs.jsonl" for r in range(last, first - 1, -1)
    ]


def offline_prompts(wildcards):
    """Return the prompts whose pairs of the data set are added to a round's pairs; none by default."""
    asked = settings_of("pairs", wildcards.method)["offline_share"]
    return rules.prepare_prompts.output.train if asked else []


def checkpoint_flags(wildcards):
    """Return flags for the optimizer steps after which a method saves its policy."""
    kept = EXPERIMENT.by_checkpoint
    return flags(
        {"checkpoints": kept.steps if wildcards.method in kept.methods else ()}
    )


# The fine-tuned model, with merged adapters, is the base model of every method, and so its first reference.
rule fine_tune:
    input:
        prompts=rules.prepare_prompts.output.train,
        chat=rules.prepare_prompts.output.chat,
        model=FETCHED,
    output:
        policy="<results>/sft/policy.pt",
        manifest="<results>/sft/model/manifest.json",
        metrics="<results>/sft/training.jsonl",
        speed="<results>/sft/training_speed.csv",
        cost="<results>/sft/fine_tune.cost.json",
    log:
        "<logs>/fine_tune.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        **program("fine_tune", warm=in_launch),
        flags=flags_of("sft", without=["enabled", *RUNTIME]),
        launch=launch_command("sft"),
        running=runtime_flags("sft", "sft"),
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " exec {params.launch} {params.program} --prompts {input.prompts} --model {input.model}"
        " --chat {input.chat} {params.flags} {params.running} --output {output.policy}"
        " --manifest {output.manifest} --metrics {output.metrics}"
        " --speed {output.speed} --cost {output.cost} > {log} 2>&1"


rule train_reward_model:
    input:
        source=lambda wildcards: source_files(config["reward_models"][wildcards.name]),
        base=lambda wildcards: manifest_of(
            config["reward_models"][wildcards.name]["base"]
        ),
    output:
        manifest="<results>/reward_models/{name}/manifest.json",
        report="<results>/reward_models/{name}.report.json",
        metrics="<results>/reward_models/{name}.training.jsonl",
        speed="<results>/reward_models/{name}.training_speed.csv",
        cost="<results>/reward_models/{name}.cost.json",
    log:
        "<logs>/reward_models/{name}.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        **program("train_reward_model", PACKAGED_PROMPTS, warm=in_launch),
        own=lambda wildcards: source_code(config["reward_models"][wildcards.name]),
        date=flags({"date": config["policy"]["template_date"]}),
        packaged=packaged_prompts,
        flags=lambda wildcards: flags(
            relevant(config["reward_models"][wildcards.name], RewardModelSection)
            | dict.fromkeys(["base", "trust_remote_code", *RUNTIME])
        ),
        launch=launch_command("reward_models"),
        running=runtime_flags("reward_models", "reward_models/{name}"),
    shell:
        # SLURM sends SIGTERM to every process of a job. The trap makes the shell wait until the training has saved.
        # Output goes straight to the log, as `tee` would die of the signal. Warnings are printed to the terminal at the end.
        "trap : TERM INT; code=0; PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " {params.launch} {params.program} --packaged {params.packaged} --base {input.base} {params.date}"
        " {params.flags} {params.running} --manifest {output.manifest}"
        " --report {output.report} --metrics {output.metrics}"
        " --speed {output.speed} --cost {output.cost} > {log} 2>&1 || code=$?;"
        " grep ^WARNING {log} >&2 || true; exit $code"


rule select_pairs:
    input:
        pfp=collect(rules.pfp.output, step=STEPS, allow_missing=True),
    output:
        "<results>/{method}/seed-{seed}/round-{round}/pairs.jsonl",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/select_pairs.log",
    conda:
        "../environment.yml"
    params:
        **program("select_pairs"),
        own=own_functions("pairs", "metric", "first_metric"),
        flags=flags_of("pairs", without=MIX),
        beta=beta_for("pairs", "metric", "first_metric"),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --pfp {input.pfp} {params.flags} {params.beta}"
        " --seed {wildcards.seed} --round {wildcards.round} --output {output} > {log} 2>&1"


# Adds pairs of earlier rounds (pairs.replay) or of the data set (pairs.offline_share) to a round's own.
rule mix_pairs:
    input:
        pairs=rules.select_pairs.output,
        earlier=replayed_pairs,
        prompts=offline_prompts,
        chat=rules.prepare_prompts.output.chat,
        model=BASE,
        policy=policy_before,
        reference=reference_of,
    output:
        pairs="<results>/{method}/seed-{seed}/round-{round}/mixed_pairs.jsonl",
        cost="<results>/{method}/seed-{seed}/round-{round}/mix_pairs.cost.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/mix_pairs.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        **program("mix_pairs"),
        flags=flags_of("pairs", *MIX),
        scoring=flags_of("logprobs"),
        others=lambda wildcards, input: flags(
            {"earlier": list(input.earlier), "prompts": input.prompts or None}
        ),
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --pairs {input.pairs} --model {input.model} --policy {input.policy}"
        " --reference {input.reference} --chat {input.chat} {params.others} {params.flags} {params.scoring}"
        " --seed {wildcards.seed} --round {wildcards.round} --threads {threads}"
        " --output {output.pairs} --cost {output.cost} > {log} 2>&1"


# For reference.kind ema: from the second round on, the reference moves towards the policy.
rule update_reference:
    input:
        model=BASE,
        reference=lambda wildcards: reference_of(wildcards, rounds_back=1),
        policy=policy_before,
    output:
        "<results>/{method}/seed-{seed}/round-{round}/reference.pt",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/update_reference.log",
    conda:
        "../environment.yml"
    params:
        **program("update_reference"),
        flags=flags_of("reference", "decay"),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --model {input.model} --reference {input.reference}"
        " --policy {input.policy} {params.flags} --output {output} > {log} 2>&1"


# With LoRA, the program also writes a PEFT folder adapter/. It is not an output, because full training has no adapters.
rule train:
    input:
        pairs=lambda wildcards: trained_pairs(
            wildcards.method, run_of(wildcards), wildcards.round
        ),
        chat=rules.prepare_prompts.output.chat,
        model=BASE,
        policy=policy_before,
    output:
        policy="<results>/{method}/seed-{seed}/round-{round}/policy.pt",
        metrics="<results>/{method}/seed-{seed}/round-{round}/training.jsonl",
        speed="<results>/{method}/seed-{seed}/round-{round}/training_speed.csv",
        cost="<results>/{method}/seed-{seed}/round-{round}/train.cost.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/train.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        **program("train", warm=in_launch),
        own=own_functions("train", "loss", "beta_rule"),
        flags=flags_of("train", without=RUNTIME),
        checkpoints=checkpoint_flags,
        launch=launch_command("train"),
        running=runtime_flags("train", "{method}/seed-{seed}/round-{round}"),
    shell:
        # exec: a shell in between would exit on SIGTERM at once, and Snakemake would kill the training while it saves.
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " exec {params.launch} {params.program} --pairs {input.pairs} --model {input.model}"
        " --policy {input.policy} --chat {input.chat} {params.flags} {params.checkpoints} --seed {wildcards.seed}"
        " --round {wildcards.round} {params.running} --output {output.policy}"
        " --metrics {output.metrics} --speed {output.speed} --cost {output.cost} > {log} 2>&1"


if EXPERIMENT.by_checkpoint.steps:

    # The same for methods that are evaluated during training: intermediate policies are saved.
    use rule train as train_with_checkpoints with:
        output:
            policy="<results>/{method}/seed-{seed}/round-{round}/policy.pt",
            metrics="<results>/{method}/seed-{seed}/round-{round}/training.jsonl",
            speed="<results>/{method}/seed-{seed}/round-{round}/training_speed.csv",
            cost="<results>/{method}/seed-{seed}/round-{round}/train.cost.json",
            checkpoints=[
                f"<results>/{{method}}/seed-{{seed}}/round-{{round}}/checkpoint-{step}/policy.pt"
                for step in EXPERIMENT.by_checkpoint.steps
            ],
        wildcard_constraints:
            method="|".join(EXPERIMENT.by_checkpoint.methods),

    ruleorder: train_with_checkpoints > train
