"""Labels of methods are plain text in figures, tables and captions, and CSV files have the names."""

import pandas as pd
import pytest
from matplotlib import cbook

from made_up import drawn, experiment_in
from prefloop.core.files import read_json, write_json
from prefloop.core.jsonl import write_rows
from prefloop.report.labels import for_figure
from prefloop.report.plotting import note_evaluator
from prefloop.report.quality_curves import draw_quality, quality_by_cost, seeds_by_cost

LABELS = (r"50 % & $x_1$ \alpha `a` *b* |c| <d>", "β {0.05} #1")
IN_LATEX = (
    r"50 \% \& \$x\_1\$ \textbackslash{}alpha `a` *b* \textbar{}c\textbar{} \textless{}d\textgreater{}",
    r"β \{0.05\} \#1",
)
IN_CAPTION = r"50 % & \$x\_1\$ \\alpha \`a\` \*b\* \|c\| \<d>"
EVALUATION = "evaluation/temperature-0.7"
TIME = {"device": "cpu", "seconds": 1.0, "tokens_in": 0, "tokens_out": 8}


@pytest.fixture
def experiment(tmp_path):
    """Two methods without a significant difference, so that captions name both."""
    found = experiment_in(tmp_path, methods=("one", "two"), seeds=(0, 1), labels=LABELS, baseline="two")
    write_rows(found.root / "prompts/eval.jsonl", ({"prompt_id": f"p{i}"} for i in range(5)))
    for path in found.root.glob("**/*.cost.json"):
        write_json(path, read_json(path) | TIME | {"truncated": [0, 4]})
    for folder in [found.root / "initial", *(folder for _, folder in found.folders())]:
        fields = {"outcome": "tie", "reward": 1.0, "feedback": 1.0, "n_tokens": 3, "n_tokens_opponent": 3}
        write_rows(folder / EVALUATION / "against-initial.jsonl", ({"prompt_id": f"p{i}"} | fields for i in range(5)))
        write_json(folder / EVALUATION / "sample.cost.json", TIME | {"truncated": [1, 5]})
        write_json(folder / EVALUATION / "against-initial.cost.json", TIME)
    for _, folder in found.folders():
        row = {"step": 1, "loss": 0.5, "rewards/margins": 0.1, "rewards/accuracies": 0.5, "grad_norm": 1.0}
        write_rows(folder / "training.jsonl", [row])
    for _, folder in found.step_folders():
        write_rows(folder / "prompts.jsonl", [{"prompt_id": "t", "cluster": 0}])
    return found


@pytest.mark.parametrize("table", ["results", "length", "differences", "seeds", "power"])
def test_latex_shows_labels_and_csv_names(experiment, table):
    data, _ = drawn(f"tabulate_{table}", experiment)
    latex = (experiment.root / f"tables/{table}.tex").read_text()
    assert all(label in latex for label in IN_LATEX)
    assert "one" in set(data["method"]) <= {"initial", "one", "two"}


@pytest.mark.parametrize("figure", ["learning_curves", "quality", "differences", "comparisons"])
def test_captions_show_labels_and_csv_names(experiment, figure):
    data, text = drawn(f"plot_{figure}", experiment)
    assert IN_CAPTION in text and " one" not in text
    assert "one" in set(data["method"]) <= {"one", "two"}


def test_training_curves_have_labels(experiment):
    data, _ = drawn("plot_training", experiment)
    assert set(data["method"]) == {"one", "two"}
    assert "β {0.05} #1" in (experiment.root / "figures/training.svg").read_text(), "a comment with the drawn text"


def test_dollar_signs_do_not_start_a_formula(experiment):
    """matplotlib shows an escaped dollar sign unchanged, also next to a backslash."""
    rows = pd.DataFrame(
        [
            {"method": m, "seed": s, "round": 1, "prompt_id": f"p{i}", "win": 0.5, "n_tokens": 3}
            for m in experiment.methods
            for s in experiment.seeds
            for i in range(3)
        ]
    )
    curves, points = quality_by_cost(experiment, rows, ["win"]), seeds_by_cost(experiment, rows, ["win"])
    figure = draw_quality(*for_figure(experiment, curves), for_figure(experiment, points)[1])
    note_evaluator(figure, experiment)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [text.replace(r"\$", "$") for text in texts] == list(LABELS)
    assert not any(cbook.is_math_text(text) for text in texts)
