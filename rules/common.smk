# Paths, the config, and helpers for several phases.
import gc
import inspect
import os
import shlex
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from snakemake.common import overwrite_function_params
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake_interface_executor_plugins.settings import DeploymentMethod

# A plan of thousands of jobs has millions of objects that live until the end. With Python's default thresholds, the
# search for unreachable objects takes a fifth of the planning time.
gc.set_threshold(100_000, 50, 100)

# The clone of the project. Programs, presets and packaged files are found there, whatever the working directory is.
CLONE = Path(workflow.snakefile).resolve().parents[1]
SCRIPTS = CLONE / "workflow/scripts"
sys.path.insert(0, str(SCRIPTS))
# For programs in scripts/figures and scripts/tables, which are in subfolders next to the library.
os.environ["PYTHONPATH"] = str(SCRIPTS)

from prefloop.config.consistency import doubts
from prefloop.config.declarations import defaults, hints, inner, relevant
from prefloop.config.first_steps import with_first_steps
from prefloop.config.feedback_settings import PLANNED, Judging, WeightedSource
from prefloop.config.prompt_settings import ChatConfig, EvalPromptsSection
from prefloop.config.settings import ExperimentConfig, MethodConfig
from prefloop.config.source_names import configured_sources, source_code, source_files
from prefloop.config.training_settings import RewardModelSection
from prefloop.config.validation import check_keys, checked
from prefloop.config.resolve import (
    COMBINED,
    TRAINED,
    asks_judge,
    figure_names,
    flags,
    may_run_code,
    merged,
    model_of,
    model_sources,
    of_method,
    feedback_sources,
    first_beta,
    trained_here,
)
from prefloop.config.experiment import experiment_of
from prefloop.config.output_flags import gradients_file, has_own_clusters, section_of
from prefloop.config.recorded_settings import write_settings
from prefloop.config.existence import misspelled_in_profile
from prefloop.monitor.failures import FailureRecorder
from prefloop.monitor.plan import PLAN_FILE, write_plan
from prefloop.monitor.plan_summary import plan_summary
from prefloop.monitor.rate_limit import remove_default_limit
from prefloop.monitor.terminal_log import set_up_terminal
from prefloop.core.code_dependencies import code_hash
from prefloop.core.errors import InputError
from prefloop.core.files import check_own_folder, find_file, sha256_of
from prefloop.core.own_functions import is_own, own_code
from prefloop.core.registry import chosen_words
from prefloop.models.sources import model_name

# The config from --configfile, --config or an importing workflow's `config:` overrides the presets. Without
# --configfile, --config overrides the demo.
DEMO = Path("config.yaml") if Path("config.yaml").is_file() else CLONE / "config.yaml"
GIVEN = workflow.config_settings.configfiles or workflow.modifier.skip_configfile
BASE_CONFIGS = [CLONE / "experiments/methods.yaml", *([] if GIVEN else [DEMO])]
# Not in jobs, and not if another workflow imports this one: that workflow controls the terminal.
TERMINAL = (
    set_up_terminal(logger, workflow.output_settings)
    if workflow.is_main_process and workflow.modifier.parent_modifier is None
    else None
)
try:
    check_keys([*BASE_CONFIGS, *workflow.configfiles])
    # Not `config`, in which Snakemake adds the losses of one file's sum to those of another's.
    given = [
        *map(load_configfile, workflow.config_settings.configfiles),
        dict(workflow.config_settings.config),
    ]
    if workflow.modifier.skip_configfile:  # an importing workflow gives the config
        given = [config]
    config = {}
    for layer in [*map(load_configfile, BASE_CONFIGS), *given]:
        config = merged(config, layer)
    config = with_first_steps(checked(config))
    if workflow.is_main_process:  # jobs rely on the check of their main process
        check_own_folder(Path(".snakemake"))
except InputError as error:
    raise WorkflowError(str(error))
if workflow.is_main_process:
    for doubt in doubts(config):
        logger.warning(f"config: {doubt}")

RESULTS = f"results/{config['name']}"
LOGS = f"results/logs/{config['name']}"


pathvars:
    results=RESULTS,
    logs=LOGS,


# Programs also receive these paths as flags, so an importing workflow cannot change them.
if workflow.modifier.modify_path(workflow.pathvars.apply("<results>")) != RESULTS:
    raise WorkflowError(
        "module prefloop: prefix, replace_prefix and pathvars are not supported; "
        "set `name` in its config, or start snakemake with --directory"
    )

MODELS = model_sources(config)
METHODS = config["compare"]
SEEDS = config["seeds"]
ROUNDS = range(1, config["rounds"] + 1)
STEPS = range(1, config["steps"] + 1)
# Maximum CPU threads of a model stage; Snakemake lowers it to its number of cores.
THREADS = 8
CONFIG_FILE = workflow.configfiles[0] if workflow.configfiles else DEMO
REWARD_MODELS = trained_here(config)
VALIDATION = config["evaluation"]["validation"]
# The default includes differences, which need at least two methods.
OMITTED = [] if len(METHODS) > 1 else ["differences"]
EXPERIMENT = experiment_of(config, RESULTS)
FIGURE_NAMES = figure_names(config)
FIGURES = [name for name in FIGURE_NAMES if name not in OMITTED]
OWN_FIGURES = [name for name in FIGURES if is_own(FIGURE_NAMES[name])]
TABLES = [
    *[name for name in config["tables"] if name not in OMITTED],
    *["judges"] * asks_judge(config),
    *["reward_models"] * bool(REWARD_MODELS),
    *["acquisition"] * bool(EXPERIMENT.acquiring),
    *["best_round"] * (bool(METHODS) and VALIDATION["fraction"] is not None),
]
if TERMINAL:
    TERMINAL.folder = Path(LOGS)
    TERMINAL.summary = plan_summary(config, FIGURES, TABLES)
GRADIENTS = gradients_file(config, RESULTS) if METHODS else None


# With `--sdm apptainer`, all jobs run in one image: a file, or an address from which Apptainer pulls it.
IN_CONTAINER = (
    DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
)
IMAGE = os.environ.get("PREFLOOP_IMAGE") or str(CLONE / "prefloop.sif")
if IN_CONTAINER:
    if "://" not in IMAGE and not Path(IMAGE).is_file():
        raise WorkflowError(
            f"--sdm apptainer: {IMAGE}: no such file, expected an image; build it from Containerfile "
            "(docs/cluster.md), or name another one in the environment variable PREFLOOP_IMAGE"
        )

    container: IMAGE


wildcard_constraints:
    method="|".join(config["methods"]),
    seed=r"\d+",
    round=r"\d+",
    step=r"\d+",
    shard=r"\d+",
    model="[^/]+",
    name="[A-Za-z0-9_]+",


@cache
def settings_of(section, method=None):
    """Return a config section of a method, without settings that its other settings make irrelevant."""
    return section_of(config, section, method)


def per_method(function):
    """Return a function of wildcards that calls a function of a method once per method."""
    cached = cache(function)
    return lambda wildcards: cached(wildcards.method)


@cache
def has_vllm():
    """Whether the package vllm is installed next to Snakemake."""
    return find_spec("vllm") is not None


def samples_by_transformers(wildcards):
    """Whether a stage samples without vLLM. vLLM starts its own processes, so it cannot use the warm process."""
    engine = settings_of("generation", wildcards.get("method"))["engine"]
    return engine == "transformers" or (engine == "auto" and not has_vllm())


def flags_of(section, *keys, without=()):
    """Return flags for a config section of the wildcards' method, or for some of its keys."""

    @cache
    def text(method):
        settings = settings_of(section, method)
        wanted = [key for key in keys or settings if key not in without]
        return flags({key: settings.get(key) for key in wanted})

    return lambda wildcards: text(wildcards.get("method"))


def own_functions(section, *keys):
    """Return hashes of the user's functions in a section of the wildcards' method."""

    def of_wildcards(wildcards):
        settings = settings_of(section, wildcards.get("method"))
        words = [word for key in keys for word in chosen_words(settings[key])]
        return [own_code(word) for word in words if is_own(word)]

    return of_wildcards


def manifest_of(source):
    """Return the manifest of a model in the config: a fetched model, or a reward model that the experiment trains."""
    if source.startswith(TRAINED):
        return f"{RESULTS}/reward_models/{source.removeprefix(TRAINED)}/manifest.json"
    return f"results/models/{model_name(source)}/manifest.json"


# Empty if only theory is simulated.
FETCHED = manifest_of(config["policy"]["model"]) if config["policy"]["model"] else []
# The base model of all policies.
BASE = f"{RESULTS}/sft/model/manifest.json" if config["sft"]["enabled"] else FETCHED
# The initial policy, with which every method starts and its first reference: the base model, or another run's policy.
START = config["policy"]["start"]
INITIAL = f"{RESULTS}/initial/policy.pt" if START else BASE


def remember_signatures(rules):
    """Cache the parameters of every function in rules, because Snakemake looks them up several times per job."""
    for rule in rules:
        items = [*rule.input, *rule.params, rule.group, rule.conda_env]
        for function in [getattr(item, "callable", item) for item in items]:
            if inspect.isfunction(function):
                parameters = inspect.signature(function).parameters
                overwrite_function_params(function, parameters)


def trained_pairs(method, run, round_index):
    """Return the file of the pairs that a round trains on: its own pairs, or those mixed with others."""
    file = "mixed_pairs.jsonl" if method in EXPERIMENT.mixing else "pairs.jsonl"
    return f"{run}/round-{round_index}/{file}"


def mixing_costs(method, run):
    """Return the cost files of mixing pairs in every round of a run; none by default."""
    if method not in EXPERIMENT.mixing:
        return []
    return [f"{run}/round-{r}/mix_pairs.cost.json" for r in ROUNDS]


def acquires(method):
    """Whether a method chooses which responses get a label."""
    return settings_of("acquisition", method)["rule"] != "all"


@cache
def cluster_folder(method=None):
    """Return the folder of a method's clusters: the shared one, or its own if its settings differ."""
    return f"{RESULTS}/{method}" if has_own_clusters(config, method) else RESULTS


def run_of(wildcards):
    """Return the folder of one method and seed."""
    return f"<results>/{wildcards.method}/seed-{wildcards.seed}"


def policy_before(wildcards):
    """Return the policy that a round starts from: the initial policy, or that of the previous round."""
    before = int(wildcards.round) - 1
    return f"{run_of(wildcards)}/round-{before}/policy.pt" if before else INITIAL


def reference_of(wildcards, rounds_back=0):
    """Return the reference of a round, or of the round `rounds_back` rounds before it."""
    kind = settings_of("reference", wildcards.method)["kind"]
    round_index = int(wildcards.round) - rounds_back
    if kind == "previous":
        return policy_before(wildcards)
    if kind == "initial" or round_index == 1:
        return INITIAL
    return f"{run_of(wildcards)}/round-{round_index}/reference.pt"
