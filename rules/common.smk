import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

WORKFLOW = Path(workflow.basedir, "workflow")
sys.path.insert(0, str(WORKFLOW / "scripts"))

from prefloop.checks import check_keys, checked, load_schema
from prefloop.config import (
    TRAINED,
    asks_judge,
    flags,
    model_name,
    model_of,
    model_sources,
    of_method,
    relevant,
    trained_here,
)
from prefloop.experiment import experiment_of
from prefloop.rows import InputError
from prefloop.sources import code_files

SCHEMA = load_schema(WORKFLOW / "schemas/config.schema.yaml")
# Snakemake itself says this only where --configfile names none.
if not Path("experiments/methods.yaml").exists():
    raise WorkflowError(
        f"config: no experiments/methods.yaml in {Path.cwd()}; "
        f"start snakemake in the folder of Snakefile, {Path(workflow.basedir).resolve()}"
    )
try:
    check_keys(workflow.configfiles)
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
LEFT_OUT = [] if len(METHODS) > 1 else ["differences"]
FIGURES = [name for name in config["figures"] if name not in LEFT_OUT]
TABLES = [
    *[name for name in config["tables"] if name not in LEFT_OUT],
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


wildcard_constraints:
    method="|".join(config["methods"]),
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


def run_of(wildcards):
    """The folder of one method and seed."""
    return f"<results>/{wildcards.method}/seed-{wildcards.seed}"


def feedback_files(settings):
    """What a feedback depends on: model and template, a local function's module with what it imports, files it names."""
    model = model_of(settings)
    models = [manifest_of(model)] if model else []
    if settings["kind"] == "judge":
        models.append(settings["judge"]["template"])
    function = settings["function"] if settings["kind"] == "function" else ""
    name = function.split(":")[0].replace(".", "/")
    for place in (f"{name}.py", f"{name}/__init__.py", f"workflow/scripts/{name}.py"):
        if Path(place).is_file():
            return models + code_files(place)
    told = settings.get(settings["kind"])  # by its own name, as a function is
    words = told.split() if isinstance(told, str) else []
    return models + [word for word in words if Path(word).is_file()]


def feedback_flags(name, settings):
    """Flags of a feedback, its model named by manifest."""
    model = model_of(settings)
    settings = relevant(settings, SCHEMA["$defs"]["feedback"])
    return flags({name: settings | {"model": manifest_of(model) if model else None}})
