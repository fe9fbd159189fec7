"""Write what the reward models trained here are worth on held-out pairs, beside rules about length."""

from pathlib import Path

import pandas as pd

from _program import run
from prefloop.rows import read_json, whole
from prefloop.tables import to_latex, with_interval


def main(*, reports: tuple[Path, ...], table: Path) -> None:
    """Write one row a reward model; brackets are 95 % bootstrap intervals over held-out pairs.

    Args:
        reports: Their report.json files.
        table: Where the CSV goes; .tex stands beside it.
    """
    rows = []
    for path in reports:
        found = read_json(path)
        row = {"reward_model": path.name.removesuffix(".report.json")}
        row |= {name: found[name] for name in ("trained_pairs", "held_out_pairs", "longer_wins", "shorter_wins")}
        for name in ("accuracy", "lead_over_length"):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), found[name], strict=True))
        rows.append(row | {name: found[name] for name in ("log_loss", "calibration_error", "warning")})
    data = pd.DataFrame(rows)
    with whole(table) as partial:
        data.to_csv(partial, index=False, float_format="%.6g")
    shown = data[["reward_model", "trained_pairs", "held_out_pairs"]].copy()
    shown["accuracy"] = with_interval(data, "accuracy", None)
    shown["longer wins"] = data["longer_wins"].map("{:.3f}".format)
    shown["shorter wins"] = data["shorter_wins"].map("{:.3f}".format)
    shown["lead over length"] = with_interval(data, "lead_over_length", None)
    shown["calibration error"] = data["calibration_error"].map("{:.3f}".format)
    to_latex(shown, table.with_suffix(".tex"))
    print(shown.to_string(index=False))


run(main)
