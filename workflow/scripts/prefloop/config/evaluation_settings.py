"""Settings of evaluation and export: the sections evaluation and export."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MinLen

from prefloop.config.evaluator_measures import RESERVED_EVALUATORS
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.config.generation_settings import SamplingParams
from prefloop.config.prompt_settings import EvalPromptsSection
from prefloop.core.metadata import NO_FLAG, Matches, Unique, Unit
from prefloop.models.options import Dtype

EvaluatorName = Matches(
    r"[A-Za-z0-9](?!\w*_(?:reward|win)$)[A-Za-z0-9_]*",
    "a name of letters, digits and _ that does not end in _reward or _win, other than "
    f"{', '.join(RESERVED_EVALUATORS)}",
    RESERVED_EVALUATORS,
)
Temperatures = tuple[Annotated[float, Ge(0)], ...]


@dataclass
class ByTemperatureConfig:
    """For figure temperatures: policies before training and after the last round, sampled at several temperatures."""

    temperatures: Annotated[Temperatures, MinLen(1), Unique(), Unit("pure number")] = (0.25, 0.5, 0.75, 1.0)
    """Sampling temperatures."""
    methods: tuple[str, ...] | None = None
    """Methods to evaluate; null means all."""


@dataclass
class ByCheckpointConfig:
    """For figure checkpoints: policies at optimizer steps within a round."""

    steps: Annotated[tuple[Annotated[int, Ge(1)], ...], Unique(), Unit("optimizer steps")] = ()
    """Optimizer steps of a round after which the policy is saved and evaluated; an empty list saves none."""
    temperatures: Annotated[Temperatures, Unique(), Unit("pure number")] = ()
    """Sampling temperatures; an empty list means evaluation.temperature."""
    methods: tuple[str, ...] | None = None
    """Methods to evaluate; null means all."""


@dataclass
class KLConfig:
    """For figure frontier: KL(policy‖initial policy), exact at every position of samples at temperature 1."""

    samples: Annotated[int, Ge(1), Unit("samples per prompt")] = 1
    """Samples of each policy at temperature 1, per prompt."""
    dtype: Dtype = "float32"
    """Dtype of the computation. Rounding errors of bfloat16 are not small compared with the divergence."""


@dataclass
class GradientsConfig:
    """For figure gradients: pairs whose gradient is measured."""

    pairs: Annotated[int, Ge(2), Unit("pairs")] = 300
    """Pairs drawn from the last round of the first method and seed."""


@dataclass
class BenchmarkConfig:
    """For figure benchmark: an external command that runs on the exported policy of every round."""

    command: str | None = None
    """Shell command of the benchmark; null runs none. {model} is replaced by the folder of the model, {output} by an
    empty folder for the benchmark's files, and {policy} by a name such as dota/seed-0/round-1, each quoted."""
    file: Annotated[str, Matches(r"[^/].*", "a pattern below the output folder")] = "**/*.json"
    """Pattern of the JSON file in {output} that contains the number. Exactly one file must match."""
    value: tuple[Annotated[str, NO_FLAG], ...] = ()
    """Path to the number in that file: keys of objects and indices of lists, from the top."""
    label: str = "benchmark"
    """Name of the number in the figure."""


@dataclass
class TargetConfig:
    """For table cost_to_reach: the measure and the level to reach."""

    measure: str = "auto"
    """One of reward (of the evaluator), feedback (reward of the feedback), win (win rate), or the name of one of
    evaluation.evaluators, for its reward; <name>_win is its win rate. auto means reward. A judge gives no rewards, so
    for a judge auto and a name mean the win rate."""
    value: Annotated[float | None, Unit("as measure")] = None
    """Level to reach; null means halfway between the initial policy and the final level of the best method."""


@dataclass
class PrimaryConfig:
    """The primary contrast, which is chosen before the experiment runs: a method minus evaluation.baseline."""

    method: str | None = None
    """Method of the primary contrast; null for none. All other contrasts are exploratory."""
    measure: str = "auto"
    """One of reward (of the evaluator), feedback (reward of the feedback), win (win rate), or the name of one of
    evaluation.evaluators, for its reward; <name>_win is its win rate. auto means reward. A judge gives no rewards, so
    for a judge auto and a name mean the win rate."""


@dataclass
class PerplexityConfig:
    """How plain text is cut into windows and scored."""

    column: str = "text"
    """Field that contains the text in the rows of a .jsonl file."""
    max_tokens: Annotated[int, Ge(2), Unit("tokens")] = 1024
    """Tokens per window. Longer documents are cut into several windows."""
    context: Annotated[int, Ge(1), Unit("tokens")] = 1
    """Tokens at the start of a window that repeat the end of the previous window. They are context and are not scored
    again. More context takes more time and lowers the perplexity of long documents."""
    batch_size: Annotated[int, Ge(1), Unit("windows")] = 8
    """Windows per batch."""
    dtype: Dtype = "auto"
    """Dtype of the computation; auto means bfloat16 if the hardware multiplies it fast, else float32."""


@dataclass
class PerplexitySection(PerplexityConfig):
    """For table results and figure perplexity: every policy's perplexity on plain text, which shows forgetting."""

    text: str | None = None
    """packaged (short texts on many topics, written for this project), a .txt file with one document, or a .jsonl file
    with one document per row; null measures no perplexity."""


@dataclass
class ValidationConfig:
    """For table best_round: some eval prompts choose the best round of every run, and the others evaluate it."""

    fraction: Annotated[float | None, Gt(0), Lt(1), Unit("fraction of eval prompts")] = None
    """Fraction of the eval prompts that choose the best round; the others compare it with the last round. Prompts of
    the same family are never separated. null chooses no round."""
    measure: str = "auto"
    """Measure whose mean is largest in the chosen round: one of reward (by the evaluator), feedback (reward by the
    feedback), win (win rate), or the name of one of evaluation.evaluators, which is its reward; <name>_win is its win
    rate. auto is reward. For a judge, which gives no reward, auto and a name are the win rate."""
    seed: Annotated[int, Ge(0), Unit("seed")] = 0
    """Seed for drawing the prompts that choose the best round."""


@dataclass
class EvaluationConfig(SamplingParams):
    """How every policy is evaluated on the eval prompts: its samples are compared with the opponents'."""

    samples: Annotated[int, Ge(1), Unit("samples per prompt")] = 1
    """Samples of every policy per eval prompt. Each is compared with the opponent's sample of the same index, which is
    drawn with the same random numbers. Tables and figures first average over the samples of a prompt."""
    temperature: Annotated[float, Ge(0), Unit("pure number")] = 0.7
    """Divides the logits; 0 is greedy decoding."""
    batch_size: Annotated[int, Ge(1), Unit("samples")] = 64
    """Samples per batch."""
    dtype: Dtype = "auto"
    """Dtype of the computation; auto means bfloat16 if the hardware multiplies it fast, else float32."""
    prompts: EvalPromptsSection = field(default_factory=EvalPromptsSection)
    """A separate evaluation set, with keys as in prompts; without a source, part of `prompts` is held out."""
    evaluator: FeedbackConfig = field(default_factory=FeedbackConfig)
    """Evaluator of the samples; keys as in feedback."""
    evaluators: dict[Annotated[str, EvaluatorName], FeedbackConfig] = field(default_factory=dict)
    """Additional evaluators by name, each with keys as in feedback. They score the same samples against the same
    opponents. Tables and figures of quality show each of them by name; all other figures show only evaluator."""
    opponents: Annotated[tuple[str, ...], MinLen(1), Unique()] = ("initial",)
    """Opponents of a policy: initial (the initial policy's sample of the same prompt), chosen (the data set's
    response), or a method (at the same seed and round). Figures use the first; figure comparisons shows all."""
    baseline: str | None = None
    """Method that is subtracted in differences; null means uniform if it is compared, else the first method."""
    primary: PrimaryConfig = field(default_factory=PrimaryConfig)
    """The primary contrast, which is chosen before the experiment runs: a method minus evaluation.baseline."""
    equal_cost: Literal["labels", "tokens", "flops", "pairs"] | None = None
    """Resource that all methods should spend equally: labels, generated tokens, FLOPs, or trained pairs. Captions of
    comparisons report whether they did, according to the cost files; with null they do not."""
    by_temperature: ByTemperatureConfig = field(default_factory=ByTemperatureConfig)
    """For figure temperatures: policies before training and after the last round, sampled at several temperatures."""
    by_checkpoint: ByCheckpointConfig = field(default_factory=ByCheckpointConfig)
    """For figure checkpoints: policies at optimizer steps within a round."""
    kl: KLConfig = field(default_factory=KLConfig)
    """For figure frontier: KL(policy‖initial policy), exact at every position of samples at temperature 1."""
    gradients: GradientsConfig = field(default_factory=GradientsConfig)
    """For figure gradients: pairs whose gradient is measured."""
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    """For figure benchmark: an external command that runs on the exported policy of every round."""
    target: TargetConfig = field(default_factory=TargetConfig)
    """For table cost_to_reach: the measure and the level to reach."""
    perplexity: PerplexitySection = field(default_factory=PerplexitySection)
    """For table results and figure perplexity: every policy's perplexity on plain text, which shows forgetting."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """For table best_round: some eval prompts choose the best round of every run, and the others evaluate it."""


@dataclass
class ExportConfig:
    """Policies that `snakemake export` merges into model folders."""

    methods: Annotated[tuple[str, ...], MinLen(1), Unique()] | None = None
    """Methods whose policies are exported; null means all."""
    seeds: Annotated[Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1), Unique()] | None, Unit("seed")] = None
    """Seeds whose policies are exported; null means the first."""
    rounds: Annotated[Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1), Unique()] | None, Unit("round")] = None
    """Rounds whose policies are exported; null means the last."""
    dtype: Literal["base", "bfloat16", "float16", "float32"] = "base"
    """Dtype of the stored weights; base means the dtype of the fetched model."""
    license: str | None = None
    """License of the exported models, as an id of the hub; null means the license on the base model's card."""
    hub_id: str | None = None
    """Hub repository (owner/name) to push to, in which {method}, {seed} and {round} are filled in; null pushes nothing.
    The token is read from the environment variable HF_TOKEN."""
    private: bool = True
    """Whether a new repository is private."""
