"""Settings of feedback: the sections feedback and evaluation.evaluator."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from prefloop.core.metadata import DAY, Choice, Matches, OnlyIf, Unit
from prefloop.core.own_functions import EXPECTED, PATTERN
from prefloop.models.options import Dtype

FUNCTION = Matches(PATTERN, EXPECTED)
ADDRESS = Matches(r"https?://[^\s?#@\\]+", "an address such as http://localhost:8000/v1")
# The message does not repeat the address, because part of it may be the key.
NO_SECRETS = (
    "an address with a user name, a password or a query in it, which would appear in command lines and logs; "
    "put a key into the environment variable that judge.api_key_env names"
)
BY_MODEL = OnlyIf("kind", ("reward_model", "judge"))
BY_REWARD_MODEL = OnlyIf("kind", ("reward_model",))
MEMBER_KINDS = ("function", "reward_model")  # kinds of the sources of a sum or an ensemble
RESERVED_NAMES = ("true", "chosen", "rejected", "opponent")  # names of other columns that begin with reward_
PLANNED = ("pairs", "random_pairs")  # settings of a judge that only feedback for training has
RequestField = Literal["max_tokens", "temperature"]


@dataclass
class RequestOptions:
    """Changes to the requests to a judge's server, for servers and models that do not accept the usual fields."""

    drop: tuple[RequestField, ...] = ()
    """Fields that are not sent; many reasoning models refuse a temperature."""
    rename: dict[RequestField, Annotated[str, MinLen(1)]] = field(default_factory=dict)
    """New names of fields, such as {max_tokens: max_completion_tokens}."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields that are added or replaced, such as {reasoning_effort: low}. They appear in logs: never put a key here."""


@dataclass
class Judging:
    """How a judge compares two responses."""

    template: Path = Path("workflow/prompts/judge/helpful.txt")
    """Text file with the question to the judge, which contains {conversation}, {response_a} and {response_b}."""
    pairs: Annotated[str, Choice("feedback.comparison_plans.COMPARISON_PLANS")] = "all"
    """Pairs of a prompt's responses that are compared for training: all pairs, random_pairs random ones, or those of a
    tournament that finds the best and the worst response."""
    random_pairs: Annotated[int, Ge(1), Unit("pairs per prompt"), OnlyIf("pairs", ("random_k",))] = 2
    """Number of pairs that random_k draws per prompt."""
    base_url: Annotated[str, ADDRESS] | None = None
    """Address of an OpenAI-compatible server, up to and including /v1; null means the local model feedback.model."""
    model: str | None = None
    """The server's name for its model; null without base_url."""
    api_key_env: Annotated[str, Matches(r"[A-Za-z_]\w*", "the name of an environment variable")] = "OPENAI_API_KEY"
    """Environment variable with the API key of the server. Servers without keys do not need it."""
    concurrency: Annotated[int, Ge(1), Unit("requests")] = 8
    """Concurrent requests, including those that wait for a retry."""
    timeout: Annotated[float, Gt(0), Unit("seconds")] = 60.0
    """Time limit for the complete answer, after which the request is retried."""
    max_answer_bytes: Annotated[int, Ge(1000), Unit("bytes")] = 1_000_000
    """Maximum size of a decompressed answer. A request with a larger answer fails."""
    max_retries: Annotated[int, Ge(0), Unit("attempts")] = 8
    """Retries of a failed request, with growing pauses."""
    max_tokens: Annotated[int, Ge(1), Unit("tokens")] = 16
    """Maximum length of the server's answer. Reasoning models need thousands, because their thoughts count."""
    request: RequestOptions = field(default_factory=RequestOptions)
    """Changes to the requests to the server, for servers and models that do not accept the usual fields."""
    cache: Path = Path("results/cache/judge")
    """Folder for the server's answers, which are not requested again."""
    tie_margin: Annotated[float, Ge(0), Lt(0.5), Unit("probability")] = 0.0
    """Local model only: a probability within this distance of 0.5 is a tie."""
    min_label_mass: Annotated[float, Ge(0), Le(1), Unit("probability")] = 0.01
    """Local model only: an answer is invalid if the probabilities of both labels sum to less than this."""
    dtype: Dtype | None = None
    """Local model only: dtype of the computation; auto means bfloat16 if the hardware multiplies it fast, else float32;
    null means auto on a GPU and float32 on a CPU."""


@dataclass
class RewardSourceConfig:
    """A source of rewards."""

    kind: Annotated[str, Choice("feedback.annotate.FEEDBACK")] = "function"
    """Source of the feedback: a Python function, a sequence classifier, a judge that compares two responses, the data
    set itself, or several sources as a weighted sum or an ensemble."""
    function: Annotated[Annotated[str, FUNCTION] | None, OnlyIf("kind", ("function",))] = None
    """Reward function as module:function or path.py:function, called with prompts, responses and the columns that its
    other parameters name; required for this kind, null for others."""
    concurrency: Annotated[int, Ge(1), Unit("calls"), OnlyIf("kind", ("function",))] = 8
    """Concurrent calls of an async function that rewards one response."""
    model: Annotated[str | None, BY_MODEL] = None
    """Reward model or judge, in the form of policy.model, or trained:<name> for one of reward_models; null if a server
    judges."""
    batch_size: Annotated[int, Ge(1), Unit("responses"), BY_MODEL] = 32
    """Responses, or questions to a local judge, per batch."""
    output: Annotated[Annotated[int, Ge(0)] | str | None, Unit("index"), BY_REWARD_MODEL] = None
    """Output of the reward model that is the reward: index or label of a logit, or the name of another output; null
    means the only output. Required for a model with several outputs."""
    dtype: Annotated[Dtype, BY_REWARD_MODEL] = "float32"
    """Dtype of the reward model's computation. bfloat16 rounds many different rewards to the same value; auto means
    bfloat16 if the hardware multiplies it fast, else float32."""
    trust_remote_code: Annotated[bool, BY_MODEL] = False
    """Whether the repository of the model may run its own code."""
    system_prompt: Annotated[str | None, BY_MODEL] = None
    """System message for a judge's question, or for a reward model's conversations without a system message; null adds
    none."""
    chat_template_kwargs: Annotated[dict[str, Any], BY_MODEL] = field(default_factory=dict)
    """Variables of the model's chat template, such as enable_thinking: false. A server receives them in the request
    field of this name, which vLLM and SGLang support."""
    template_date: Annotated[Annotated[str, DAY] | None, BY_MODEL] = None
    """Date that the model's chat template prints, as YYYY-MM-DD; null means the policy's (see prompts/chat.json)."""


@dataclass
class WeightedSource(RewardSourceConfig):
    """One of several sources."""

    weight: Annotated[float, Unit("per unit of the source's reward")] = 1.0
    """Weight of its rewards in a sum. With 0, only its column is added."""
    name: Annotated[str, Matches(r"[A-Za-z0-9_]+", "a name of letters, digits and _")] | None = None
    """Name in the column reward_<name>; null means the function's name, or source_<position> for a model."""


@dataclass
class NoiseConfig:
    """Noise on the training labels; evaluation has none."""

    kind: Annotated[str, Choice("feedback.label_noise.NOISE")] | None = None
    """bradley_terry draws each pair's label with probability σ(reward gap / temperature); null adds no noise."""
    temperature: Annotated[float, Gt(0), Unit("units of reward")] = 1.0
    """Scale of the noise: a reward gap of this size is labeled correctly in 73 % of draws."""


@dataclass
class FeedbackConfig(RewardSourceConfig):
    """Feedback, which scores or compares responses."""

    sources: Annotated[tuple[WeightedSource, ...], OnlyIf("kind", ("sum", "ensemble"))] = ()
    """Functions and reward models. Each has the keys kind, function, model and others of its kind, a weight if they are
    a sum, and a name: its rewards are the column reward_<name> of rewards.jsonl."""
    strip_thinking: Annotated[bool, OnlyIf("kind", other_than=("dataset",))] = True
    """Whether responses are scored without a closed <think>…</think> block at their start. A block that never closes is
    kept and counted."""
    truncation_penalty: Annotated[
        float | None, Gt(0), Unit("units of reward; probability, for a judge"), OnlyIf("kind", other_than=("dataset",))
    ] = None
    """Subtracted from the reward of a response that reached max_new_tokens before its end, or from a judge's
    probability that it is better than a finished one: 1 makes it lose. null subtracts nothing. TRL calls it
    missing_eos_penalty."""
    length_penalty: Annotated[
        float | None, Gt(0), Unit("units of reward per token"), OnlyIf("kind", other_than=("judge", "dataset"))
    ] = None
    """Subtracted from the reward for each token of the response, thoughts and end-of-sequence included; null subtracts
    nothing."""
    noise: Annotated[NoiseConfig, OnlyIf("kind", other_than=("judge",))] = field(default_factory=NoiseConfig)
    """Noise on the training labels; evaluation has none."""
    judge: Annotated[Judging, OnlyIf("kind", ("judge",))] = field(default_factory=Judging)
    """How a judge compares two responses."""
