"""How tables look: booktabs or Markdown, means with their intervals, bold only where the interval allows it."""

from collections.abc import Container
from pathlib import Path

import pandas as pd

from prefloop.captions import write_caption
from prefloop.rows import whole

MEASURES = {
    "feedback": "reward (config's feedback)",
    "reward": "reward (evaluator)",
    "win": "win rate",
    "n_tokens": "tokens",
}


def with_interval(data: pd.DataFrame, measure: str, bold: Container = ()) -> list[str]:
    """Cells "mean [low, high]" of a measure with columns measure, measure_low and measure_high; "--" for NaN.

    `bold` are the places in the index of `data` whose cells are bold.
    """
    columns = [data[name] for name in (measure, f"{measure}_low", f"{measure}_high")]
    cells = [
        "--" if pd.isna(mean) else f"{mean:.3g} [{low:.3g}, {high:.3g}]"
        for mean, low, high in zip(*columns, strict=True)
    ]
    return [f"\\textbf{{{cell}}}" if index in bold else cell for index, cell in zip(data.index, cells, strict=True)]


def save(path: Path, data: pd.DataFrame, shown: pd.DataFrame, caption: str) -> None:
    """Write `data` as CSV, and beside it what is shown of it as .tex and the caption as .rst; print what is shown."""
    path = Path(path)
    with whole(path) as partial:
        data.to_csv(partial, index=False, float_format="%.6g")
    to_latex(shown, path.with_suffix(".tex"))
    write_caption(path.with_suffix(".rst"), caption)
    print(shown.to_string(index=False))


def to_latex(table: pd.DataFrame, path: Path) -> None:
    """Write a booktabs tabular; underscores and percent signs are escaped, bold cells are not."""
    escaped = table.astype(str).map(lambda cell: cell.replace("_", r"\_").replace("%", r"\%"))
    with whole(path) as partial:
        partial.write_text(
            escaped.to_latex(index=False, escape=False, column_format="l" + "r" * (len(table.columns) - 1))
        )


def in_markdown(table: pd.DataFrame) -> str:
    """A table in Markdown; columns x, x_low and x_high become one cell "x [low, high]"."""
    shown = pd.DataFrame(index=table.index)
    for name in table.columns:
        if name.removesuffix("_low") in table.columns and name.endswith("_low"):
            continue
        if name.removesuffix("_high") in table.columns and name.endswith("_high"):
            continue
        shown[name] = table[name].map(cell)
        if f"{name}_low" in table.columns:
            ends = zip(table[f"{name}_low"].map(cell), table[f"{name}_high"].map(cell), strict=True)
            shown[name] += [f" [{low}, {high}]" for low, high in ends]
    lines = [shown.columns, ["---"] * len(shown.columns), *shown.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
