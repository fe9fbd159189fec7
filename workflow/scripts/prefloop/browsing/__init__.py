"""What the tables of the browse page are made of."""

import heapq
from dataclasses import dataclass, field
from typing import NamedTuple

from prefloop.seeds import rng_for


class Column(NamedTuple):
    """A column of a table, as the page reads it."""

    key: str
    label: str
    kind: str
    """text and texts (long; one, or a list), choice (a word or small number), number, series (numbers by step)."""
    shown: bool = True
    """Whether the table shows it before anybody asks; a row's details show all."""
    of: str = ""
    """The text column that it says something about."""
    digits: int = 3
    """Of a number, after the point."""
    help: str = ""
    ticks: tuple[str, ...] = ()
    """Names of a series' places."""


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
    """Rows there are, of which `rows` may be a draw."""
    tally: str = ""
    """The choice column whose values are counted above the table."""
    mean: str = ""
    """The number column whose mean stands above the table."""
    drawn: str = "drawn at random"
    """How `rows` were drawn, where they are a draw."""


class Draw:
    """At most so many of a stream's rows, drawn at random, those marked `first` before any other; in their order."""

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


Rewards = dict[tuple, list[float]]  # of the responses by (method, seed, cluster, round, step)


def place_of(where: dict, cluster: int) -> tuple:
    """What rewards are gathered by."""
    return where["method"], where["seed"], cluster, where["round"], where["step"]
