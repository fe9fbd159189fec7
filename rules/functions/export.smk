# What an exported policy's card tells.
import json

from prefloop.config import exports_of, repository_of


def rounds_until(wildcards, file):
    """A file of every round up to the wildcards' own."""
    return [
        f"{run_of(wildcards)}/round-{r}/{file}"
        for r in range(1, int(wildcards.round) + 1)
    ]


def costs_until(wildcards):
    """Costs of all that led to a policy, evaluation not counted."""
    feedback = model_of(of_method(config, wildcards.method)["feedback"]) or ""
    asked = [feedback.removeprefix(TRAINED)] if feedback.startswith(TRAINED) else []
    return [
        f"{cluster_folder(wildcards.method)}/cluster.cost.json",
        *(["<results>/sft/sft.cost.json"] if config["sft"]["enabled"] else []),
        *(f"<results>/reward_models/{name}.cost.json" for name in asked),
        *(
            cost
            for s in STEPS
            for stage in ["generate", "reward", "perplexity"]
            for cost in rounds_until(wildcards, f"step-{s}/{stage}.cost.json")
        ),
        *rounds_until(wildcards, "train.cost.json"),
    ]


def tables_of(wildcards):
    """The tables that speak of a policy, which they do after the last round."""
    wanted = [name for name in ("results", "differences") if name in TABLES]
    last = int(wildcards.round) == ROUNDS[-1]
    return [f"<results>/tables/{name}.csv" for name in wanted] if last else []


def settings_of_run(wildcards):
    """The config as a method has it, without what does not count under its words; as JSON."""
    shared = ["policy", "prompts", "rounds", "steps"]
    shared += ["sft"] if config["sft"]["enabled"] else []
    sections = SCHEMA["$defs"]["method"]["properties"]
    own = {name: settings_of(name, wildcards.method) for name in sections}
    return json.dumps({key: config[key] for key in shared} | own)
