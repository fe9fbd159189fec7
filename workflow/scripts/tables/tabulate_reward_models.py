"""Write the accuracy of the experiment's trained reward models, compared with rules about length."""

from pathlib import Path

import pandas as pd

from _program import run
from prefloop.core.files import read_json
from prefloop.core.progress import Summary
from prefloop.report.tables import save_table, with_interval

CAPTION = (
    "Accuracy of the trained reward models on eval pairs, and of the rules that the longer or the shorter response "
    "wins. Brackets are 95 % bootstrap CIs over eval pairs. If the CI of the lead over the better rule contains 0, "
    "the model may reward length."
)


def main(*, reports: tuple[Path, ...], table: Path) -> Summary:
    """Write one row per reward model; brackets are 95 % bootstrap CIs over eval pairs.

    Args:
        reports: Their report.json files.
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    rows = []
    for path in reports:
        report = read_json(path)
        row = {"reward_model": path.name.removesuffix(".report.json")}
        row |= {name: report[name] for name in ("trained_pairs", "eval_pairs", "longer_wins", "shorter_wins")}
        for name in ("accuracy", "lead_over_length"):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), report[name], strict=True))
        rows.append(row | {name: report[name] for name in ("log_loss", "calibration_error", "warning")})
    data = pd.DataFrame(rows)
    shown = data[["reward_model", "trained_pairs", "eval_pairs"]].copy()
    shown["accuracy"] = with_interval(data, "accuracy")
    shown["longer wins"] = data["longer_wins"].map("{:.3f}".format)
    shown["shorter wins"] = data["shorter_wins"].map("{:.3f}".format)
    shown["lead over length"] = with_interval(data, "lead_over_length")
    shown["calibration error"] = data["calibration_error"].map("{:.3f}".format)
    save_table(table, data, shown, CAPTION)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
