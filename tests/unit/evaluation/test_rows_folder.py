"""A rows folder can replace the experiment's folder and gives the same results."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from prefloop.config.recorded_settings import read_settings
from prefloop.core.errors import InputError
from prefloop.core.files import read_json
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.evaluation.figure_rows import figure_files
from prefloop.evaluation.paired_experiments import check_comparable, experiment_differences
from prefloop.evaluation.result_files import cell_of, has_result, result_rows, stored_file, value_of
from prefloop.evaluation.results import (
    annotated,
    annotated_by_seed,
    arms,
    comparisons,
    costs,
    judgments,
    kl_rows,
    training,
    truncated_samples,
)
from prefloop.evaluation.row_counts import COUNTS, row_counts
from prefloop.evaluation.rows_folder import write_table
from prefloop.evaluation.seed_costs import run_costs
from result_folders import finished_experiment, stored

SEVERAL = {"seeds": [3, 0], "evaluation": {"opponents": ["initial", "uniform"], "samples": 2}}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """An experiment, and the same experiment read from its rows."""
    recorded = finished_experiment(tmp_path_factory.mktemp("stored") / "one", **SEVERAL)
    return recorded, read_settings(stored(recorded, figures=["training", "arms", "prompts", "cluster_wins"]))


@pytest.mark.parametrize(
    "read",
    [
        judgments,
        kl_rows,
        run_costs,
        annotated_by_seed,
        arms,
        annotated,
        lambda experiment: training(experiment)[["method", "seed", "round", "step", "loss"]],
        lambda experiment: comparisons(experiment, experiment.comparisons),
        lambda experiment: costs(experiment, [experiment.root / "cluster_prompts.cost.json"], divergence=True),
    ],
)
def test_tables_from_rows_equal_those_of_the_run(both, read):
    of_run, of_rows = (read(recorded.experiment) for recorded in both)
    texts = [name for name in ("answers", "judged") if name in of_run]
    pd.testing.assert_frame_equal(of_run.drop(columns=texts), of_rows, check_exact=True)


def test_only_files_of_listed_figures_are_stored(both, tmp_path):
    """Of training.jsonl only the fields that figures draw are stored, and clusters are copied."""
    recorded, of_rows = both
    folder = of_rows.experiment.root
    rows = result_rows(folder / "dota/seed-0/round-2/training.jsonl")
    assert rows[2] == {"step": 2, "loss": 0.5 / 3}
    for name in ("clusters.csv", "clusters_eval.csv"):
        assert (folder / name).read_bytes() == (recorded.experiment.root / name).read_bytes()
    missing = figure_files(of_rows.experiment, of_rows.config, "pfp")
    assert len(missing) == 16 and not any(map(has_result, missing))
    assert all(map(has_result, figure_files(of_rows.experiment, of_rows.config, "arms")))
    other = stored(finished_experiment(tmp_path / "other"))
    assert not has_result(other / "dota/seed-0/round-1/training.jsonl") and not has_result(other / "clusters.csv")


def test_counts_from_rows_equal_those_of_the_run(both):
    """A round has two steps with two prompts and three rewards each, five pairs and seven optimizer steps."""
    for recorded in both:
        counts = {column: set(row_counts(recorded.experiment, column)[column]) for column in COUNTS}
        assert counts == {"prompts": {4}, "annotated_responses": {6}, "pairs": {5}, "optimizer_steps": {7}}
    assert truncated_samples(both[0].experiment) == truncated_samples(both[1].experiment)


def test_settings_and_feedback_equal_those_of_the_run(both):
    of_run, of_rows = both
    assert of_rows.config == of_run.config
    assert replace(of_rows.experiment, root=of_run.experiment.root) == of_run.experiment


def test_spent_has_one_row_per_round(both):
    table = pd.read_csv(both[1].experiment.root / "spent.csv")
    assert table["seed"].tolist() == [3, 3, 3, 3, 0, 0, 0, 0]
    run = both[0].experiment.root / "uniform/seed-0/round-2"
    files = [*run.glob("step-*/*.cost.json"), run / "train.cost.json"]
    row = table[(table["method"] == "uniform") & (table["seed"] == 0) & (table["round"] == 2)].iloc[0]
    for column, field in {"flops": "flops", "generated_tokens": "tokens_out", "seconds": "seconds"}.items():
        assert row[column] == pytest.approx(sum(read_json(path)[field] for path in files), rel=1e-5)
    assert row["labels"] == 16


def test_rows_have_no_texts(both):
    folder = both[1].experiment.root
    rows = result_rows(folder / "dota/seed-0/round-1/evaluation/temperature-0.7/against-initial.jsonl")
    assert rows[0].keys() == {"prompt_id", "sample", "outcome", "reward", "feedback", "n_tokens", "n_tokens_opponent"}
    text = "".join(path.read_text() for path in folder.rglob("*") if path.suffix in (".csv", ".json"))
    assert "about x" not in text and "an answer" not in text


def test_numeric_and_outcome_columns_are_kept(tmp_path):
    recorded = finished_experiment(tmp_path / "one")
    path = recorded.experiment.root / recorded.experiment.comparison("dota", 0, 1).judgments
    new = [
        row | {"fluency": 0.1 * k, "outcome_fluency": "loss", "note": "text"} for k, row in enumerate(read_rows(path))
    ]
    write_rows(path, new)
    folder = stored(recorded)
    rows = result_rows(folder / path.relative_to(recorded.experiment.root))
    assert [(row["fluency"], row["outcome_fluency"]) for row in rows[:2]] == [(0.0, "loss"), (0.1, "loss")]
    assert "note" not in rows[0]


def test_writing_again_gives_the_same_bytes(tmp_path):
    recorded = finished_experiment(tmp_path / "one")
    contents = []
    for _ in range(2):
        folder = stored(recorded)
        contents.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]
    assert {str(name) for name in contents[0]} == {
        "experiment_rows.json",
        "settings.json",
        "prompts.csv",
        "costs.csv",
        "spent.csv",
        "initial/evaluation/temperature-0.7/against-initial.csv.gz",
        "seed-0/evaluation/temperature-0.7/against-initial.csv.gz",
        "seed-0/evaluation/kl.csv.gz",
    }


def test_rows_of_a_long_experiment_are_small(tmp_path):
    """A seed of 6 methods, 2 rounds, 200 prompts and 2 samples takes 150 kB, so 8 seeds take 1.2 MB."""
    rng = np.random.default_rng(0)
    opponents = rng.normal(0, 2, (400, 2)).tolist()
    files = []
    for method in "abcdef":
        for round_index in (1, 2):
            path = f"{method}/seed-0/round-{round_index}/against-initial.jsonl"
            rows = [
                {"prompt_id": f"p{k // 2}", "sample": k % 2, "outcome": "win" if gain > 0 else "loss"}
                | {"reward": reward + gain, "reward_opponent": reward, "n_tokens": int(rng.integers(20, 200))}
                | {"feedback": feedback + gain, "feedback_opponent": feedback, "n_tokens_opponent": 50 + k % 99}
                for k, ((reward, feedback), gain) in enumerate(zip(opponents, rng.normal(0, 1, 400), strict=True))
            ]
            write_rows(tmp_path / path, rows)
            files.append((stored_file(path), tmp_path / path))
    assert write_table(tmp_path / "seed-0.csv.gz", files, {f"p{k}": k for k in range(200)}) == 4800
    assert (tmp_path / "seed-0.csv.gz").stat().st_size < 150_000


@pytest.mark.parametrize(
    "value", ["win", "", "3", "null", "=1+1", None, True, -2, 0.1, 1e-300, -0.0, [1, None], {"a": "b"}]
)
def test_cells_keep_values_and_types(value):
    cell = cell_of(value)
    again = value_of(cell)
    assert again == value and type(again) is type(value) and json.dumps(again) == json.dumps(value)


def test_table_of_a_file():
    file = stored_file("dota/seed-3/round-2/checkpoint-8/evaluation/temperature-0.7/against-chosen.jsonl")
    assert file.table == "seed-3/checkpoint-8/evaluation/temperature-0.7/against-chosen.csv.gz"
    assert stored_file("initial/evaluation/x.jsonl").table == "initial/evaluation/x.csv.gz"


def test_rows_can_be_compared_with_a_run(tmp_path):
    """Rows may be on either side or both, with the same result."""
    a, b = finished_experiment(tmp_path / "a", gain=2.0), finished_experiment(tmp_path / "b")
    sides = {name: (x, read_settings(stored(x))) for name, x in (("a", a), ("b", b))}
    tables = []
    for left in sides["a"]:
        for right in sides["b"]:
            check_comparable(left, right)
            tables.append(experiment_differences(left, right, [("dota", "dota")]))
    assert tables[0].set_index("measure").loc["reward", "difference"] == pytest.approx(2.0)
    for table in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], table, check_exact=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sample": "another"}, "the initial policies, which are the opponents, have different samples"),
        ({"evaluation": {"temperature": 1.0}}, "evaluation.temperature differs"),
        ({"seeds": [4]}, "no seed in common"),
    ],
)
def test_rows_that_cannot_be_paired_are_refused(tmp_path, changes, reason):
    a, b = finished_experiment(tmp_path / "a"), finished_experiment(tmp_path / "b", **changes)
    with pytest.raises(InputError, match=f"a and .*b/rows cannot be compared: {reason}"):
        check_comparable(a, read_settings(stored(b)))


def test_other_prompts_are_refused(tmp_path):
    a, b = finished_experiment(tmp_path / "a"), finished_experiment(tmp_path / "b")
    path = b.experiment.root / "prompts/eval.jsonl"
    path.write_text(path.read_text().replace("about y", "about you"))
    with pytest.raises(InputError, match="eval prompt y has different texts"):
        check_comparable(read_settings(stored(a)), read_settings(stored(b)))


def test_damaged_rows_raise(tmp_path):
    recorded = finished_experiment(tmp_path / "one")
    folder = stored(recorded, divergence=False)
    judged = recorded.experiment.comparison("dota", 0, 2).judgments
    assert has_result(folder / judged) and not has_result(folder / judged.replace("seed-0", "seed-9"))
    with pytest.raises(InputError, match=r"seed-0/evaluation/kl.csv.gz: no such file in this rows folder"):
        kl_rows(replace(recorded.experiment, root=folder))
    with pytest.raises(InputError, match="no rows of dota, round 7; write the rows again"):
        result_rows(folder / judged.replace("round-2", "round-7"))
    with pytest.raises(InputError, match="missing kl; found prompt_id, sample"):
        result_rows(folder / judged, ["kl"])
    prompts = folder / "prompts.csv"
    prompts.write_text("".join(prompts.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        InputError, match=r"against-initial.csv.gz, line 26: prompt 3, expected a number from prompts.csv"
    ):
        result_rows(folder / judged)
    index = folder / "experiment_rows.json"
    index.write_text(index.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match="format 2, expected 1; write the rows again"):
        result_rows(folder / judged)
