import json
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

WORKFLOW = Path(workflow.basedir, "workflow")
sys.path.insert(0, str(WORKFLOW / "scripts"))

from prefloop.checks import checked, load_schema, registry_words
from prefloop.config import (
    TRAINED,
    asks_judge,
    exports_of,
    flags,
    model_name,
    model_of,
    model_sources,
    of_method,
    relevant,
    repository_of,
    trained_here,
)
from prefloop.experiment import CHOSEN, experiment_of
from prefloop.launching import launch
from prefloop.rows import InputError
from prefloop.samplers import Mixp, Sampling, models_of
from prefloop.sources import code_files

SCHEMA = load_schema(WORKFLOW / "schemas/config.schema.yaml")
try:
    config.update(checked(config, SCHEMA))
except InputError as error:
    raise WorkflowError(str(error))

RESULTS = f"results/{config['name']}"
LOGS = f"results/logs/{config['name']}"
MODELS = model_sources(config)
METHODS = config["compare"]
SEEDS = config["seeds"]
ROUNDS = range(1, config["rounds"] + 1)
STEPS = range(1, config["steps"] + 1)
# Most CPU threads of a model stage; Snakemake lowers it to the cores it has.
THREADS = 8
# The file that was given, or the default: Snakemake lists those of the command line first.
CONFIG_FILE = (
    workflow.configfiles[0] if len(workflow.configfiles) > 2 else "config.yaml"
)
REWARD_MODELS = trained_here(config)
# One method alone has no differences, which the default asks for.
NOTHING = [] if len(METHODS) > 1 else ["differences"]
FIGURES = [name for name in config["figures"] if name not in NOTHING]
TABLES = [
    *[name for name in config["tables"] if name not in NOTHING],
    *["judges"] * asks_judge(config),
    *["reward_models"] * bool(REWARD_MODELS),
]
EXPERIMENT = experiment_of(config, RESULTS)
# The pairs whose gradients are measured: those of the first run's last round.
GRADIENTS = (
    f"{RESULTS}/{METHODS[0]}/seed-{SEEDS[0]}/round-{ROUNDS[-1]}/gradients.jsonl"
    if METHODS
    else []
)
NEEDS_BETA = registry_words("metrics.NEEDS_BETA")
# How a training runs. What comes out is the same, so that changing one of these runs nothing again: they reach the
# program by a params function of threads and resources, which Snakemake does not compare with the last run's.
RUNNING = ["processes", "sharding", "gradient_checkpointing", "save_every"]


wildcard_constraints:
    method="[A-Za-z0-9_]+",
    seed=r"\d+",
    round=r"\d+",
    step=r"\d+",
    shard=r"\d+",
    model="[^/]+",
    name="[A-Za-z0-9_]+",


def code_of(script):
    """A stage's program and the modules it imports, so that editing one of them reruns the stage."""
    return code_files(f"workflow/scripts/{script}.py")


@cache
def settings_of(section, method=None):
    """A config section as a method has it, without what does not count under its words."""
    settings = of_method(config, method)[section]
    return relevant(
        settings, SCHEMA["$defs"].get(section) or SCHEMA["properties"][section]
    )


def flags_of(section, *keys, without=()):
    """A config section (or some of its keys) as flags, as the wildcards' method has it."""

    def of_wildcards(wildcards):
        settings = settings_of(section, wildcards.get("method"))
        wanted = [key for key in keys or settings if key not in without]
        return flags({key: settings.get(key) for key in wanted})

    return of_wildcards


def training_of(section, wildcards):
    """The settings of a training: of a section, or of one of the reward models."""
    if section == "reward_models":
        return config[section][wildcards.name]
    return settings_of(section, wildcards.get("method"))


def processes_of(section, wildcards, resources):
    """How many processes train: as many as config says, or one a GPU."""
    return training_of(section, wildcards)["processes"] or max(
        1, int(resources.get("gpu", 1))
    )


def launch_of(section):
    """How a training starts, by the processes and nodes that it has."""

    def of_job(wildcards, resources):
        processes = processes_of(section, wildcards, resources)
        return launch(processes, int(resources.get("nodes", 1)))

    return of_job


def running_of(section, run):
    """How a training runs, as flags: each process's threads, shards, saved states, and trackers told of `run`."""

    def of_job(wildcards, threads, resources):
        settings = training_of(section, wildcards)
        processes = processes_of(section, wildcards, resources)
        nodes = int(resources.get("nodes", 1))
        tracking = config["tracking"] | {
            "run": f"{config['name']}/{run}".format(**dict(wildcards.items())),
            "folder": f"{RESULTS}/tracking",
        }
        return flags(
            {key: settings[key] for key in RUNNING if key != "processes"}
            | {"threads": max(1, threads * nodes // processes)}
            | {"tracking": tracking if tracking["trackers"] else {}}
        )

    return of_job


def beta_for(section):
    """The first β as a flag for metrics that ask for it; others do not run again when it changes."""

    def of_wildcards(wildcards):
        settings = of_method(config, wildcards.method)
        asks = settings[section]["metric"] in NEEDS_BETA
        return flags({"beta": settings["train"]["beta"] if asks else None})

    return of_wildcards


def manifest_of(source):
    """The manifest of a model that config names: a fetched one, or a reward model trained here."""
    if source.startswith(TRAINED):
        return f"{RESULTS}/reward_models/{source.removeprefix(TRAINED)}/manifest.json"
    return f"results/models/{model_name(source)}/manifest.json"


FETCHED = manifest_of(config["policy"]["model"])
# The initial policy, which is every method's start and first reference.
BASE = f"{RESULTS}/sft/model/manifest.json" if config["sft"]["enabled"] else FETCHED


def embedding_model(wildcards):
    """The model that embeds prompts: the fetched policy, or an encoder."""
    source = settings_of("clusters", wildcards.get("method"))["embedding"]
    return FETCHED if source == "policy" else manifest_of(source)


def cluster_folder(method=None):
    """Where the clusters lie that a method draws from: everybody's, or its own where it says so."""
    own = settings_of("clusters", method) != settings_of("clusters")
    return f"{RESULTS}/{method}" if own else RESULTS


def clusters_of(wildcards):
    """clusters.pkl of the wildcards' method."""
    return f"{cluster_folder(wildcards.method)}/clusters.pkl"


def run_of(wildcards):
    """The folder of one method and seed."""
    return f"<results>/{wildcards.method}/seed-{wildcards.seed}"


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


def model_under(wildcards):
    """What an evaluated policy is a change of: the fetched model or, once fine-tuned, that."""
    return FETCHED if wildcards.policy == "base" else BASE


def policy_evaluated(wildcards):
    """An evaluated policy: what training wrote, or a model that no preference was trained into."""
    if wildcards.policy in ("base", "initial"):
        return model_under(wildcards)
    return f"<results>/{wildcards.policy}/policy.pt"


def opponent_samples(wildcards):
    """Whom a policy is compared with: the initial policy, or a method at the same seed and round."""
    if wildcards.opponent == CHOSEN:
        return []
    _, _, run = wildcards.policy.partition("/")
    opponent = f"{wildcards.opponent}/{run}" if run else wildcards.opponent
    opponent = "initial" if wildcards.opponent == "initial" else opponent
    return f"<results>/{opponent}/evaluation/temperature-{wildcards.temperature}/samples.jsonl"


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
    return settings_of("bandit", method)["allocation"] not in ("uniform", "all")


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


def feedback_files(settings):
    """What a feedback depends on: its model and template, and the module of a local function with what that imports."""
    model = model_of(settings)
    models = [manifest_of(model)] if model else []
    if settings["kind"] == "judge":
        models.append(settings["judge"]["template"])
    function = settings["function"] if settings["kind"] == "function" else ""
    name = function.split(":")[0].replace(".", "/")
    for place in (f"{name}.py", f"{name}/__init__.py", f"workflow/scripts/{name}.py"):
        if Path(place).is_file():
            return models + code_files(place)
    return models


def feedback_flags(name, settings):
    """Flags of a feedback, its model named by manifest."""
    model = model_of(settings)
    settings = relevant(settings, SCHEMA["$defs"]["feedback"])
    return flags({name: settings | {"model": manifest_of(model) if model else None}})


def reward_flags(wildcards):
    """Flags of the feedback that trains a method."""
    return feedback_flags("feedback", of_method(config, wildcards.method)["feedback"])


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


def experiment_flags(**more):
    """What a program needs that reads a whole experiment, and flags of its own."""
    text = flags(asdict(EXPERIMENT) | more)
    return (
        lambda wildcards: text
    )  # Snakemake takes braces in a plain text for wildcards


def verdicts_of(contests):
    """The verdict files of contests."""
    return [f"{RESULTS}/{contest.verdicts}" for contest in contests]


def table(name, question):
    """The files of one table, its CSV in the report with the caption that its program writes from the rows."""
    return {
        "csv": report(
            f"<results>/tables/{name}.csv",
            caption=Path(RESULTS, f"tables/{name}.rst").absolute(),
            category=question,
            labels={"table": name},
        ),
        "tex": f"<results>/tables/{name}.tex",
        "caption": f"<results>/tables/{name}.rst",
    }


def every_round(file):
    """A file of every round of every run."""
    return collect(
        f"<results>/{{method}}/seed-{{seed}}/round-{{round}}/{file}",
        method=METHODS,
        seed=SEEDS,
        round=ROUNDS,
    )


def every_step(file):
    """A file of every step of every run."""
    return collect(
        f"<results>/{{method}}/seed-{{seed}}/round-{{round}}/step-{{step}}/{file}",
        method=METHODS,
        seed=SEEDS,
        round=ROUNDS,
        step=STEPS,
    )


def picture(name, question):
    """The files of one figure, its PNG in the report with the caption that its program writes from the rows."""
    return {
        "pdf": f"<results>/figures/{name}.pdf",
        "svg": f"<results>/figures/{name}.svg",
        "csv": f"<results>/figures/{name}.csv",
        "caption": f"<results>/figures/{name}.rst",
        "png": report(
            f"<results>/figures/{name}.png",
            caption=Path(RESULTS, f"figures/{name}.rst").absolute(),
            category=question,
            labels={"figure": name},
        ),
    }
