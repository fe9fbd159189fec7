"""A judge that compares only some pairs works for two rounds, in shards and with joined steps."""

import json
import re

import pandas as pd
import pytest

from conftest import Workdir
from prefloop.core.jsonl import read_rows

PROMPTS, RESPONSES = 4, 5
PLANS = {"all": 10, "random_k": 3, "best_worst_tournament": 7}  # maximum number of comparisons per prompt
VARIANTS = {"plain": {}, "shards": {"shards": 2}, "joined": {"join_steps": True}}


@pytest.fixture(scope="module")
def ran(tmp_path_factory, model_folders) -> dict[str, Workdir]:
    """Run a working directory per variant: two rounds with all plans, or one round with two plans."""
    directories = {}
    for name, settings in VARIANTS.items():
        directory = directories[name] = Workdir(tmp_path_factory.mktemp(name), model_folders["llama"])
        (directory.path / "judge.txt").write_text("{conversation}|{response_a}|{response_b}")
        judge = {"template": "judge.txt", "min_label_mass": 0.0, "dtype": "float32"}
        shared = {"kind": "judge", "model": str(model_folders["qwen"]), "function": None, "batch_size": 10}
        methods = {
            plan: {
                "feedback": shared | {"judge": judge | ({} if plan == "all" else {"pairs": plan, "random_pairs": 3})}
            }
            for plan in PLANS
        }
        directory.configure(
            **settings, steps=2, generation={"n": RESPONSES}, clusters={"k": 2}, pairs={"top_n": None}, methods=methods
        )
        directory.configure(bandit={"allocation": "uniform", "budget": PROMPTS}, compare=list(methods))
        targets = [f"{plan}/seed-0/round-1/pairs.jsonl" for plan in PLANS if plan != "all"]
        if name == "plain":
            targets = [f"{plan}/seed-0/round-2/training.jsonl" for plan in PLANS]
            targets += ["tables/costs.csv", "browse.html"]
        done = directory.run(*(f"results/tiny/{target}" for target in targets))
        assert done.returncode == 0, done.stdout
    return directories


def steps_of(directory: Workdir, plan: str) -> list:
    return sorted((directory.path / f"results/tiny/{plan}").glob("seed-0/round-*/step-*"))


@pytest.mark.parametrize("plan", PLANS)
def test_only_planned_pairs_are_compared(ran, plan):
    for step in steps_of(ran["plain"], plan):
        for row in read_rows(step / "pfp.jsonl"):
            compared = {
                frozenset((response["response_id"], other))
                for response in row["responses"]
                for other, *_ in response["judged"]
            }
            assert len(compared) in ((6, 7) if plan == "best_worst_tournament" else (PLANS[plan],))
            assert row["best"] is None or {row["best"], row["worst"]} in compared
            if plan == "best_worst_tournament":
                places = {response["tournament"]: response["response_id"] for response in row["responses"]}
                assert row["best"] is None or (row["best"], row["worst"]) == (places["best"], places["worst"])
            else:
                assert not any("tournament" in response for response in row["responses"])


def test_selected_pairs_were_compared(ran):
    for plan in PLANS:
        for number in (1, 2):
            folder = ran["plain"].path / f"results/tiny/{plan}/seed-0/round-{number}"
            rows = {row["prompt_id"]: row for step in folder.glob("step-*") for row in read_rows(step / "pfp.jsonl")}
            for pair in read_rows(folder / "pairs.jsonl"):
                beats = {r["response_id"]: r["beats"] for r in rows[pair["prompt_id"]]["responses"]}
                assert pair["response_id_rejected"] in beats[pair["response_id_chosen"]]


def test_labels_count_the_questions(ran):
    table = pd.read_csv(ran["plain"].path / "results/tiny/tables/costs.csv").query("stage == 'reward'")
    labels = table.set_index("method")["labels"]
    assert labels["all"] == 2 * 10 * PROMPTS * 4
    assert labels["random_k"] == 2 * 3 * PROMPTS * 4
    assert 2 * 6 * PROMPTS * 4 <= labels["best_worst_tournament"] <= 2 * 7 * PROMPTS * 4


@pytest.mark.parametrize("variant", ["shards", "joined"])
def test_shards_and_joined_steps_give_the_same_bytes(ran, variant):
    def files(directory: Workdir) -> dict[str, bytes]:
        root = directory.path / "results/tiny"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("*/seed-0/**/*.jsonl")}

    made, plain = files(ran[variant]), files(ran["plain"])
    assert len(made) == 2 * (1 + 2 * 5)
    assert made == {path: plain[path] for path in made}
    for plan in ("random_k", "best_worst_tournament"):
        step = steps_of(ran["plain"], plan)[0].relative_to(ran["plain"].path)
        costs = [json.loads((ran[name].path / step / "reward.cost.json").read_text()) for name in ("plain", variant)]
        assert costs[0]["labels"] == costs[1]["labels"]
        assert costs[0]["judge"]["outcomes"] == costs[1]["judge"]["outcomes"]


@pytest.mark.parametrize("plan", PLANS)
def test_only_plans_add_flags(ran, plan):
    """The command for all pairs has no flags of plans."""
    directory = ran["plain"]
    target = (steps_of(directory, plan)[0] / "rewards.jsonl").relative_to(directory.path)
    done = directory.run("--dry-run", "--printshellcmds", "--force", str(target))
    command = next(line for line in done.stdout.splitlines() if "reward.py" in line)
    flags = re.findall(r"--(feedback\.judge\.pairs|feedback\.judge\.random-pairs|seed|stream) (\S+)", command)
    planned = {"feedback.judge.pairs": plan, "seed": "0", "stream": "round-1/step-1"}
    planned |= {"feedback.judge.random-pairs": "3"} if plan == "random_k" else {}
    assert dict(flags) == ({} if plan == "all" else planned)
