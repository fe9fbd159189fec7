"""Tables and columns of the browse page."""

import heapq
from dataclasses import dataclass, field
from typing import NamedTuple

from prefloop.core.seeds import rng_for


class Column(NamedTuple):
    """A column of a table, as the page reads it."""

    key: str
    label: str
    kind: str
    """text (long), texts (a list), choice (a word or small number), number, or series (numbers by step)."""
    shown: bool = True
    """Whether the table shows it at first. The details of a row show all columns."""
    of: str = ""
    """The text column that it describes."""
    digits: int = 3
    """Digits after the decimal point."""
    help: str = ""
    ticks: tuple[str, ...] = ()
    """Names of the items of a series."""


PROMPT = (
    Column("cluster", "cluster", "choice"),
    Column("prompt_id", "prompt id", "choice", shown=False),
    Column("prompt", "prompt", "text"),
)


@dataclass
class Table:
    """One view of the page."""

    key: str
    label: str
    note: str
    columns: tuple[Column, ...]
    rows: list[dict] = field(default_factory=list)
    total: int = 0
    """Number of rows before sampling."""
    tally: str = ""
    """The choice column whose values are counted above the table."""
    mean: str = ""
    """The number column whose mean is shown above the table."""
    drawn: str = "drawn at random"
    """How `rows` were sampled, if they are a sample."""
    prioritized: bool = False
    """Whether a sample has some kinds of rows first. The page then shows no counts or means of it."""


class Draw:
    """A random sample of at most `most` rows of a stream, in their order. Rows marked `first` have priority."""

    def __init__(self, most: int, name: str):
        self.most, self.total, self.rng = most, 0, rng_for(0, "browse", name)
        self.kept: list[tuple] = []

    def add(self, row: dict, first: bool = False) -> None:
        item = (first, self.rng.random(), self.total, row)
        self.total += 1
        if len(self.kept) < self.most:
            heapq.heappush(self.kept, item)
        else:
            heapq.heappushpop(self.kept, item)

    @property
    def rows(self) -> list[dict]:
        return [item[-1] for item in sorted(self.kept, key=lambda item: item[2])]


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


Rewards = dict[tuple, list[float]]  # rewards of responses by (method, seed, cluster, round, step)


def reward_key(keys: dict, cluster: int) -> tuple:
    """Return the key of `Rewards` for a cluster in a step."""
    return keys["method"], keys["seed"], cluster, keys["round"], keys["step"]
