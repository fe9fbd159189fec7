"""Tables in LaTeX and Markdown, with means and their CIs; only significantly best values are bold."""

import math
import re
from collections.abc import Container
from pathlib import Path

import pandas as pd

from prefloop.config.evaluator_measures import split_measure
from prefloop.config.experiment import Experiment
from prefloop.core.csv_files import write_frame
from prefloop.core.errors import printable
from prefloop.core.files import atomic_write
from prefloop.evaluation.results import named_measures
from prefloop.report.captions import write_caption

BOLD = re.compile(r"\\textbf\{([ -~]*)\}")  # a cell of `with_interval`
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "{}&$#_%"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)
MARKDOWN = re.compile(r"[\\*|`<&$]|(?<=])[(\[]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])|(?<=http):|(?<=https):|(?<=www)\.")

TABLE_MEASURES = {
    "feedback": "reward (config's feedback)",
    "reward": "reward (evaluator)",
    "win": "win rate",
    "n_tokens": "tokens",
}


def given_measures(rows: pd.DataFrame, experiment: Experiment) -> list[str]:
    """The keys of TABLE_MEASURES and the measures of named evaluators that have a value in the judgments.

    A judge does not give a reward.
    """
    given = [measure for measure in TABLE_MEASURES if rows[measure].notna().any()]
    return [*given, *named_measures(rows, experiment)]


def table_label(measure: str) -> str:
    """The name of a measure in tables: `reward (evaluator)`, or `win rate (polite)` for a named evaluator."""
    evaluator, kind = split_measure(measure)
    return f"{TABLE_MEASURES[kind].partition(' (')[0]} ({evaluator})" if evaluator else TABLE_MEASURES[kind]


def with_interval(data: pd.DataFrame, measure: str, bold: Container = ()) -> list[str]:
    """Cells "mean [low, high]" from columns measure, measure_low and measure_high; "--" if the mean is not finite.

    Args:
        data: One row per cell.
        measure: The column of means.
        bold: Values of the index of `data` whose cells are bold.
    """
    columns = [data[name] for name in (measure, f"{measure}_low", f"{measure}_high")]
    cells = [
        f"{mean:.3g} {in_brackets(low, high)}" if math.isfinite(mean) else "--"
        for mean, low, high in zip(*columns, strict=True)
    ]
    return [f"\\textbf{{{cell}}}" if index in bold else cell for index, cell in zip(data.index, cells, strict=True)]


def in_brackets(low: float, high: float) -> str:
    """The ends of an interval: "[0.1, 0.3]"; "--" for an end that is not finite, as with a single value."""
    return "[{}, {}]".format(*(f"{end:.3g}" if math.isfinite(end) else "--" for end in (low, high)))


def save_table(path: Path, data: pd.DataFrame, shown: pd.DataFrame, caption: str) -> None:
    """Write `data` as CSV, `shown` next to it as .tex and the caption as .rst; print `shown`."""
    path = Path(path)
    write_frame(path, data)
    to_latex(shown, path.with_suffix(".tex"))
    write_caption(path.with_suffix(".rst"), caption)
    print(shown.to_string(index=False))


def to_latex(table: pd.DataFrame, path: Path) -> None:
    """Write a booktabs tabular; all text is escaped, except the command of bold cells from `with_interval`."""
    escaped = table.astype(str).map(in_latex).rename(columns=in_latex)
    with atomic_write(path) as partial:
        partial.write_text(
            escaped.to_latex(index=False, escape=False, column_format="l" + "r" * (len(table.columns) - 1)),
            encoding="utf-8",
        )


def in_latex(cell: str) -> str:
    """The text of a cell in one line, without LaTeX commands."""
    if bold := BOLD.fullmatch(cell):
        return rf"\textbf{{{bold[1].translate(LATEX)}}}"
    return printable(" ".join(cell.split()), kept="").translate(LATEX)


def in_markdown(table: pd.DataFrame) -> str:
    """A table in Markdown; columns x, x_low and x_high become one cell "x [low, high]"."""
    shown = pd.DataFrame(index=table.index)
    for name in table.columns:
        if name.removesuffix("_low") in table.columns and name.endswith("_low"):
            continue
        if name.removesuffix("_high") in table.columns and name.endswith("_high"):
            continue
        shown[name] = table[name].map(cell_text)
        if f"{name}_low" in table.columns:
            ends = zip(table[f"{name}_low"].map(cell_text), table[f"{name}_high"].map(cell_text), strict=True)
            shown[name] += [f" [{low}, {high}]" for low, high in ends]
    lines = [shown.columns.map(in_plain_markdown), ["---"] * len(shown.columns), *shown.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell_text(value: object) -> str:
    """A float with four digits, "--" if it is not finite; anything else as text."""
    if isinstance(value, float):
        return f"{value:,.4g}" if math.isfinite(value) else "--"
    return in_plain_markdown(str(value))


def in_plain_markdown(text: str) -> str:
    """Escape foreign text for a Markdown page: one line, without Markdown, HTML and links."""
    return MARKDOWN.sub(r"\\\g<0>", printable(" ".join(text.split()), kept=""))
