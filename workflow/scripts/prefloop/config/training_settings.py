"""Settings of training: the sections sft, reward_models, pairs, reference, train and tracking."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from prefloop.config.prompt_settings import SourceConfig
from prefloop.core.metadata import Choice, Matches, OnlyIf, Unique, Unit
from prefloop.methods.beta_config import BetaConfig
from prefloop.methods.loss_options import LossOptions
from prefloop.models.options import Dtype, Lora, RuntimeConfig


@dataclass
class OptimizerConfig:
    """How parameters are trained, for any loss. The defaults suit adapters on a model of 1 to 8 B parameters."""

    parameters: Literal["lora", "full"] = "lora"
    """Train low-rank adapters, or all parameters."""
    lora: Annotated[Lora, OnlyIf("parameters", ("lora",))] = field(default_factory=Lora)
    """Settings of the adapters."""
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """AdamW (betas 0.9, 0.999), or RMSprop (α 0.99) as in the original DPO code."""
    learning_rate: Annotated[float, Gt(0), Unit("parameter change per optimizer step")] = 1e-4
    """Peak learning rate, reached at the end of the warm-up."""
    weight_decay: Annotated[float, Ge(0), Unit("per step"), OnlyIf("optimizer", ("adamw",))] = 0.0
    """Decoupled weight decay: this fraction of a parameter, times the learning rate, is subtracted at each step."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay of the learning rate after the warm-up, to 0 at the end."""
    warmup_ratio: Annotated[float, Ge(0), Lt(1), Unit("fraction of optimizer steps")] = 0.1
    """Fraction of the optimizer steps in which the learning rate rises."""
    epochs: Annotated[int, Ge(1), Unit("passes")] = 1
    """Passes over the data."""
    batch_size: Annotated[int, Ge(1), Unit("examples")] = 64
    """Preference pairs or responses per optimizer step, over all processes and micro-batches."""
    micro_batch_size: Annotated[int, Ge(1), Unit("examples")] = 4
    """Examples per forward pass, unless `micro_batch_tokens` is set."""
    micro_batch_tokens: Annotated[int | None, Ge(1), Unit("tokens")] = None
    """Maximum number of tokens per forward pass, including padding; a pass has at least one example. On a GPU, start
    with 8192. null uses micro_batch_size."""
    max_grad_norm: Annotated[float, Gt(0), Unit("2-norm of the gradient")] = 1.0
    """Gradients are clipped to this norm."""
    dtype: Dtype = "auto"
    """Dtype of the computation; auto means bfloat16 if the hardware multiplies it fast, else float32. Trained weights
    and optimizer state stay in float32."""


@dataclass
class TrainConfig(LossOptions, BetaConfig, OptimizerConfig):
    """One round of preference training. The default learning rate suits adapters; full training needs a tenth of it."""

    loss: Annotated[dict[str, float] | str, Choice("methods.losses.LOSSES", functions=True, weights=True)] = "dpo"
    """Preference loss, or a weighted sum of losses with positive weights, such as {dpo: 1.0, nll: 0.2}. A method
    replaces the entire sum."""
    pair_weights: Literal["wpo", "wpo_sampled"] | None = None
    """Weight of each pair's loss; null weights all equally. wpo multiplies it with π(y_w)^(1/N_w) · π(y_l)^(1/N_l), so
    that pairs that the policy could have written count more (arXiv 2406.11827). wpo_sampled divides each token's
    probability by the expected one of a sampled token, Σ_v π_v², as TRL does."""
    ld_alpha: Annotated[float | None, Ge(0), Le(1), Unit("pure number")] = None
    """Weight of the log-probabilities of tokens after the length of the pair's shorter response, under policy and
    reference (LD-DPO, arXiv 2409.06411); null and 1 weight all equally. Margins and log-probabilities in training.jsonl
    have these weights. Only for losses of the margin: dpo, cdpo, rdpo, ipo and slic."""
    learning_rate: Annotated[float, Gt(0), Unit("parameter change per optimizer step")] = 1e-5
    """Peak learning rate, reached at the end of the warm-up."""
    carry_beta: Annotated[bool, OnlyIf("beta_rule", other_than=("constant", "schedule"))] = True
    """Keep the state of the β rule from round to round; if false, it starts fresh each round."""


@dataclass
class TrainSection(RuntimeConfig, TrainConfig):
    """One round of preference training. The default learning rate suits adapters; full training needs a tenth of it."""


@dataclass
class SFTConfig(OptimizerConfig):
    """Supervised fine-tuning on the chosen responses of the data set."""

    max_response_tokens: Annotated[int, Ge(1), Unit("tokens")] = 512
    """Longer responses are cut and do not end with an end-of-sequence token."""
    seed: Annotated[int, Ge(0), Unit("seed")] = 0
    """Seed for the order of examples and for new adapters."""


@dataclass
class SFTSection(RuntimeConfig, SFTConfig):
    """Supervised fine-tuning on the chosen responses before the first round; its result is the initial policy and
    the first reference of every method."""

    enabled: bool = False
    """Fine-tune before the first round."""


@dataclass
class RewardModelConfig(OptimizerConfig, SourceConfig):
    """A sequence classifier with one logit, trained on preference pairs (Bradley–Terry)."""

    parameters: Literal["lora", "full"] = "full"
    """Train low-rank adapters, or all parameters."""
    learning_rate: Annotated[float, Gt(0), Unit("parameter change per optimizer step")] = 2e-5
    """Peak learning rate, reached at the end of the warm-up."""
    epochs: Annotated[int, Ge(1), Unit("passes")] = 2
    """Passes over the data."""
    part: Literal["all", "first", "second"] = "all"
    """Half of the conversations to use, so that two reward models can use one source without sharing conversations."""
    take: Annotated[int | None, Ge(2), Unit("pairs")] = None
    """Number of pairs drawn at random, for training and evaluation together; null means all."""
    eval_fraction: Annotated[float, Gt(0), Lt(1), Unit("fraction of conversations")] = 0.2
    """Fraction of the conversations held out for the report."""
    max_tokens: Annotated[int, Ge(1), Unit("tokens")] = 512
    """Maximum length of a conversation, if the model allows it. Longer conversations are cut from the left."""
    seed: Annotated[int, Ge(0), Unit("seed")] = 0
    """Seed for drawing pairs, the split, the new head and the order of examples."""


@dataclass(kw_only=True)
class RewardModelSection(RuntimeConfig, RewardModelConfig):
    """A sequence classifier with one logit, trained on preference pairs (Bradley–Terry)."""

    base: Annotated[
        str, Matches(r"(?!trained:).*", "an existing model; a reward model of this experiment cannot be a base")
    ]
    """Encoder or language model to start from, in the form of policy.model."""
    trust_remote_code: bool = False
    """Whether the repository of the base model may run its own code."""


@dataclass
class SelectionConfig:
    """Which of a round's pairs are trained on."""

    metric: Annotated[str, Choice("methods.pair_metrics.METRICS", functions=True)] = "pfp"
    """Score by which the pairs of a round are ranked."""
    first_metric: Annotated[str, Choice("methods.pair_metrics.METRICS", functions=True)] | None = None
    """Metric of round 1, in which policy and reference are equal, so that all margins are 0; null means `metric`. With
    random, the policy of round 1 is the seed model of arXiv 2502.14560."""
    pairing: Annotated[str, Choice("methods.pairings.PAIRINGS")] | None = None
    """How one candidate pair per prompt is formed; null means all pairs of responses with different rewards."""
    top_n: Annotated[int | None, Ge(1), Unit("pairs per round")] = None
    """Number of pairs trained on, best first; null means all."""
    min_gap: Annotated[float | None, Ge(0), Unit("units of reward")] = None
    """Pairs with a smaller reward gap are dropped; null drops none."""
    min_gap_quantile: Annotated[float | None, Ge(0), Le(1), Unit("quantile 0–1")] = None
    """Pairs below this quantile of the round's reward gaps are dropped; null drops none."""
    drop_truncated: bool = False
    """Drop pairs in which a response reached generation.max_new_tokens before its end."""


@dataclass
class Replay:
    """Pairs of earlier rounds that are trained on again, scored by the round's own policy and reference."""

    rounds: Annotated[int, Ge(1), Unit("rounds")] = 1
    """Number of previous rounds from which pairs are drawn, without replacement."""
    share: Annotated[float, Ge(0), Lt(1), Unit("fraction of the pairs trained on")] = 0.0
    """Replayed fraction of a round's training pairs. Replayed pairs are added to the round's own; 0 replays none."""


@dataclass
class MixConfig:
    """Pairs that join a round's own."""

    replay: Replay = field(default_factory=Replay)
    """Pairs of earlier rounds that are trained on again."""
    offline_share: Annotated[float, Ge(0), Lt(1), Unit("fraction of the pairs trained on")] = 0.0
    """Fraction of a round's training pairs that are drawn at random from the data set's chosen and rejected responses.
    They are added to the round's own pairs."""


@dataclass
class PairsConfig(MixConfig, SelectionConfig):
    """Which pairs are trained on."""


@dataclass
class ReferenceConfig:
    """The policy that training is regularized towards, and that samplers call the reference."""

    kind: Literal["initial", "previous", "ema"] = "initial"
    """The initial policy, the policy before the round, or an exponential moving average of the policies."""
    decay: Annotated[float, Gt(0), Lt(1), Unit("fraction"), OnlyIf("kind", ("ema",))] = 0.5
    """Weight of the old reference in the moving average, applied once per round."""


@dataclass
class TrackingConfig:
    """Experiment trackers that receive the metrics of training.jsonl. Their addresses and keys come from their own
    environment variables."""

    trackers: Annotated[tuple[Annotated[str, Choice("training.tracking.TRACKERS")], ...], Unique()] = ()
    """Experiment trackers; each needs the package of its name."""
    project: Annotated[str, Matches(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "letters, digits, . _ and -")] = "prefloop"
    """Project (wandb), experiment (mlflow) or folder (tensorboard) that groups the runs."""
