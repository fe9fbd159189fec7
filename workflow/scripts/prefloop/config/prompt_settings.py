"""Settings of prompts and their clusters: the sections prompts and clusters."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from prefloop.core.metadata import DAY, NO_FLAG, Choice, OnlyIf, Unique, Unit


@dataclass
class Columns:
    """Names of the columns of a data source; a row may lack any of them but not all."""

    prompt: str = "prompt"
    """Column of the prompt: text, or a list of {role, content} messages."""
    chosen: str = "chosen"
    """Column of the preferred response, or of a whole transcript or conversation that ends with it."""
    rejected: str = "rejected"
    """Column of the other response, in the same form."""


@dataclass
class SourceConfig:
    """Where prompts or preference pairs come from."""

    source: str | None = None
    """packaged, a .jsonl, .json, .csv, .tsv or .parquet file (or .gz of it), a folder of save_to_disk,
    hub:owner/name or hub:owner/name@revision, or your function as my_data.py:rows; null means no source."""
    subset: str | None = None
    """Configuration of a hub data set; null means its default configuration."""
    split: str = "train"
    """Split of a hub data set, or of a folder of save_to_disk that has several."""
    format: Annotated[str, Choice("data.formats.FORMATS")] = "columns"
    """Name of a published data set, or columns for any other data."""
    columns: Annotated[Columns, OnlyIf("format", ("columns",))] = field(default_factory=Columns)
    """Names of the columns of the source."""


@dataclass
class PromptSetConfig(SourceConfig):
    """Where a set of prompts comes from, and which of them are kept."""

    max_response_tokens: Annotated[int | None, Ge(1), Unit("tokens")] = None
    """Prompts with a longer given response are dropped and counted; null keeps all."""
    take: Annotated[int | None, Ge(2), Unit("prompts")] = None
    """Number of prompts drawn at random from the source, including held-out eval prompts; null means all."""
    max_prompt_tokens: Annotated[int, Ge(1), Unit("tokens")] = 512
    """Longer prompts are dropped and counted. The length includes the tokens of the chat template."""
    max_prompt_bytes: Annotated[int, Ge(1), Unit("bytes of UTF-8")] = 1_000_000
    """Rows with more text in the prompt and its given responses are dropped and counted. This happens before
    tokenization, which needs 300 times as much memory as the text."""
    merge_roles: bool = False
    """Adapt prompts whose roles the chat template refuses: system text is moved to the first user message, and
    consecutive messages of the same role are joined. If false, such prompts are dropped and counted."""
    seed: Annotated[int, Ge(0), Unit("seed")] = 0
    """Seed for drawing prompts and for the split into training and eval prompts."""
    keep: Annotated[tuple[Annotated[str, NO_FLAG], ...], Unique()] = ()
    """Additional columns of the source that are kept in a prompt's meta, such as a reference answer. Reward functions
    can have parameters with these names."""


@dataclass
class PromptsConfig(PromptSetConfig):
    """Where prompts come from."""

    eval_fraction: Annotated[float, Gt(0), Lt(1), Unit("fraction of prompts")] = 0.1
    """Fraction of the prompts held out for evaluation, unless evaluation.prompts has a source."""
    drop_near_duplicates: bool = False
    """Drop training prompts that nearly repeat an eval prompt, based on 8-grams of words. They are always counted."""


@dataclass
class ChatConfig:
    """How conversations become text for the policy."""

    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the model's chat template, such as enable_thinking: false."""
    system_prompt: str | None = None
    """System message for prompts without one; null adds none."""
    template_date: Annotated[str, DAY] | None = None
    """Date that the chat template prints, as YYYY-MM-DD; null means the date of the first run, which is recorded in
    prompts/chat.json."""


@dataclass
class Message:
    """One turn of a prompt."""

    role: Literal["system", "user", "assistant"]
    """Role of the turn's author."""
    content: str
    """Text with {column} placeholders."""


Template = Annotated[tuple[Message, ...] | None, MinLen(1)]


@dataclass
class MixedSource(SourceConfig):
    """One of several sources."""

    messages_template: Template = None
    """The prompt as a list of {role, content}, with every {column} filled from the row; null uses columns.prompt."""
    share: Annotated[float | None, Gt(0), Le(1), Unit("fraction of take, or of the source's prompts")] = None
    """Fraction of `take` that is drawn from this source; without `take`, the fraction of its prompts that is drawn."""


Sources = Annotated[tuple[MixedSource, ...] | None, MinLen(1)]


@dataclass
class PromptsSection(PromptsConfig):
    """Where prompts come from."""

    messages_template: Template = None
    """The prompt as a list of {role, content}, with every {column} filled from the row; null uses columns.prompt."""
    sources: Sources = None
    """Several sources instead of `source`, each with the keys source, subset, split, format, columns, messages_template
    and share. share is the fraction of `take` drawn from it or, without `take`, the fraction of its prompts. null
    uses `source`."""


@dataclass
class EvalPromptsSection(PromptSetConfig):
    """A separate evaluation set, with keys as in prompts; without a source, part of `prompts` is held out."""

    messages_template: Template = None
    """The prompt as a list of {role, content}, with every {column} filled from the row; null uses columns.prompt."""
    sources: Sources = None
    """Several sources instead of `source`, as in prompts.sources; null uses `source`."""


@dataclass
class KMeansConfig:
    """How prompts are clustered."""

    k: Annotated[Annotated[int, Ge(1)] | Literal["elbow"], Unit("clusters")] = "elbow"
    """Number of clusters, or elbow: the number at the bend of the inertia curve."""
    k_max: Annotated[int, Ge(2), Unit("clusters")] = 30
    """Largest k that elbow tries."""
    seed: Annotated[int, Ge(0), Unit("seed")] = 0
    """Seed of k-means."""
    batch_size: Annotated[int, Ge(1), Unit("prompts")] = 32
    """Prompts embedded per batch."""


@dataclass
class ClustersSection(KMeansConfig):
    """The arms of the bandit. A method with its own clusters section gets its own clusters.pkl."""

    embedding: str = "policy"
    """policy (its mean-pooled hidden states), or an encoder in the form of policy.model."""
