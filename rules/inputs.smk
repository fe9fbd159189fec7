include: "functions/training.smk"


# Its code is no input: a fetched model carries its checksums, and a changed module is no reason to delete it and ask a
# network that may be gone.
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
        source=lambda wildcards: flags({"source": MODELS[wildcards.model]}),
        trust=lambda wildcards: flags(
            {
                "trust_remote_code": config["policy"]["trust_remote_code"]
                and MODELS[wildcards.model] == config["policy"]["model"]
            }
        ),
    shell:
        "python workflow/scripts/fetch_model.py {params.source} {params.trust}"
        " --manifest {output.manifest} > {log} 2>&1"


rule prompts:
    input:
        code=code_of("prompts"),
        packaged="workflow/prompts/instructions.jsonl",
        source=lambda wildcards: [
            path for path in [config["prompts"]["source"]] if Path(path).is_file()
        ],
        model=FETCHED,
    output:
        train="<results>/prompts/train.jsonl",
        held_out="<results>/prompts/eval.jsonl",
    log:
        "<logs>/prompts.log",
    conda:
        "../environment.yml"
    params:
        flags=flags_of("prompts"),
    shell:
        "python {input.code[0]} --packaged {input.packaged} --model {input.model}"
        " {params.flags} --train {output.train} --held-out {output.held_out} > {log} 2>&1"


rule cluster:
    input:
        code=code_of("cluster"),
        prompts=rules.prompts.output.train,
        held_out=rules.prompts.output.held_out,
        model=embedding_model,
    output:
        clusters="<results>/clusters.pkl",
        table="<results>/clusters.csv",
        held_out="<results>/clusters_eval.csv",
        cost="<results>/cluster.cost.json",
    log:
        "<logs>/cluster.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        flags=flags_of("clusters", "k", "k_max", "seed", "batch_size"),
    shell:
        "python {input.code[0]} --prompts {input.prompts} --held-out {input.held_out}"
        " --model {input.model} {params.flags} --threads {threads} --clusters {output.clusters}"
        " --table {output.table} --held-out-table {output.held_out} --cost {output.cost} > {log} 2>&1"


# For methods whose `clusters` differ from the config's own.
use rule cluster as cluster_of_method with:
    output:
        clusters="<results>/{method}/clusters.pkl",
        table="<results>/{method}/clusters.csv",
        held_out="<results>/{method}/clusters_eval.csv",
        cost="<results>/{method}/cluster.cost.json",
    log:
        "<logs>/{method}/cluster.log",


# Every method's base model from here on is the fine-tuned one, adapters merged: so their reference is it, too.
rule sft:
    input:
        code=code_of("sft"),
        prompts=rules.prompts.output.train,
        model=FETCHED,
    output:
        policy="<results>/sft/policy.pt",
        manifest="<results>/sft/model/manifest.json",
        metrics="<results>/sft/training.jsonl",
        speed="<results>/sft/training_speed.csv",
        cost="<results>/sft/sft.cost.json",
    log:
        "<logs>/sft.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        flags=flags_of("sft", without=["enabled", *RUNNING]),
        launch=launch_of("sft"),
        running=running_of("sft", "sft"),
    shell:
        "exec {params.launch} {input.code[0]} --prompts {input.prompts} --model {input.model}"
        " {params.flags} {params.running} --output {output.policy}"
        " --manifest {output.manifest} --metrics {output.metrics}"
        " --speed {output.speed} --cost {output.cost} > {log} 2>&1"


rule reward_model:
    input:
        code=code_of("reward_model"),
        packaged="workflow/prompts/instructions.jsonl",
        source=lambda wildcards: [
            path
            for path in [config["reward_models"][wildcards.name]["source"]]
            if Path(path).is_file()
        ],
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
        flags=lambda wildcards: flags(
            relevant(
                config["reward_models"][wildcards.name],
                SCHEMA["$defs"]["reward_model"],
            )
            | dict.fromkeys(["base", *RUNNING])
        ),
        launch=launch_of("reward_models"),
        running=running_of("reward_models", "reward_models/{name}"),
    shell:
        # exec, as for train; warnings go to the terminal too.
        "exec {params.launch} {input.code[0]} --packaged {input.packaged} --base {input.base}"
        " {params.flags} {params.running} --manifest {output.manifest}"
        " --report {output.report} --metrics {output.metrics}"
        " --speed {output.speed} --cost {output.cost} > >(tee {log} | grep ^WARNING >&2) 2>&1"
