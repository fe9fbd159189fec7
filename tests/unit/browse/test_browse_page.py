"""Data of the browse page: all rows or a sample of them, and texts that are harmless in HTML."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from browsed import HELD_OUT, HOSTILE, METHODS, TRAIN, write_experiment, write_lines
from conftest import ROOT
from prefloop.browse.annotated import pairs_and_responses
from prefloop.browse.arms import clusters_and_maps
from prefloop.browse.columns import Draw
from prefloop.browse.evaluated import comparisons_and_changes
from prefloop.browse.experiment_files import files_of, found_below
from prefloop.browse.page import data_of, page_of
from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError

TEMPLATE = ROOT / "workflow/browse"


def whole_experiment(root, rounds=2, steps=2) -> Experiment:
    return Experiment(root=root, methods=METHODS, seeds=(0,), rounds=rounds, steps=steps)


@pytest.fixture
def root(tmp_path):
    return write_experiment(tmp_path / "small")


@pytest.fixture
def files(root):
    judgments = sorted(root.glob("**/against-*.jsonl"))
    return files_of(whole_experiment(root), [root / "clusters.csv"] * 2, judgments, arms=True)


def data(files, most=5000) -> dict:
    pairs, responses, rewards = pairs_and_responses(files, most)
    arms, maps = clusters_and_maps(files, rewards)
    return data_of("small", "", [pairs, responses, arms, *comparisons_and_changes(files, most)], maps)


def rows_of(shown: dict, key: str) -> list[dict]:
    """Return a table's rows as dicts, with indices replaced by their texts."""
    table = next(table for table in shown["tables"] if table["key"] == key)
    keys = [column["key"] for column in table["columns"]]
    rows = [dict(zip(keys, row, strict=True)) for row in table["rows"]]
    for column in table["columns"]:
        for row in rows:
            value = row[column["key"]]
            if column["kind"] == "text" and value is not None:
                row[column["key"]] = shown["texts"][value]
            elif column["kind"] == "texts":
                row[column["key"]] = [shown["texts"][number] for number in value]
    return rows


def test_decided_pairs_show_whether_they_were_trained(files):
    rows = rows_of(data(files), "pairs")
    assert len(rows) == 2 * 16 * 3  # methods · prompts · pairs of three responses without ties
    trained = [row for row in rows if row["trained"] == "yes"]
    assert len(trained) == 2 * 16
    assert {row["trained"] for row in rows} == {"yes", "no"}
    for row in trained:
        assert (row["gap"], row["pfp"], row["score"], row["metric"]) == (1.0, 20.0, 20.0, "pfp")
        assert (row["n_chosen"], row["n_rejected"]) == (6, 4)
    assert all(row["score"] is None for row in rows if row["trained"] == "no")
    assert rows[0]["prompt"] == "Prompt train 0: say something about a maple."
    assert {row["rejected"] for row in rows[:3]} >= {HOSTILE}


def test_responses_are_ranked_within_their_prompt(files):
    rows = rows_of(data(files), "responses")
    assert len(rows) == 2 * 16 * 3
    assert [row["rank"] for row in rows[:3]] == [3, 2, 1]
    first = rows[0]
    assert first["perplexity"] == pytest.approx(2.718281828 ** (10 / 4), rel=1e-5)
    assert first["log_ratio"] == -1.0
    assert (first["sampler"], first["component"], first["finish_reason"]) == ("on_policy", "policy", "stop")


def test_ranks_of_missing_and_equal_rewards(files, root):
    path = root / "dota/seed-0/round-1/step-1/pfp.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for response in [response for row in rows for response in row["responses"]]:
        response |= {"beats": [], "judged": []}
    for response, reward in zip(rows[0]["responses"], [2.0, None, 2.0], strict=True):
        response["reward"] = reward
    write_lines(path, rows)
    assert [row["rank"] for row in rows_of(data(files), "responses")[:3]] == [1, None, 1]


def test_arms_and_rewards_match_the_files(files):
    rows = rows_of(data(files), "clusters")
    assert [(row["method"], row["cluster"]) for row in rows] == [(m, c) for c in range(3) for m in METHODS]
    first = rows[0]
    assert first["size"] == TRAIN / 3
    # Prompts 0 to 15 are drawn. Of these, 0, 3, …, 15 are in cluster 0: two, one, one and two in steps 1 to 4.
    assert first["drawn"] == [2, 1, 1, 2]
    assert first["pulls"] == 6
    assert first["reward"] == sum([0, 3, 6, 9, 12, 15]) / 6 + 0.5
    assert first["rewards"] == [(0 + 3) / 2 + 0.5, 6.5, 9.5, (12 + 15) / 2 + 0.5]
    assert (first["mean"], first["score"]) == (0.5, 1.0)
    assert len(first["examples"]) == 5
    assert all(re.fullmatch(r"Prompt train (0|3|6|9|12|15|18|21): .*", text) for text in first["examples"])


def test_judgments_have_both_answers(files):
    rows = rows_of(data(files), "judgments")
    assert len(rows) == (1 + 2 * 2) * HELD_OUT
    row = next(r for r in rows if r["method"] == "dota" and r["round"] == 2 and r["prompt_id"] == "held-3")
    assert (row["answer"], row["opponent_answer"]) == ("dota after round 2, prompt 3", "the initial policy, prompt 3")
    assert (row["outcome"], row["reward"], row["reward_opponent"], row["change"]) == ("win", 6.0, 3.0, 3.0)
    assert row["cluster"] == 0


def test_several_samples_of_a_prompt_have_their_own_answers(files, root):
    """Samples are matched by number, independent of their order, and the tables have a column for the number."""
    for folder in sorted(root.glob("**/evaluation/*/")):
        for file, number in {"samples.jsonl": "response_id", "against-initial.jsonl": "sample"}.items():
            rows = [json.loads(line) for line in (folder / file).read_text().splitlines()]
            second = [row | {number: 1} for row in rows]
            second = [row | ({"response": "again: " + row["response"]} if "response" in row else {}) for row in second]
            write_lines(folder / file, [*second, *(row | {number: 0} for row in rows)])
    for key in ("judgments", "before-after"):
        rows = [row for row in rows_of(data(files), key) if row["method"] == "dota" and row["round"] == 2]
        texts = {row["sample"]: (row["answer"], row["opponent_answer"]) for row in rows if row["prompt_id"] == "held-3"}
        ours, theirs = "dota after round 2, prompt 3", "the initial policy, prompt 3"
        assert texts == {0: (ours, theirs), 1: (f"again: {ours}", f"again: {theirs}")}
        assert len(rows) == 2 * HELD_OUT


def test_before_is_the_initial_policy_and_after_the_last_round(files):
    rows = rows_of(data(files), "before-after")
    assert [(row["method"], row["round"]) for row in rows] == [(m, 2) for m in METHODS for _ in range(HELD_OUT)]
    assert [row["change"] for row in rows[:HELD_OUT]] == [-2.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    assert rows[1]["opponent_answer"] == "the initial policy, prompt 1"
    assert rows[1]["answer"] == "dota after round 2, prompt 1"


def test_before_is_the_initial_policy_with_opponent_chosen(files, root):
    for path in sorted(root.glob("**/against-initial.jsonl")):
        path.rename(path.with_name("against-chosen.jsonl"))
    files.comparisons = [comparison._replace(opponent="chosen") for comparison in files.comparisons]
    shown = data(files)
    assert {row["opponent_answer"] for row in rows_of(shown, "judgments")} == {"given"}
    rows = rows_of(shown, "before-after")
    assert [row["change"] for row in rows[:HELD_OUT]] == [-2.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    assert rows[0]["opponent_answer"] == "the initial policy, prompt 0"
    assert {row["outcome"] for row in rows} == {None}


def test_sample_of_pairs_keeps_trained_ones_first(files):
    shown = data(files, most=40)
    pairs = rows_of(shown, "pairs")
    assert len(pairs) == 40
    assert sum(row["trained"] == "yes" for row in pairs) == 2 * 16
    assert {table["key"]: table["total"] for table in shown["tables"]}["pairs"] == 96
    assert [table["key"] for table in shown["tables"] if table["prioritized"]] == ["pairs"]
    assert len(rows_of(shown, "responses")) == 40


def test_draw_keeps_the_order_and_is_deterministic():
    def drawn():
        draw = Draw(50, "a table")
        for i in range(1000):
            draw.add({"i": i})
        return [row["i"] for row in draw.rows]

    numbers = drawn()
    assert numbers == sorted(numbers) == drawn()
    assert len(set(numbers)) == 50
    assert 300 < sum(numbers) / 50 < 700  # neither the first nor the last rows only


def test_missing_files_raise_only_with_a_config(files, root):
    (root / "uniform/seed-0/round-2/pairs.jsonl").unlink()
    (root / "uniform/seed-0/round-2/step-2/pfp.jsonl").unlink()
    (root / "uniform/seed-0/round-2/step-2/arms.json").unlink()
    with pytest.raises(InputError, match="pairs.jsonl: no such file"):
        data(files)
    found = found_below(Experiment(root=root, methods=(), seeds=(), rounds=0, steps=0))
    assert (found.experiment.methods, found.experiment.seeds) == (METHODS, (0,))
    assert (found.experiment.rounds, found.experiment.steps) == (2, 2)
    rows = rows_of(data(found), "pairs")
    assert len(rows) == 2 * 16 * 3 - 4 * 3
    last = [row for row in rows if row["method"] == "uniform" and row["round"] == 2]
    assert {row["trained"] for row in last} == {None}


def test_hidden_methods_of_shared_first_steps_are_not_shown(root):
    step = root / "_first_step_0a1b2c3d/seed-0/round-1/step-1"
    write_lines(step / "prompts.jsonl", [])
    found = found_below(Experiment(root=root, methods=(), seeds=(), rounds=0, steps=0))
    assert found.experiment.methods == METHODS


def test_empty_folder_raises(tmp_path):
    program = [sys.executable, ROOT / "workflow/scripts/browse.py", "--root", tmp_path, "--output", tmp_path / "p.html"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}: nothing to show, because there is no folder")
    assert not (tmp_path / "p.html").exists()


class Scripts(HTMLParser):
    """The elements that an HTML parser finds, and the content of the scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, text):
        if self.tags[-1:] == ["script"]:
            self.scripts.append(text)


def test_hostile_text_is_preserved_and_does_not_end_a_script(files):
    shown = data(files)
    assert HOSTILE in shown["texts"]
    page = Scripts(page_of(shown, TEMPLATE))
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert json.loads(page.scripts[0]) == json.loads(json.dumps(shown))


def test_template_placeholders_in_texts_are_not_replaced():
    page = page_of({"name": "{{data}} <b>", "texts": ["{{script}} {{style}}"]}, TEMPLATE)
    assert '"{{script}} {{style}}"' in page
    assert "<title>{{data}} &lt;b&gt; – prefloop</title>" in page
