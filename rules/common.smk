import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

WORKFLOW = Path(workflow.basedir, "workflow")
sys.path.insert(0, str(WORKFLOW / "scripts"))

from prefloop.config import (
    checked,
    code_files,
    flags,
    load_schema,
    model_name,
    model_sources,
    of_method,
)
from prefloop.rows import InputError

try:
    config.update(checked(config, load_schema(WORKFLOW / "schemas/config.schema.yaml")))
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
FIGURES = ["quality", "arms", "prompts", "training", "pfp"]
TABLES = ["results", "costs"]


wildcard_constraints:
    method="[A-Za-z0-9_]+",
    seed=r"\d+",
    round=r"\d+",
    step=r"\d+",
    model="[^/]+",
    policy=r"initial|[A-Za-z0-9_]+/seed-\d+/round-\d+",


def code_of(script):
    """A stage's program and the modules it imports, so that editing one of them reruns the stage."""
    return code_files(f"workflow/scripts/{script}.py")


def flags_of(section, *keys):
    """A config section (or some of its keys) as flags, as the wildcards' method has it."""

    def of_wildcards(wildcards):
        settings = of_method(config, wildcards.get("method"))[section]
        return flags({key: settings[key] for key in keys or settings})

    return of_wildcards


def manifest_of(source):
    """The manifest of a model that config names."""
    return f"results/models/{model_name(source)}/manifest.json"


BASE = manifest_of(config["policy"]["model"])


def run_of(wildcards):
    """The folder of one method and seed."""
    return f"<results>/{wildcards.method}/seed-{wildcards.seed}"


def policy_before(wildcards):
    """The policy a round starts from: the base model, or the round before's."""
    before = int(wildcards.round) - 1
    return f"{run_of(wildcards)}/round-{before}/policy.pt" if before else BASE


def sampled_policy(wildcards):
    """The policy that answers the round's prompts."""
    sampler = of_method(config, wildcards.method)["generation"]["sampler"]
    return BASE if sampler == "reference" else policy_before(wildcards)


def steps_before(wildcards):
    """Every (round, step) of the run before this one, oldest first."""
    here = int(wildcards.round), int(wildcards.step)
    return [(r, s) for r in range(1, here[0] + 1) for s in STEPS if (r, s) < here]


def arms_before(wildcards):
    """arms.json of the step before; none in a run's first step."""
    return [
        f"{run_of(wildcards)}/round-{r}/step-{s}/arms.json"
        for r, s in steps_before(wildcards)[-1:]
    ]


def prompts_before(wildcards):
    """The prompts of every step before, which are not fresh any more."""
    return [
        f"{run_of(wildcards)}/round-{r}/step-{s}/prompts.jsonl"
        for r, s in steps_before(wildcards)
    ]


def feedback_files(settings):
    """What a feedback depends on: its model, and the module of a local function with what that imports."""
    models = [manifest_of(settings["model"])] if settings["model"] else []
    name = (settings["function"] or "").split(":")[0].replace(".", "/")
    for place in (f"{name}.py", f"{name}/__init__.py", f"workflow/scripts/{name}.py"):
        if Path(place).is_file():
            return models + code_files(place)
    return models


def feedback_flags(name, settings):
    """Flags of a feedback, its model named by manifest."""
    model = manifest_of(settings["model"]) if settings["model"] else None
    return flags({name: settings | {"model": model}})


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
    """The files of one figure, its PNG in the report."""
    return {
        "pdf": f"<results>/figures/{name}.pdf",
        "svg": f"<results>/figures/{name}.svg",
        "csv": f"<results>/figures/{name}.csv",
        "png": report(
            f"<results>/figures/{name}.png",
            caption=f"../workflow/report/{name}.rst",
            category=question,
            labels={"figure": name},
        ),
    }
