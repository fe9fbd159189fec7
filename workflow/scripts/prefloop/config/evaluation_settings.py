"""Settings of evaluation and export: the sections evaluation and export."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MinLen

from prefloop.config.evaluator_measures import RESERVED_EVALUATORS
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.config.generation_settings import SamplingParams
from prefloop.config.prompt_settings import EvalPromptsSection
from prefloop.core.metadata import Matches, Unique, Unit
from prefloop.models.options import Dtype

EvaluatorName = Matches(
    r"[A-Za-z0-9](?!\w*_(?:reward|win)$)[A-Za-z0-9_]*",
    "a name of letters, digits and _ that does not end in _reward or _win, and none of "
    f"{', '.join(RESERVED_EVALUATORS)}",
    RESERVED_EVALUATORS,
)
Temperatures = tuple[Annotated[float, Ge(0)], ...]


@dataclass
class ByTemperatureConfig:
    """For figure temperatures: policies before training and after the last round, sampled at several temperatures."""

    temperatures: Annotated[Temperatures, MinLen(1), Unique(), Unit("pure number")] = (0.25, 0.5, 0.75, 1.0)
    """Temperatures of the samples."""
    methods: tuple[str, ...] | None = None
    """Methods to evaluate; null takes all."""


@dataclass
class ByCheckpointConfig:
    """For figure checkpoints: policies within a round."""

    steps: Annotated[tuple[Annotated[int, Ge(1)], ...], Unique(), Unit("optimizer steps")] = ()
    """Steps of a round after which the policy is kept and evaluated; an empty list keeps none."""
    temperatures: Annotated[Temperatures, Unique(), Unit("pure number")] = ()
    """Temperatures of the samples; an empty list takes evaluation.temperature."""
    methods: tuple[str, ...] | None = None
    """Methods to evaluate; null takes all."""


@dataclass
class KLConfig:
    """KL(policy‖initial policy), for figure frontier: samples at temperature 1, exact at every position."""

    samples: Annotated[int, Ge(1), Unit("samples per prompt")] = 1
    """Samples of each policy at temperature 1."""
    dtype: Dtype = "float32"
    """Arithmetic. The rounding of bfloat16 is not small compared with the divergence."""


@dataclass
class GradientsConfig:
    """For figure gradients: pairs whose gradient is measured."""

    pairs: Annotated[int, Ge(2), Unit("pairs")] = 300
    """Pairs drawn from the last round of the first method and seed."""


@dataclass
class BenchmarkConfig:
    """For figure benchmark: a command of others, run on the exported policy of every round."""

    command: str | None = None
    """Shell command that runs it. {model} becomes the folder of the model, {output} an empty folder for its files, and
    {policy} a name such as dota/seed-0/round-1, each quoted; null runs none."""
    file: Annotated[str, Matches(r"[^/].*", "a pattern below the output folder")] = "**/*.json"
    """Pattern of the one JSON file below {output} that has the number."""
    value: tuple[str, ...] = ()
    """Keys from the top of that file down to the number; of a list, an index."""
    label: str = "benchmark"
    """Name of the number in the figure."""


@dataclass
class TargetConfig:
    """The reward whose cost table cost_to_reach states."""

    measure: str = "auto"
    """One of reward (by the evaluator), feedback (reward by the feedback), win (win rate), or the name of one of
    evaluation.evaluators, which is its reward; <name>_win is its win rate. auto is reward. For a judge, which gives no
    reward, auto and a name are the win rate."""
    value: Annotated[float | None, Unit("as measure")] = None
    """Level to reach; null is halfway between the initial policy and the final level of the best method."""


@dataclass
class PrimaryConfig:
    """The contrast that the experiment is made for, named before it runs: a method minus evaluation.baseline."""

    method: str | None = None
    """Method of the contrast; null names none. All other contrasts are exploratory."""
    measure: str = "auto"
    """One of reward (by the evaluator), feedback (reward by the feedback), win (win rate), or the name of one of
    evaluation.evaluators, which is its reward; <name>_win is its win rate. auto is reward. For a judge, which gives no
    reward, auto and a name are the win rate."""


@dataclass
class PerplexityConfig:
    """How plain text is cut into windows and scored."""

    column: str = "text"
    """Field of a .jsonl file's rows that has the text."""
    max_tokens: Annotated[int, Ge(2), Unit("tokens")] = 1024
    """Tokens of a window. Longer documents are cut into several."""
    context: Annotated[int, Ge(1), Unit("tokens")] = 1
    """Tokens of a window that repeat the end of the window before it. They are read as context and not scored again.
    More context costs time and lowers the perplexity of long documents."""
    batch_size: Annotated[int, Ge(1), Unit("windows")] = 8
    """Windows per batch."""
    dtype: Dtype = "auto"
    """Arithmetic; auto is bfloat16 where the hardware multiplies it fast, else float32."""


@dataclass
class PerplexitySection(PerplexityConfig):
    """For table results and figure perplexity: every policy's perplexity on plain text, which shows forgetting."""

    text: str | None = None
    """packaged (short texts about many things, written for this project), a .txt file of one document, or a .jsonl file
    of a document per row; null measures nothing."""


@dataclass
class ValidationConfig:
    """For table best_round: eval prompts that choose the best round of every run, and are not used to compare it."""

    fraction: Annotated[float | None, Gt(0), Lt(1), Unit("fraction of eval prompts")] = None
    """Fraction of the eval prompts that choose; the others compare the chosen round with the last one. Prompts of a
    family stay together. null chooses nothing."""
    measure: str = "auto"
    """Measure whose mean is largest in the chosen round: one of reward (by the evaluator), feedback (reward by the
    feedback), win (win rate), or the name of one of evaluation.evaluators, which is its reward; <name>_win is its win
    rate. auto is reward. For a judge, which gives no reward, auto and a name are the win rate."""
    seed: Annotated[int, Ge(0), Unit("seed")] = 0
    """Seed of the draw of the prompts that choose."""


@dataclass
class EvaluationConfig(SamplingParams):
    """How every policy is evaluated on the eval prompts: its samples are compared with the opponents'."""

    samples: Annotated[int, Ge(1), Unit("samples per prompt")] = 1
    """Samples of every policy per eval prompt. Each is compared with the opponent's sample of the same number, which
    has the same random numbers. Tables and figures average over the samples of a prompt first."""
    temperature: Annotated[float, Ge(0), Unit("pure number")] = 0.7
    """Divides the logits; 0 is greedy decoding."""
    batch_size: Annotated[int, Ge(1), Unit("samples")] = 64
    """Samples per batch."""
    dtype: Dtype = "auto"
    """Arithmetic; auto is bfloat16 where the hardware multiplies it fast, else float32."""
    prompts: EvalPromptsSection = field(default_factory=EvalPromptsSection)
    """An evaluation set of its own, with keys as in prompts; without a source, part of `prompts` is held out."""
    evaluator: FeedbackConfig = field(default_factory=FeedbackConfig)
    """What evaluates the samples: keys as in feedback."""
    evaluators: dict[Annotated[str, EvaluatorName], FeedbackConfig] = field(default_factory=dict)
    """Further evaluators by name, each with keys as in feedback. They score the same samples against the same
    opponents, and tables and figures of quality show each with its name. All other figures show evaluator only."""
    opponents: Annotated[tuple[str, ...], MinLen(1), Unique()] = ("initial",)
    """Opponents of a policy: initial (the initial policy's sample of the same prompt), chosen (the data set's
    response), or a method (at the same seed and round). Figures use the first; comparisons shows all."""
    baseline: str | None = None
    """Method from which differences are taken; null is uniform if it is compared, else the first method."""
    primary: PrimaryConfig = field(default_factory=PrimaryConfig)
    """The contrast that the experiment is made for, named before it runs: a method minus evaluation.baseline."""
    equal_cost: Literal["labels", "tokens", "flops", "pairs"] | None = None
    """What all methods are meant to spend equally: labels, generated tokens, FLOPs, or trained pairs. Captions of
    comparisons state whether they did, from the cost files; null claims nothing."""
    by_temperature: ByTemperatureConfig = field(default_factory=ByTemperatureConfig)
    """For figure temperatures: policies before training and after the last round, sampled at several temperatures."""
    by_checkpoint: ByCheckpointConfig = field(default_factory=ByCheckpointConfig)
    """For figure checkpoints: policies within a round."""
    kl: KLConfig = field(default_factory=KLConfig)
    """KL(policy‖initial policy), for figure frontier: samples at temperature 1, exact at every position."""
    gradients: GradientsConfig = field(default_factory=GradientsConfig)
    """For figure gradients: pairs whose gradient is measured."""
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    """For figure benchmark: a command of others, run on the exported policy of every round."""
    target: TargetConfig = field(default_factory=TargetConfig)
    """The reward whose cost table cost_to_reach states."""
    perplexity: PerplexitySection = field(default_factory=PerplexitySection)
    """For table results and figure perplexity: every policy's perplexity on plain text, which shows forgetting."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """For table best_round: eval prompts that choose the best round of every run, and are not used to compare it."""


@dataclass
class ExportConfig:
    """Policies that `snakemake export` merges into model folders."""

    methods: Annotated[tuple[str, ...], MinLen(1), Unique()] | None = None
    """Methods whose policies are exported; null takes all."""
    seeds: Annotated[Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1), Unique()] | None, Unit("seed")] = None
    """Seeds whose policies are exported; null takes the first."""
    rounds: Annotated[Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1), Unique()] | None, Unit("round")] = None
    """Rounds whose policies are exported; null takes the last."""
    dtype: Literal["base", "bfloat16", "float16", "float32"] = "base"
    """Dtype of the stored weights; base is that of the fetched model."""
    license: str | None = None
    """License of the exported models, in the hub's words; null takes the license on the base model's card."""
    hub_id: str | None = None
    """Repository on the hub, owner/name, to push to, with {method}, {seed} and {round} filled in; null pushes nothing.
    The token is read from the environment variable HF_TOKEN."""
    private: bool = True
    """Whether a new repository is private."""
