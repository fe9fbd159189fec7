"""Seeds that ran later are added to a rows folder if they belong to the same experiment."""

import shutil

import pandas as pd
import pytest

from prefloop.config.recorded_settings import read_settings
from prefloop.core.errors import InputError
from prefloop.core.files import read_json, write_json
from prefloop.evaluation.merged_rows import merged_seeds
from prefloop.evaluation.results import costs, judgments
from prefloop.evaluation.row_counts import row_counts
from result_folders import finished_experiment, stored


@pytest.fixture
def headline(tmp_path):
    """A rows folder with seeds 0 and 1."""
    into = tmp_path / "gallery/rows"
    assert merged_seeds(stored(finished_experiment(tmp_path / "first", seeds=[0, 1])), into) == ([0, 1], [])
    return into


def files_in(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_merged_seeds_equal_one_experiment(tmp_path, headline):
    """Two runs with two seeds each give the judgments and counts of one run with all four."""
    later = stored(finished_experiment(tmp_path / "later", seeds=[2, 5], figures=["quality"]))
    assert merged_seeds(later, headline) == ([2, 5], [])
    merged = read_settings(headline).experiment
    whole = finished_experiment(tmp_path / "whole", seeds=[0, 1, 2, 5]).experiment
    assert merged.seeds == (0, 1, 2, 5)
    order = ["method", "seed", "round", "prompt_id", "sample"]
    rows = [judgments(experiment).sort_values(order, ignore_index=True) for experiment in (merged, whole)]
    pd.testing.assert_frame_equal(rows[0], rows[1].drop(columns=["answers", "judged"]), check_exact=True)
    pd.testing.assert_frame_equal(row_counts(merged, "pairs"), row_counts(whole, "pairs"))
    assert len(costs(merged)) == len(costs(whole))


def test_same_seed_replaces_its_rows(tmp_path, headline):
    """The other seed's files are unchanged."""
    before = files_in(headline)
    again = stored(finished_experiment(tmp_path / "again", seeds=[1], gain=5.0))
    assert merged_seeds(again, headline) == ([], [1])
    after = files_in(headline)
    assert read_settings(headline).experiment.seeds == (0, 1) and after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert "seed-1/evaluation/temperature-0.7/against-initial.csv.gz" in changed
    assert not {name for name in changed if name.startswith("seed-0/")}
    table = judgments(read_settings(headline).experiment).query("round == 2")
    means = table.groupby("seed")["reward"].mean()
    assert means[1] - means[0] == pytest.approx(5.1)


def test_merging_twice_changes_nothing(tmp_path, headline):
    later = stored(finished_experiment(tmp_path / "later", seeds=[2]))
    merged_seeds(later, headline)
    before = files_in(headline)
    assert merged_seeds(later, headline) == ([], [2])
    assert files_in(headline) == before
    assert [path.name for path in headline.parent.iterdir()] == ["rows"]


def test_merge_after_a_killed_merge_has_all_seeds(tmp_path, headline):
    """It was killed after it had moved the old rows away and before the new ones had their name."""
    later = stored(finished_experiment(tmp_path / "later", seeds=[2]))
    shutil.copytree(headline, headline.with_name("rows.partial"))
    headline.rename(headline.with_name("rows.before_merge"))
    assert merged_seeds(later, headline) == ([2], [])
    assert read_settings(headline).experiment.seeds == (0, 1, 2)
    assert [path.name for path in headline.parent.iterdir()] == ["rows"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train": {"beta": 0.2}}, "train.beta differs: 0.1 and 0.2"),
        ({"rounds": 1}, "rounds differs: 2 and 1"),
        ({"compare": ["uniform", "dota"]}, "compare differs"),
        ({"methods": {"dota": {"bandit": {"alpha": 9.0}}}}, "methods.dota.bandit.alpha differs: – and 9.0"),
        ({"sample": "another"}, "the initial policies, which are the opponents, have different samples"),
    ],
)
def test_rows_of_another_experiment_are_refused(tmp_path, headline, changes, reason):
    before = files_in(headline)
    other = stored(finished_experiment(tmp_path / "other", seeds=[2], **changes))
    with pytest.raises(InputError, match=f"rows and .*other/rows cannot be merged: {reason}"):
        merged_seeds(other, headline)
    assert files_in(headline) == before


def test_rows_of_other_clusters_are_refused(tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    first, second = (stored(finished_experiment(folder), figures=["prompts"]) for folder in folders)
    merged_seeds(first, tmp_path / "rows")
    table = second / "clusters.csv"
    table.write_text(table.read_text().replace("p1,1", "p1,0"))
    with pytest.raises(InputError, match="cannot be merged: clusters.csv: prompt p1 is in different clusters"):
        merged_seeds(second, tmp_path / "rows")


def test_seeds_without_the_same_kinds_of_rows_are_refused(tmp_path, headline):
    later = stored(finished_experiment(tmp_path / "later", seeds=[2]), divergence=False)
    with pytest.raises(InputError, match="gallery/rows has seed/evaluation/kl.csv.gz and .*later/rows does not"):
        merged_seeds(later, headline)


def test_reward_models_with_other_weights_are_refused(tmp_path, headline):
    later = stored(finished_experiment(tmp_path / "later", seeds=[2]))
    for folder, digest in ((headline, "1"), (later, "2")):
        index = folder / "experiment_rows.json"
        write_json(index, read_json(index) | {"reward_models": {"mine": digest}})
    with pytest.raises(InputError, match="each trained its own reward model mine, and their weights differ"):
        merged_seeds(later, headline)


def test_folders_without_rows_are_refused(tmp_path, headline):
    with pytest.raises(InputError, match=r"first: no experiment_rows.json in it, expected a rows folder"):
        merged_seeds(tmp_path / "first", headline)
    shutil.rmtree(headline)
    headline.mkdir()
    with pytest.raises(InputError, match=r"gallery/rows: no experiment_rows.json in it"):
        merged_seeds(tmp_path / "first/rows", headline)
