"""Write what the reward models trained here are worth on held-out pairs, beside rules about length."""

from pathlib import Path

import pandas as pd

from _program import run
from prefloop.progress import Summary
from prefloop.rows import read_json
from prefloop.tables import save, with_interval

CAPTION = (
    "Reward models trained in this experiment, on held-out pairs of conversations they have not seen: accuracy, "
    'beside the rules "the longer wins" and "the shorter wins". A lead over the better of these whose interval holds '
    "0 means that what the model rewards may be length. Brackets are 95 % bootstrap intervals over held-out pairs."
)


def main(*, reports: tuple[Path, ...], table: Path) -> Summary:
    """Write one row a reward model; brackets are 95 % bootstrap intervals over held-out pairs.

    Args:
        reports: Their report.json files.
        table: Where the CSV goes; .tex and the caption .rst stand beside it.
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
    shown = data[["reward_model", "trained_pairs", "held_out_pairs"]].copy()
    shown["accuracy"] = with_interval(data, "accuracy")
    shown["longer wins"] = data["longer_wins"].map("{:.3f}".format)
    shown["shorter wins"] = data["shorter_wins"].map("{:.3f}".format)
    shown["lead over length"] = with_interval(data, "lead_over_length")
    shown["calibration error"] = data["calibration_error"].map("{:.3f}".format)
    save(table, data, shown, CAPTION)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
