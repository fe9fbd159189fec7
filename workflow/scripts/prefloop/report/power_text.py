"""The statistical power of one contrast, as text for a terminal."""

import pandas as pd

from prefloop.evaluation.power_designs import PairedSample
from prefloop.report.captions import count_of

FORMATS = {
    "detectable": "{:.3g}".format,
    "power": "{:.2f}".format,
    "seeds_needed": "{:.0f}".format,
    "seconds": "{:,.0f}".format,
}


def power_text(contrast: str, sample: PairedSample, wanted: float, rows: pd.DataFrame) -> str:
    """Describe a contrast in a pilot, such as "dota minus uniform": its size, the columns, and the table of designs.

    Args:
        contrast: What is compared.
        sample: The pilot's differences.
        wanted: The difference to detect.
        rows: From `power_rows`, with a column `seconds` if times are known.
    """
    size = ", ".join(count_of(getattr(sample.as_run, f"{noun}s"), noun) for noun in ("seed", "prompt", "sample"))
    size += " per prompt"
    if (families := sample.as_run.families) is None:
        rows = rows.drop(columns="families")
    else:
        size += f", {families} families"
    parts = sample.parts._asdict().items() if sample.parts else ()
    variances = ", ".join(
        f"{name.replace('_', ' ')} {'unknown' if value is None else f'{value:.3g}'}"
        for name, value in parts
        if families or not name.startswith("family")
    )
    lines = [
        f"{contrast}: {sample.difference:+.4g}, sd over seeds {sample.seed_sd:.3g} ({size})",
        f"variances: {variances}",
        f"detectable: with 80 % power; power and seeds_needed: for a difference of {wanted:.4g}",
    ]
    if "seconds" in rows:
        lines.append("seconds: for all seeds of both methods, with an evaluation as large as the pilot's")
    if sample.as_run.samples == 1:
        lines.append(
            "rows with more samples: the best case, because one sample per prompt cannot separate sampling noise"
        )
    return "\n".join([*lines, rows.to_string(index=False, formatters=FORMATS, na_rep="none")])
