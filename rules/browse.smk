# One HTML page to search, sort and filter an experiment's rows in. Not part of the default target: snakemake browse


include: "functions/browse.smk"


CLUSTERS = [f"{cluster_folder(method)}/clusters.csv" for method in METHODS]
CONTESTS = contests_asked()
# Of methods that draw at random only figures ask what the arms have learnt.
ARMS = sorted(asked_anyway().intersection(every_step("arms.json")))


rule browse:
    input:
        code=code_of("browse"),
        template=multiext("workflow/browse/browse", ".css", ".js"),
        page="workflow/browse/page.html",
        # Where only theory is simulated there is nothing to show, and the program says so.
        prompts=[rules.prompts.output.train, rules.prompts.output.held_out]
        * bool(METHODS),
        clusters=CLUSTERS,
        held_out=[path.replace(".csv", "_eval.csv") for path in CLUSTERS],
        drawn=every_step("prompts.jsonl"),
        generations=every_step("generations.jsonl"),
        rewards=every_step("rewards.jsonl"),
        pfp=every_step("pfp.jsonl"),
        arms=ARMS,
        pairs=every_round("pairs.jsonl"),
        verdicts=verdicts_of(CONTESTS),
        samples=sorted({f"{RESULTS}/{c.folder}/samples.jsonl" for c in CONTESTS}),
    output:
        "<results>/browse.html",
    log:
        "<logs>/browse.log",
    conda:
        "../environment.yml"
    params:
        experiment=experiment_flags(
            clusters=CLUSTERS, verdicts=verdicts_of(CONTESTS), arms=bool(ARMS)
        ),
    shell:
        "python {input.code[0]} {params.experiment} --output {output} > {log} 2>&1"
