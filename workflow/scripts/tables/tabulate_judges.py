"""Write the outcomes, position flips and length preference of judges."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.results import JUDGED, judges
from prefloop.report.labels import relabeled
from prefloop.report.tables import save_table

LABELS = {
    "A": "A",
    "B": "B",
    "tie": "tie",
    "invalid": "invalid",
    "position_flip_rate": "flipped",
    "first_position_share": "first won",
    "longer_won": "longer won",
}
CAPTION = (
    "Judgments by stage: pairs compared, outcomes (ties and invalid answers give no preference), the share of pairs "
    "whose two orders named different winners, and the share of single answers for the response shown first. Without "
    "a preference for length, the longer response wins half of the decided pairs."
)


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write one row per stage in which a judge compared responses.

    Args:
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    data = judges(experiment)
    several = [name for name in ("opponent", "temperature") if name in data]
    shown = data[[*JUDGED, *several, "pairs", *LABELS]].rename(columns=LABELS)
    shown[several] = shown[several].astype(object).where(shown[several].notna(), "")  # judges of training have none
    rates = ["flipped", "first won", "longer won"]
    shown[rates] = shown[rates].astype(float).map("{:.2f}".format).replace("nan", "--")
    save_table(table, data, relabeled(experiment, shown), CAPTION)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
