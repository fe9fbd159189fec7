"""Perplexities in the figure and in table results match the rows."""

import math

import pandas as pd
import pytest

from made_up import drawn, experiment_in
from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.core.files import write_json
from prefloop.core.jsonl import write_rows
from prefloop.evaluation.perplexity_results import TextScore, final_perplexities, perplexities, total

RUNS = {"methods": ("a", "b"), "seeds": (0, 1), "rounds": 2}


def write_texts(experiment: Experiment, extra: int = 0) -> None:
    """Write two documents of 4 and 6 tokens.

    −log₂ π per token is 3 initially and 3 + round + seed after a round, plus 1 for method b.
    """
    folders = {experiment.root / "initial": 3}
    for where, folder in experiment.folders():
        folders[folder] = 3 + where["round"] + where["seed"] + (where["method"] == "b")
    for folder, bits in folders.items():
        rows = [
            {"document": number, "n_tokens": tokens, "n_bytes": 2 * tokens, "logp": -bits * tokens * math.log(2)}
            for number, tokens in enumerate((4, 6 + (extra if bits == 7 else 0)), start=1)
        ]
        write_rows(folder / "evaluation/perplexity.jsonl", rows)
        write_json(
            folder / "evaluation/measure_perplexity.cost.json",
            {"stage": "measure_perplexity", "tokens_in": 10, "tokens_out": 0, "flops": 20.0, "seconds": 1.0},
        )


def test_perplexity_and_bits_per_byte_by_hand():
    """Four tokens with probability ½ each have eight bytes."""
    score = TextScore(4, 8, -4 * math.log(2))
    assert (score.perplexity, score.bits_per_byte) == pytest.approx((2.0, 0.5))
    assert TextScore(1, 1, -1e6).perplexity == math.inf


def test_documents_count_by_their_tokens():
    rows = [{"n_tokens": 1, "n_bytes": 3, "logp": -1.0}, {"n_tokens": 3, "n_bytes": 5, "logp": -11.0}]
    assert total(rows) == (4, 8, -12.0)
    assert total(rows).perplexity == pytest.approx(math.exp(3))


def test_table_has_every_run_and_the_initial_policy(tmp_path):
    experiment = experiment_in(tmp_path, **RUNS)
    write_texts(experiment)
    table = perplexities(experiment)
    assert table[table["round"] == 0]["perplexity"].tolist() == pytest.approx([8.0] * 4)
    assert table.query("method == 'b' and round == 2")["perplexity"].tolist() == pytest.approx([64.0, 128.0])
    assert table.query("method == 'b' and round == 2")["bits_per_byte"].tolist() == pytest.approx([3.0, 3.5])
    ends = final_perplexities(table, experiment).set_index("method")
    assert ends["perplexity"].to_dict() == pytest.approx({"initial": 8.0, "a": 48.0, "b": 96.0})


def test_perplexities_of_different_texts_raise(tmp_path):
    experiment = experiment_in(tmp_path, **RUNS)
    write_texts(experiment, extra=1)
    with pytest.raises(
        InputError, match="b/seed-1/round-2/evaluation/perplexity.jsonl: 11 tokens of 22 bytes, expected"
    ):
        perplexities(experiment)


@pytest.mark.parametrize(("text", "name"), [("packaged", "the packaged text"), ("data/wiki.txt", "wiki.txt")])
def test_figure_draws_the_rows(tmp_path, text, name):
    experiment = experiment_in(tmp_path, **RUNS)
    write_texts(experiment)
    data, caption = drawn("plot_perplexity", experiment, "--text", text)
    pd.testing.assert_frame_equal(data, perplexities(experiment), check_dtype=False, rtol=1e-5)
    assert f"Perplexity of every round's policy over 10 tokens of {name}, with bits per byte on the right" in caption
    assert "each method has 2 seeds" in caption and caption.count(". ") == 2


def test_results_have_a_column_only_if_it_was_measured(tmp_path):
    experiment = experiment_in(tmp_path, **RUNS)
    write_texts(experiment)
    write_rows(tmp_path / "prompts/eval.jsonl", ({"prompt_id": name} for name in "xyz"))
    for comparison in experiment.by_round():
        rewards = {"reward": float(comparison.round), "feedback": None, "n_tokens": 5, "n_tokens_opponent": 5}
        write_rows(tmp_path / comparison.judgments, ({"prompt_id": p, "outcome": "tie"} | rewards for p in "xyz"))
        write_json(tmp_path / comparison.folder / "sample.cost.json", {"truncated": [0, 3]})
    for _, folder in experiment.folders():
        write_rows(folder / "training.jsonl", [{"step": 0, "loss": 0.7}])
    for _, folder in experiment.step_folders():
        write_rows(folder / "prompts.jsonl", [{"prompt_id": "q", "cluster": 0}])
        write_json(folder / "generate.cost.json", {"tokens_out": 1, "flops": 1.0, "truncated": [0, 1]})
    without, caption = drawn("tabulate_results", experiment)
    assert not {"perplexity", "bits_per_byte"} & set(without.columns)
    assert "perplexity" not in caption
    measured, caption = drawn("tabulate_results", experiment, "--text", "packaged")
    assert measured["perplexity"].tolist() == pytest.approx([8.0, 48.0, 96.0])
    assert measured["bits_per_byte"].tolist() == pytest.approx([1.5, (2.5 + 3) / 2, (3 + 3.5) / 2])
    pd.testing.assert_frame_equal(measured[without.columns], without)
    assert "perplexity per token over 10 tokens of the packaged text" in caption
    assert "perplexity" in (tmp_path / "tables/results.tex").read_text()
