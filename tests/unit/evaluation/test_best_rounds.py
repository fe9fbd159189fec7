"""The best round is chosen on validation prompts only and compared on test prompts only."""

import numpy as np
import pandas as pd
import pytest

from made_up import drawn
from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.evaluation.best_rounds import best_rounds, choose_rounds, draw_validation_prompts
from prefloop.evaluation.inference import mean_interval
from prefloop.evaluation.results import judgments

PROMPTS = [f"p{i:02}" for i in range(20)]
# Mean rewards of rounds 1 to 3. In two of the four runs, the best round is not the last one.
PEAKS = {("early", 0): (3.0, 1.0, 0.0), ("early", 1): (1.0, 3.0, 0.0), ("late", 0): (1, 2, 4), ("late", 1): (1, 2, 4)}
METHODS, SEEDS, ROUNDS = ("early", "late"), (0, 1), 3


def prompts_with(families) -> pd.DataFrame:
    return pd.DataFrame({"prompt_id": PROMPTS[: len(families)], "family": families})


def own_families() -> pd.DataFrame:
    return prompts_with([f"prompt {name}" for name in PROMPTS])


def write_experiment(root, change=lambda prompt, value, round_index: value, families=None, methods=METHODS):
    """Write rewards with the means of PEAKS and a small prompt effect; `change` alters single values."""
    experiment = Experiment(root, methods, SEEDS, ROUNDS, steps=1)
    rows = [{"prompt_id": name} for name in PROMPTS]
    if families:
        rows = [row | {"meta": {"family": family}} for row, family in zip(rows, families, strict=True)]
    write_rows(root / "prompts/eval.jsonl", rows)
    for comparison in experiment.by_round():
        mean = PEAKS[comparison.method, comparison.seed][comparison.round - 1] if comparison.round else 9.0
        values = [change(name, mean + i / 100, comparison.round) for i, name in enumerate(PROMPTS)]
        judged = [
            {"prompt_id": name, "outcome": "win" if value > 2 else "loss", "reward": value, "feedback": None}
            | {"n_tokens": 7, "n_tokens_opponent": 7}
            for name, value in zip(PROMPTS, values, strict=True)
        ]
        write_rows(root / comparison.judgments, judged)
    return experiment


@pytest.fixture
def experiment(tmp_path):
    return write_experiment(tmp_path)


def chosen_by(experiment, validation, measure="reward") -> dict:
    rows = judgments(experiment)
    return choose_rounds(rows[rows["prompt_id"].isin(validation)], measure)


BEST = {("early", 0): 1, ("early", 1): 2, ("late", 0): 3, ("late", 1): 3}


def test_planted_rounds_are_chosen(experiment):
    """The initial policy has a reward of 9 but is not a candidate."""
    assert chosen_by(experiment, set(PROMPTS[:6])) == BEST


def test_earliest_of_equal_rounds_is_chosen(tmp_path):
    experiment = write_experiment(tmp_path, lambda prompt, value, round_index: 1.0)
    assert set(chosen_by(experiment, set(PROMPTS[:6])).values()) == {1}


def test_table_compares_on_test_prompts(experiment):
    """The last 14 prompts are test prompts; their prompt effects have a mean of 12.5/100."""
    data = best_rounds(judgments(experiment), experiment, ["reward", "win"], "reward", set(PROMPTS[:6]))
    rows = data[data["seed"].isna()].set_index(["method", "measure"])
    early = rows.loc[("early", "reward")]
    assert early["rounds"] == "1 2"
    assert early[["best", "last", "difference"]].tolist() == pytest.approx([3.125, 0.125, 3.0])
    test = np.tile(np.arange(6, 20) / 100, (2, 1))
    assert early[["best_low", "best_high"]].tolist() == pytest.approx(list(mean_interval(3 + test)[1:]))
    assert early["difference_low"] == early["difference_high"] == pytest.approx(3.0)
    late = rows.loc[("late", "reward")]
    assert late["rounds"] == "3 3"
    assert late[["best", "last", "difference"]].tolist() == pytest.approx([4.125, 4.125, 0.0])
    assert rows.loc[("early", "win"), ["best", "last"]].tolist() == [1.0, 0.0]
    seeds = data[(data["method"] == "early") & (data["measure"] == "reward")].dropna(subset="seed")
    assert seeds["rounds"].tolist() == ["1", "2"] and seeds["difference"].tolist() == pytest.approx([3.0, 3.0])
    assert seeds["best_low"].isna().all()


def test_test_prompts_never_influence_the_choice(experiment, tmp_path):
    """Reversed values of the test prompts change the reported difference but not the choice."""
    validation = draw_validation_prompts(own_families(), 0.3, 0)

    def reversed_on_test(prompt, value, round_index):
        return value if prompt in validation else 100.0 * round_index - value

    other = write_experiment(tmp_path / "other", reversed_on_test)
    assert draw_validation_prompts(judgments(other)[["prompt_id", "family"]], 0.3, 0) == validation
    assert chosen_by(other, validation) == BEST
    means = best_rounds(judgments(other), other, ["reward"], "reward", validation).dropna(subset="best_low")
    assert (means.set_index("method").loc["early", "difference"]) < -100
    all_prompts = chosen_by(other, set(PROMPTS))
    assert set(all_prompts.values()) == {3}, "on all prompts the last round would be the best"


def test_reported_numbers_do_not_use_validation_prompts(experiment, tmp_path):
    """Larger values of validation prompts keep the choice, so no reported number changes."""
    validation = draw_validation_prompts(own_families(), 0.3, 0)

    def raised(prompt, value, round_index):
        return 50 * value if prompt in validation else value

    other = write_experiment(tmp_path / "other", raised)
    tables = [best_rounds(judgments(e), e, ["reward"], "reward", validation) for e in (experiment, other)]
    pd.testing.assert_frame_equal(*tables)


def test_draw_is_close_to_the_fraction_and_independent_of_order():
    prompts = own_families()
    drawn_prompts = draw_validation_prompts(prompts, 0.3, 0)
    assert len(drawn_prompts) == 6
    shuffled = pd.concat([prompts.sample(frac=1, random_state=1), prompts])
    assert draw_validation_prompts(shuffled, 0.3, 0) == drawn_prompts
    assert draw_validation_prompts(prompts, 0.3, 1) != drawn_prompts
    assert len(draw_validation_prompts(prompts, 0.99, 0)) == 19
    assert len(draw_validation_prompts(prompts, 0.01, 0)) == 1


def test_families_stay_together():
    """20 prompts in families of 5, 4, 3, 2 and six of 1: for any seed, the drawn number is close to the fraction."""
    sizes = [5, 4, 3, 2, *[1] * 6]
    families = [f"family {k}" for k, size in enumerate(sizes) for _ in range(size)]
    prompts = prompts_with(families)
    split = set()
    for seed in range(40):
        validation = draw_validation_prompts(prompts, 0.3, seed)
        for _, members in prompts.groupby("family"):
            assert set(members["prompt_id"]) <= validation or not set(members["prompt_id"]) & validation
        assert 4 <= len(validation) <= 8
        split.add(frozenset(validation))
    assert len(split) > 20


def test_one_family_of_all_prompts_has_no_effect():
    assert len(draw_validation_prompts(prompts_with(["family a"] * 20), 0.3, 0)) == 6


def test_single_prompt_raises():
    with pytest.raises(InputError, match="evaluation.validation: one eval prompt, expected two or more"):
        draw_validation_prompts(prompts_with(["family a"]), 0.3, 0)


def test_run_without_a_valid_value_raises(experiment):
    with pytest.raises(InputError, match="validation: feedback of early, seed 0, has no valid value"):
        chosen_by(experiment, set(PROMPTS[:6]), "feedback")


def test_rounds_without_a_valid_value_are_not_candidates(tmp_path):
    """One round of one run has only invalid judgments and therefore no win rate."""
    experiment = write_experiment(tmp_path)
    path = tmp_path / experiment.comparison("early", 0, 1).judgments
    write_rows(path, ({"prompt_id": name, "outcome": "invalid", "reward": None} for name in PROMPTS))
    assert chosen_by(experiment, set(PROMPTS[:6]), "win")["early", 0] == 2


@pytest.mark.parametrize("families", [None, [f"f{i // 4}" for i in range(20)]])
def test_caption_names_validation_and_test_prompts(tmp_path, families):
    experiment = write_experiment(tmp_path, families=families)
    data, caption = drawn("tabulate_best_round", experiment, "--fraction", "0.3", "--measure", "reward")
    chose = 6 if families is None else 4
    assert f"({chose} eval prompts drawn at random), in the order of seeds, " in caption
    assert f"both on the {20 - chose} other eval prompts" in caption
    assert "No number here includes the validation prompts" in caption
    assert caption.count(". ") <= 3
    over_seeds = data[data["seed"].isna()].set_index(["method", "measure"])
    assert over_seeds.loc[("early", "reward"), "rounds"] == "1 2"
    assert "1 2" in (tmp_path / "tables/best_round.tex").read_text()
