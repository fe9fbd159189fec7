"""Clauses about the perplexity of plain text for captions."""

from pathlib import Path

import pandas as pd


def text_clause(text: str, table: pd.DataFrame) -> str:
    """`over 2,700 tokens of the packaged text`.

    Args:
        text: `packaged`, or the path of a file.
        table: From `perplexity_results.perplexities`.
    """
    name = "the packaged text" if text == "packaged" else Path(text).name
    return f"over {table['n_tokens'].iloc[0]:,} tokens of {name}"
