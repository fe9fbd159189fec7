# Preparation: the models, the prompts and their clusters.
PACKAGED_PROMPTS = "workflow/prompts/instructions.jsonl"


def packaged_prompts(wildcards, output):
    """Return the path of the packaged prompts. It is a function of `output` for the same reason as in `program`."""
    return shlex.quote(str(CLONE / PACKAGED_PROMPTS))


def eval_flags(wildcards):
    """Return flags for the evaluation set, if it has its own source.

    It is a function, because Snakemake would read the braces of templates in a plain text as wildcards.
    """
    section = config["evaluation"]["prompts"]
    own = relevant(section, EvalPromptsSection) if configured_sources(section) else {}
    return flags({"evaluation": own})


def most_new_tokens(wildcards, output):
    """Return the flag for a check of the longest response. It is a function of `output`, so it causes no rerun."""
    sections = [settings_of("generation", method) for method in METHODS]
    sampled = [section.get("max_new_tokens", 0) for section in sections]
    return flags(
        {"max_new_tokens": max([config["evaluation"]["max_new_tokens"], *sampled])}
    )


def package_limit(wildcards, output):
    """Return the flag for the maximum size of a package. It is a function of `output`, so it causes no new download."""
    return flags({"max_package_gb": config["max_package_gb"]})


def embedding_model(wildcards):
    """Return the model that embeds prompts: the fetched policy, or an encoder."""
    source = settings_of("clusters", wildcards.get("method"))["embedding"]
    return FETCHED if source == "policy" else manifest_of(source)


# The code of this rule is not compared: models are verified by checksums, so changed code must not download them again.
rule fetch_model:
    input:
        files=lambda wildcards: sorted(
            map(str, Path(MODELS[wildcards.model]).glob("*.*"))
        ),
    output:
        manifest="results/models/{model}/manifest.json",
    log:
        "results/logs/models/{model}.log",
    conda:
        "../environment.yml"
    params:
        **program("fetch_model", compared=False),
        source=lambda wildcards: flags({"source": MODELS[wildcards.model]}),
        trust=lambda wildcards: flags(
            {"trust_remote_code": may_run_code(config, MODELS[wildcards.model])}
        ),
        limit=package_limit,
    shell:
        "PREFLOOP_LOG={log} python {params.program} {params.source} {params.trust} {params.limit}"
        " --manifest {output.manifest} > {log} 2>&1"


if START and METHODS:

    rule import_policy:
        input:
            policy=str(Path(START)),
            model=BASE,
        output:
            INITIAL,
        log:
            "<logs>/import_policy.log",
        conda:
            "../environment.yml"
        params:
            **program("import_policy"),
            # A check of the config ensures that these settings are the same for all methods.
            flags=flags(
                {"policy": str(Path(START))}
                | {
                    key: settings_of("train", METHODS[0]).get(key)
                    for key in ("parameters", "lora")
                }
            ),
        shell:
            "PREFLOOP_LOG={log} python {params.program} {params.flags} --model {input.model}"
            " --output {output} > {log} 2>&1"


rule prepare_prompts:
    input:
        source=source_files(config["prompts"]),
        eval_source=source_files(config["evaluation"]["prompts"]),
        model=FETCHED,
    output:
        train="<results>/prompts/train.jsonl",
        eval="<results>/prompts/eval.jsonl",
        sources="<results>/prompts/sources.json",
        # update: the program reads the file of an earlier run and keeps its date.
        chat=update("<results>/prompts/chat.json"),
    log:
        "<logs>/prepare_prompts.log",
    conda:
        "../environment.yml"
    params:
        **program("prepare_prompts", PACKAGED_PROMPTS),
        own=source_code(config["prompts"])
        + source_code(config["evaluation"]["prompts"]),
        packaged=packaged_prompts,
        flags=flags_of("prompts"),
        evaluation=eval_flags,
        policy=flags_of("policy", *hints(ChatConfig)),
        room=most_new_tokens,
    shell:
        "PREFLOOP_LOG={log} python {params.program} --packaged {params.packaged} --model {input.model}"
        " {params.flags} {params.evaluation} {params.policy} {params.room} --train {output.train}"
        " --eval {output.eval} --provenance {output.sources} --chat {output.chat} > {log} 2>&1"


rule cluster_prompts:
    input:
        prompts=rules.prepare_prompts.output.train,
        eval=rules.prepare_prompts.output.eval,
        model=embedding_model,
    output:
        clusters="<results>/clusters.pkl",
        table="<results>/clusters.csv",
        eval="<results>/clusters_eval.csv",
        cost="<results>/cluster_prompts.cost.json",
    log:
        "<logs>/cluster_prompts.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        **program("cluster_prompts"),
        flags=flags_of("clusters", "k", "k_max", "seed", "batch_size"),
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --prompts {input.prompts} --eval {input.eval}"
        " --model {input.model} {params.flags} --threads {threads} --clusters {output.clusters}"
        " --table {output.table} --eval-table {output.eval} --cost {output.cost} > {log} 2>&1"


# For methods with their own `clusters` settings.
use rule cluster_prompts as cluster_prompts_of_method with:
    output:
        clusters="<results>/{method}/clusters.pkl",
        table="<results>/{method}/clusters.csv",
        eval="<results>/{method}/clusters_eval.csv",
        cost="<results>/{method}/cluster_prompts.cost.json",
    log:
        "<logs>/{method}/cluster_prompts.log",
