# Methods with the same settings for drawing prompts and sampling share step 1 of round 1. A hidden method, which is not
# compared, computes the step once, and each method copies it. Included if share_first_step is true.
from prefloop.config.first_steps import first_steps, sharing

FIRST_STEPS = first_steps(config)
NO_METHOD = "(?!)"  # a pattern that nothing matches


def shared_file(file):
    """Return a file of the shared step of the wildcards' method."""

    def of_wildcards(wildcards):
        run = f"<results>/{FIRST_STEPS[wildcards.method]}/seed-{wildcards.seed}"
        return f"{run}/round-1/step-1/{file}"

    return of_wildcards


for stage, file in [
    ("generate", "generations"),
    ("reward", "rewards"),
    ("logprobs", "logprobs"),
]:

    rule:
        name:
            f"copy_{file}"
        input:
            prompts="<results>/{method}/seed-{seed}/round-1/step-1/prompts.jsonl",
            shared_prompts=shared_file("prompts.jsonl"),
            rows=shared_file(f"{file}.jsonl"),
            cost=shared_file(f"{stage}.cost.json"),
        output:
            rows=f"<results>/{{method}}/seed-{{seed}}/round-1/step-1/{file}.jsonl",
            cost=f"<results>/{{method}}/seed-{{seed}}/round-1/step-1/{stage}.cost.json",
        log:
            f"<logs>/{{method}}/seed-{{seed}}/round-1/step-1/{stage}.log",
        wildcard_constraints:
            method="|".join(sharing(config, stage)) or NO_METHOD,
        conda:
            "../environment.yml"
        params:
            **program("copy_step"),
        shell:
            "PREFLOOP_LOG={log} python {params.program} --prompts {input.prompts}"
            " --shared-prompts {input.shared_prompts} --shared-rows {input.rows} --shared-cost {input.cost}"
            " --output {output.rows} --cost {output.cost} > {log} 2>&1"


ruleorder: copy_generations > generate
ruleorder: copy_rewards > reward
ruleorder: copy_logprobs > logprobs


if config["shards"] > 1:

    ruleorder: copy_generations > gather_generations
    ruleorder: copy_rewards > gather_rewards
    ruleorder: copy_logprobs > gather_logprobs
