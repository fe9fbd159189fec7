"""Write how judges judged: outcomes, flips with the order of responses, and the part that length has."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.experiment import Experiment
from prefloop.progress import Summary
from prefloop.results import JUDGED, judges
from prefloop.tables import save

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
    "How judges judged, one row a stage: pairs compared, verdicts for the response named A and B, ties and invalid "
    "answers (neither becomes a preference), the share of pairs whose two orders named different winners, the share "
    "of single answers for the response shown first, and the share of decided pairs that the longer response won (½ "
    "would be no preference for length)."
)


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write one row for every stage in which a judge compared responses.

    Args:
        experiment: Which runs.
        table: Where the CSV goes; .tex and the caption .rst stand beside it.
    """
    data = judges(experiment)
    shown = data[[*JUDGED, "pairs", *LABELS]].rename(columns=LABELS)
    rates = ["flipped", "first won", "longer won"]
    shown[rates] = shown[rates].astype(float).map("{:.2f}".format)
    save(table, data, shown, CAPTION)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
