"""Settings of feedback: the sections feedback and evaluation.evaluator."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from prefloop.core.metadata import Choice, Matches, OnlyIf, Unit
from prefloop.core.own_functions import EXPECTED, PATTERN
from prefloop.models.options import Dtype

FUNCTION = Matches(PATTERN, EXPECTED)
ADDRESS = Matches(r"https?://[^\s?#@\\]+", "an address such as http://localhost:8000/v1")
# Said without the address, a part of which may be the key.
NO_SECRETS = (
    "an address with a user name, a password or a query in it, which would appear in command lines and logs; "
    "put a key into the environment variable that judge.api_key_env names"
)
BY_MODEL = OnlyIf("kind", ("reward_model", "judge"))
BY_REWARD_MODEL = OnlyIf("kind", ("reward_model",))
MEMBER_KINDS = ("function", "reward_model")  # of which a sum or an ensemble can have several
RESERVED_NAMES = ("true", "chosen", "rejected", "opponent")  # of other columns that begin with reward_
PLANNED = ("pairs", "random_pairs")  # settings of a judge that only feedback for training has
RequestField = Literal["max_tokens", "temperature"]


@dataclass
class RequestOptions:
    """Changes of the request to a judge's server, for servers and models that do not take the usual fields."""

    drop: tuple[RequestField, ...] = ()
    """Fields that are not sent; many reasoning models refuse a temperature."""
    rename: dict[RequestField, Annotated[str, MinLen(1)]] = field(default_factory=dict)
    """New names of fields, such as {max_tokens: max_completion_tokens}."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields that are added or set, such as {reasoning_effort: low}. They appear in logs: never write a key here."""


@dataclass
class Judging:
    """How a judge compares two responses."""

    template: Path = Path("workflow/prompts/judge/helpful.txt")
    """Text file with {conversation}, {response_a} and {response_b}: what the judge is asked."""
    pairs: Annotated[str, Choice("feedback.comparison_plans.COMPARISON_PLANS")] = "all"
    """Which pairs of a prompt's responses are compared for training: every two, random_pairs of them, or those of a
    tournament that finds the best and the worst."""
    random_pairs: Annotated[int, Ge(1), Unit("pairs per prompt"), OnlyIf("pairs", ("random_k",))] = 2
    """Pairs of a prompt's responses that random_k draws."""
    base_url: Annotated[str, ADDRESS] | None = None
    """OpenAI-compatible server, up to and including /v1; null asks the local model feedback.model."""
    model: str | None = None
    """The server's name for its model; null without base_url."""
    api_key_env: Annotated[str, Matches(r"[A-Za-z_]\w*", "the name of an environment variable")] = "OPENAI_API_KEY"
    """Environment variable that holds the key of the server; a server without keys works without it."""
    concurrency: Annotated[int, Ge(1), Unit("requests")] = 8
    """Concurrent requests, including those that wait for a retry."""
    timeout: Annotated[float, Gt(0), Unit("seconds")] = 60.0
    """Seconds within which the whole answer must arrive, after which a request is retried."""
    max_answer_bytes: Annotated[int, Ge(1000), Unit("bytes")] = 1_000_000
    """Largest answer of the server, unpacked; a request with a larger one fails."""
    max_retries: Annotated[int, Ge(0), Unit("attempts")] = 8
    """Retries of a failed request, with growing pauses."""
    max_tokens: Annotated[int, Ge(1), Unit("tokens")] = 16
    """Longest answer of the server; a reasoning model needs thousands, as its thoughts count."""
    request: RequestOptions = field(default_factory=RequestOptions)
    """Changes of the request to the server, for servers and models that do not take the usual fields."""
    cache: Path = Path("results/cache/judge")
    """Folder of the server's answers; an answer in it is not requested again."""
    tie_margin: Annotated[float, Ge(0), Lt(0.5), Unit("probability")] = 0.0
    """Local model only: a probability this close to 0.5 is a tie."""
    min_label_mass: Annotated[float, Ge(0), Le(1), Unit("probability")] = 0.01
    """Local model only: an answer is invalid if both labels together are less probable than this."""
    dtype: Dtype | None = None
    """Local model only: arithmetic; auto is bfloat16 where the hardware multiplies it fast, else float32; null is auto
    on a GPU and float32 on a CPU."""


@dataclass
class RewardSourceConfig:
    """What gives rewards."""

    kind: Annotated[str, Choice("feedback.annotate.FEEDBACK")] = "function"
    """A Python function, a sequence classifier, a judge of two responses, the data set itself, or several sources, as a
    weighted sum or an ensemble."""
    function: Annotated[Annotated[str, FUNCTION] | None, OnlyIf("kind", ("function",))] = None
    """module:function or path.py:function, called with (prompts, responses) and what else its parameters name; must be
    given for this kind, null for others."""
    concurrency: Annotated[int, Ge(1), Unit("calls"), OnlyIf("kind", ("function",))] = 8
    """Concurrent calls of an async function that rewards one response."""
    model: Annotated[str | None, BY_MODEL] = None
    """Reward model, or language model that judges, named as policy.model is, or trained:<name of a reward model>; null
    if a server judges."""
    batch_size: Annotated[int, Ge(1), Unit("responses"), BY_MODEL] = 32
    """Responses, or questions to a local judge, that a model reads per batch."""
    output: Annotated[Annotated[int, Ge(0)] | str | None, Unit("index"), BY_REWARD_MODEL] = None
    """Output of the reward model that is the reward: index or label of a logit, or the name of another output; must be
    given for a model with several (null)."""
    dtype: Annotated[Dtype, BY_REWARD_MODEL] = "float32"
    """Arithmetic of the reward model. bfloat16 makes many rewards equal that are not; auto is bfloat16 where the
    hardware multiplies it fast, else float32."""
    trust_remote_code: Annotated[bool, BY_MODEL] = False
    """Whether the repository of the model may run its own code."""
    system_prompt: Annotated[str | None, BY_MODEL] = None
    """System message of a judge's question, or of a conversation without one that a reward model reads; null adds
    none."""
    chat_template_kwargs: Annotated[dict[str, Any], BY_MODEL] = field(default_factory=dict)
    """Variables of the model's chat template, such as enable_thinking: false; a server gets them as the field of this
    name, which vLLM and SGLang know."""
    template_date: Annotated[str | None, BY_MODEL] = None
    """Day that the model's chat template prints, as YYYY-MM-DD; null is the policy's, which prompts/chat.json keeps."""


@dataclass
class WeightedSource(RewardSourceConfig):
    """One of several sources."""

    weight: Annotated[float, Unit("per unit of the source's reward")] = 1.0
    """Factor of its rewards in a sum; 0 adds its column and nothing else."""
    name: Annotated[str, Matches(r"[A-Za-z0-9_]+", "a name of letters, digits and _")] | None = None
    """Its rewards are the column reward_<name>; null is the function's name, or source_<position> of a model."""


@dataclass
class NoiseConfig:
    """Noise on the labels of training; evaluation has none."""

    kind: Annotated[str, Choice("feedback.label_noise.NOISE")] | None = None
    """bradley_terry draws each pair's label with probability σ(reward gap / temperature); null is no noise."""
    temperature: Annotated[float, Gt(0), Unit("units of reward")] = 1.0
    """Scale of the noise; a gap of this size is labeled correctly in 73 % of draws."""


@dataclass
class FeedbackConfig(RewardSourceConfig):
    """What scores or compares responses."""

    sources: Annotated[tuple[WeightedSource, ...], OnlyIf("kind", ("sum", "ensemble"))] = ()
    """Functions and reward models, each with the keys kind, function, model and those of their kinds, with weight in a
    sum, and with name: its rewards are the column reward_<name> of rewards.jsonl."""
    strip_thinking: Annotated[bool, OnlyIf("kind", other_than=("dataset",))] = True
    """Whether responses are scored without a closed <think>…</think> block at their start. A block that never closes
    stays and is counted."""
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
    """Noise on the labels of training; evaluation has none."""
    judge: Annotated[Judging, OnlyIf("kind", ("judge",))] = field(default_factory=Judging)
    """How a judge compares two responses."""
