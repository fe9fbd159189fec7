# An HTML page to search, sort and filter the rows of an experiment. It is not in the default target: snakemake browse
from itertools import chain


def files_of_figures():
    """Return all files that the experiment's figures and tables read."""
    readers = [f"plot_{name}" for name in FIGURES]
    readers += [f"tabulate_{name}" for name in TABLES]
    return set(chain.from_iterable(map(files_read, readers)))


def comparisons_in(files):
    """Return the comparisons whose judgments or costs are among these files."""
    judged = {file.replace(".cost.json", ".jsonl") for file in files}
    return [c for c in EXPERIMENT.comparisons if judgments_of([c])[0] in judged]


PAGE = [f"workflow/browse/{file}" for file in ["page.html", "browse.css", "browse.js"]]
CLUSTERS = [f"{cluster_folder(method)}/clusters.csv" for method in METHODS]
FILES = files_of_figures()
COMPARISONS = comparisons_in(FILES)
# For methods that draw at random, only figures need the arms.
ARMS = sorted(FILES.intersection(every_step("arms.json")))


rule browse:
    input:
        # If only theory is simulated, there are no rows, and the program stops with an error.
        prompts=[
            rules.prepare_prompts.output.train,
            rules.prepare_prompts.output.eval,
        ]
        * bool(METHODS),
        clusters=CLUSTERS,
        eval=[path.replace(".csv", "_eval.csv") for path in CLUSTERS],
        drawn=every_step("prompts.jsonl"),
        pfp=every_step("pfp.jsonl"),
        arms=ARMS,
        pairs=every_round("pairs.jsonl"),
        judgments=judgments_of(COMPARISONS),
        samples=sorted({f"{RESULTS}/{c.folder}/samples.jsonl" for c in COMPARISONS}),
    output:
        "<results>/browse.html",
    log:
        "<logs>/browse.log",
    conda:
        "../environment.yml"
    params:
        **program("browse", *PAGE),
        experiment=experiment_flags(
            None,
            clusters=CLUSTERS,
            judgments=judgments_of(COMPARISONS),
            arms=bool(ARMS),
        ),
    shell:
        "PREFLOOP_LOG={log} python {params.program} {params.experiment} --output {output} > {log} 2>&1"
