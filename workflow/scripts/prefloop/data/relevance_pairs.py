"""Preference pairs about relevance, for a reward model that is no lexicon: does a response answer this prompt?

Sentiment lexicons ignore the prompt, so a policy that optimizes one may stop answering. A reward model trained on these
pairs rates a response to this prompt higher than a response to another prompt. Use it with
`reward_models: {relevance: {source: "prefloop.data.relevance_pairs:packaged"}}`.
"""

import json
import re
from collections.abc import Iterator

from prefloop.core.code_dependencies import SCRIPTS

PACKAGED = SCRIPTS.parent / "prompts/instructions.jsonl"
SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")


def packaged() -> Iterator[dict[str, str]]:
    """Yield two pairs per packaged prompt, one for each of its recorded responses.

    The rejected response belongs to the prompt half the list away and has the same role there, chosen or rejected,
    which VADER decided. So sentiment says nothing about which response is chosen here. Responses are cut to their first
    sentence.
    """
    with PACKAGED.open(encoding="utf-8") as file:
        rows = [row for line in file if "chosen" in (row := json.loads(line))]
    for index, row in enumerate(rows):
        unrelated = rows[(index + len(rows) // 2) % len(rows)]
        for place in ("chosen", "rejected"):
            yield {
                "prompt": row["prompt"],
                "chosen": opening_sentence(row[place]),
                "rejected": opening_sentence(unrelated[place]),
            }


def opening_sentence(text: str) -> str:
    """Return a text up to the end of its first sentence or line."""
    return SENTENCE_END.split(text.strip(), maxsplit=1)[0]
