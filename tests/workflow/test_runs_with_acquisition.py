"""Every acquisition rule, which chooses the responses that get a label, works with every kind of feedback."""

import json
import math

import numpy as np
import pandas as pd
import pytest

import tiny
from conftest import Workdir
from judge_server import JudgeServer
from planned_jobs import run_planned
from prefloop.core.jsonl import read_rows
from prefloop.methods.acquisition import ACQUISITIONS

PROMPTS, RESPONSES = 4, 4
LABELS = {"delta_ucb": 2, "drts": 3, "max_uncertainty": 2, "infomax": 2, "random_pair": 2}
POOL = {"infomax": 2}
SMALL = {"steps": 1, "generation": {"n": RESPONSES}, "clusters": {"k": 2}, "bandit": {"allocation": "uniform"}}


def later_word(question: str) -> str:
    """Prefer the response that comes later in the alphabet, and A for equal ones."""
    a, b = question.split("|")[-2:]
    return "B" if b > a else "A"


def feedbacks(directory: Workdir, url: str, judge: str) -> dict[str, dict]:
    """Return feedback of each kind; write its template and reward model to the working directory."""
    (directory.path / "judge.txt").write_text("{conversation}|{response_a}|{response_b}")
    reward_model = tiny.make_reward_model(directory.path / "reward_model")
    local = {"template": "judge.txt", "min_label_mass": 0.0, "dtype": "float32"}
    return {
        "function": {},
        "reward_model": {"kind": "reward_model", "model": str(reward_model), "function": None},
        "server": {"kind": "judge", "judge": {"base_url": url, "model": "judge", "template": "judge.txt"}},
        "local_judge": {"kind": "judge", "model": judge, "judge": local},
    }


def method_of(rule: str, feedback: dict) -> dict:
    """Return a method with an acquisition rule."""
    return {
        "acquisition": {"rule": rule, "labels": LABELS[rule], "pool": POOL.get(rule, 1)},
        "reference": {"kind": "ema" if rule == "drts" else "initial"},
        "feedback": feedback,
    }


KINDS = {"max_uncertainty": "reward_model", "infomax": "server", "random_pair": "local_judge"}
OTHERS = [
    (rule, kind)
    for rule in LABELS
    for kind in ("function", "reward_model", "server")
    if kind != KINDS.get(rule, "function").replace("local_judge", "server")
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory, model_folders):
    """Run two rounds of a method per rule; return the working directory and the questions that the server got."""
    directory = Workdir(tmp_path_factory.mktemp("acquisition"), model_folders["llama"])
    with JudgeServer(later_word) as server:
        kinds = feedbacks(directory, server.url, str(model_folders["qwen"]))
        methods = {rule: method_of(rule, kinds[KINDS.get(rule, "function")]) for rule in LABELS}
        directory.configure(**SMALL, methods=methods, compare=list(methods), pairs={"top_n": None})
        directory.configure(evaluation={"equal_cost": "labels"})
        targets = ["tables/acquisition.csv", "tables/costs.csv", "figures/quality.pdf", "run.rst", "browse.html"]
        assert run_planned(directory, *(f"results/tiny/{target}" for target in targets)) > 100
    return directory, server.attempts


@pytest.fixture(scope="module")
def ran_with_others(tmp_path_factory, model_folders):
    """Run two rounds of every rule with the other kinds of feedback; return the experiment's folder."""
    directory = Workdir(tmp_path_factory.mktemp("others"), model_folders["llama"])
    with JudgeServer(later_word) as server:
        kinds = feedbacks(directory, server.url, str(model_folders["qwen"]))
        methods = {f"{rule}_{kind}": method_of(rule, kinds[kind]) for rule, kind in OTHERS}
        directory.configure(**SMALL, methods=methods, compare=list(methods), pairs={"top_n": None})
        run_planned(directory, *(f"results/tiny/{method}/seed-0/round-2/policy.pt" for method in methods))
    return directory.path / "results/tiny"


def folder_of(ran, rule: str, number: int = 2):
    return ran[0].path / f"results/tiny/{rule}/seed-0/round-{number}"


@pytest.mark.parametrize("rule", list(LABELS))
@pytest.mark.parametrize("number", [1, 2])
def test_only_chosen_responses_have_labels(ran, rule, number):
    step = folder_of(ran, rule, number) / "step-1"
    acquired = [(row["prompt_id"], row["response_id"]) for row in read_rows(step / "acquired.jsonl")]
    assert len(acquired) == PROMPTS * LABELS[rule]
    assert [(row["prompt_id"], row["response_id"]) for row in read_rows(step / "rewards.jsonl")] == acquired
    answered = PROMPTS * POOL.get(rule, 1)
    assert len(read_rows(step / "prompts.jsonl")) == answered
    assert np.load(step / "features.npy").shape == (answered * RESPONSES, 32)
    assert len(read_rows(step / "pfp.jsonl")) == PROMPTS
    for row in read_rows(step / "pfp.jsonl"):
        labeled = {response["response_id"] for response in row["responses"] if response.get("labeled", True)}
        assert labeled == {response for prompt, response in acquired if prompt == row["prompt_id"]}
        assert len(row["responses"]) == RESPONSES
    for pair in read_rows(folder_of(ran, rule, number) / "pairs.jsonl"):
        assert {(pair["prompt_id"], pair[f"response_id_{side}"]) for side in ("chosen", "rejected")} <= set(acquired)


@pytest.mark.parametrize("rule", list(LABELS))
def test_second_round_has_predictions(ran, rule):
    first, second = (read_rows(folder_of(ran, rule, n) / "step-1/acquired.jsonl") for n in (1, 2))
    assert all(row["predicted"] is None for row in first)
    assert all(isinstance(row["predicted"], float) and row["deviation"] >= 0 for row in second)


def test_every_rule_and_kind_of_feedback_is_tested():
    """For this count, a judge on a server and a local judge are the same kind."""
    kinds = {(rule, KINDS.get(rule, "function").replace("local_judge", "server")) for rule in LABELS}
    assert {rule for rule, _ in OTHERS} == set(LABELS) == set(ACQUISITIONS)
    assert kinds | set(OTHERS) == {(rule, kind) for rule in LABELS for kind in ("function", "reward_model", "server")}


@pytest.mark.parametrize(("rule", "kind"), OTHERS)
def test_rule_runs_with_every_kind_of_feedback(ran_with_others, rule, kind):
    """Only chosen responses get labels and form pairs, and the second round predicts from labels of the first."""
    run = ran_with_others / f"{rule}_{kind}/seed-0"
    for number in (1, 2):
        step = run / f"round-{number}/step-1"
        acquired = read_rows(step / "acquired.jsonl")
        rewards = read_rows(step / "rewards.jsonl")
        ids = [(row["prompt_id"], row["response_id"]) for row in acquired]
        assert len(ids) == PROMPTS * LABELS[rule]
        assert [(row["prompt_id"], row["response_id"]) for row in rewards] == ids
        assert all((row["predicted"] is None) == (number == 1) for row in acquired)
        questions = sum(len(row.get("judged", ())) for row in rewards)
        assert questions == (PROMPTS * LABELS[rule] * (LABELS[rule] - 1) // 2 if kind == "server" else 0)
        pairs = read_rows(run / f"round-{number}/pairs.jsonl")
        sides = [(pair["prompt_id"], pair[f"response_id_{side}"]) for pair in pairs for side in ("chosen", "rejected")]
        assert sides and set(sides) <= set(ids)
        assert len(read_rows(run / f"round-{number}/training.jsonl")) == math.ceil(len(pairs) / 4)


def test_methods_start_with_the_same_labels(ran):
    first = [
        [(row["prompt_id"], row["response_id"]) for row in read_rows(folder_of(ran, rule, 1) / "step-1/acquired.jsonl")]
        for rule, labels in LABELS.items()
        if labels == 2 and rule not in POOL
    ]
    assert all(rows == first[0] for rows in first)


def test_judge_compares_only_the_chosen_pair(ran):
    assert sum(ran[1].values()) <= 2 * 2 * PROMPTS
    for rule in ("infomax", "random_pair"):
        rows = read_rows(folder_of(ran, rule) / "step-1/rewards.jsonl")
        assert sum(len(row["judged"]) for row in rows) == PROMPTS


def test_costs_include_the_pass_for_features(ran):
    """There are two passes, or three if the reference is not the initial policy."""

    def passes(rule: str) -> float:
        step = folder_of(ran, rule) / "step-1"
        once = json.loads((folder_of(ran, rule, 1) / "step-1/logprobs.cost.json").read_text())["tokens_in"]
        return json.loads((step / "logprobs.cost.json").read_text())["tokens_in"] / once

    assert passes("delta_ucb") == pytest.approx(2, abs=0.4)
    assert passes("drts") == pytest.approx(3, abs=0.5)


def test_labels_are_counted(ran):
    """Tables and figures count labels per method, and captions say that methods differ."""
    folder = ran[0].path / "results/tiny"
    by_round = {rule: PROMPTS * labels for rule, labels in LABELS.items()}
    costs = pd.read_csv(folder / "tables/costs.csv").query("stage == 'reward'").set_index("method")["labels"]
    assert costs.to_dict() == {rule: 2 * labels for rule, labels in by_round.items()}
    quality = pd.read_csv(folder / "figures/quality.csv").query("round == 2").set_index("method")["labels"]
    assert quality.groupby("method").max().to_dict() == costs.to_dict()
    fact = "Not at equal cost: labels per run differ by more than 5 %: drts 24, all others 16"
    for file in ("run.rst", "figures/quality.rst"):
        assert fact in (folder / file).read_text().replace("\\", "")


def test_acquisition_table_has_one_row_per_step(ran):
    table = pd.read_csv(ran[0].path / "results/tiny/tables/acquisition.csv")
    assert table["method"].unique().tolist() == list(LABELS)
    assert (table["responses"] == [PROMPTS * LABELS[rule] for rule in LABELS for _ in range(2)]).all()
    assert table["correlation"].isna().tolist()[::2] == [True] * len(LABELS)
    assert table["correlation"][1::2].dropna().between(-1, 1).all()


def test_shards_give_the_same_bytes(tmp_path, model_folders):
    """Features, choices and rewards are equal for one and three shards."""
    files = {}
    for shards in (1, 3):
        folder = tmp_path / f"shards-{shards}"
        folder.mkdir()
        directory = Workdir(folder, model_folders["llama"])
        methods = {"choosing": {"acquisition": {"rule": "drts", "pool": 2}}, "everything": {}}
        directory.configure(**SMALL, shards=shards, methods=methods, compare=list(methods), pairs={"top_n": None})
        directory.configure(logprobs={"batch_size": 8})
        run_planned(directory, *(f"results/tiny/{method}/seed-0/round-2/pairs.jsonl" for method in methods))
        paths = [path for suffix in ("jsonl", "npy") for path in folder.glob(f"results/tiny/*/seed-0/**/*.{suffix}")]
        paths = [path for path in paths if not path.parent.name.startswith("shard-")]  # Snakemake deletes these
        files[shards] = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    assert files[1] == files[3]
    assert not [path for path in files[1] if "everything" in path and path.endswith((".npy", "acquired.jsonl"))]
