"""The code blocks of docs/extending.md work in a copy of the project, with their tests and in an experiment."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from conftest import ROOT, Workdir
from pages import follow
from prefloop.core.jsonl import read_rows
from prefloop.models.policies import read_policy

WORDS = [
    "gap_per_token",
    "squared_hinge",
    "odpo",
    "spread",
    "nash_md",
    "gaussian_thompson",
    "program",
    "lengths",
    "annotated",
]


@pytest.fixture(scope="module")
def extended(tmp_path_factory, model_folders) -> Workdir:
    """Copy the project, add the code of the page and run an experiment that uses it."""
    directory = Workdir(tmp_path_factory.mktemp("extended"), model_folders["llama"])
    directory.copy_sources()
    shutil.copytree(ROOT / "tests", directory.path / "tests")
    shutil.copy(ROOT / "pyproject.toml", directory.path)
    directory.changed = follow(ROOT / "docs/extending.md", directory.path)
    (directory.path / "count.py").write_text(
        "import json, sys\nfor line in sys.stdin:\n    print(len(json.loads(line)['response']))\n"
    )
    directory.configure(
        compare=["added"],
        steps=1,
        methods={
            "added": {
                "bandit": {"allocation": "gaussian_thompson", "metric": "gap_per_token", "normalize": "identity"},
                "generation": {"sampler": "nash_md", "n": 4, "max_new_tokens": 9},
                "feedback": {"kind": "program", "program": f"{sys.executable} count.py"},
                "pairs": {"metric": "gap_per_token"},
                "train": {"loss": "odpo", "odpo_alpha": 3.0, "beta": 0.3, "beta_rule": "spread"},
            },
            "plain": {"train": {"loss": "squared_hinge"}},
        },
        figures=["lengths"],
        tables=["annotated"],
    )
    done = directory.run()
    assert done.returncode == 0, done.stdout
    return directory


def test_tests_of_the_page_pass(extended):
    checks = ["has_a_test", "has_a_program", "special_columns", "conditions_name", "read_constants", "registry_words"]
    chosen = " or ".join([*WORDS, *checks, "docstring"])
    files = ["bandit", "beta_rules", "validation", "declarations", "annotate", "losses", "pair_metrics", "samplers"]
    files += ["plot_lengths", "tabulate_annotated"]
    paths = [str(next((extended.path / "tests/unit").rglob(f"test_{name}.py"))) for name in files]
    paths.append("tests/workflow/test_figures.py::test_every_figure_and_table_has_a_program")
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", chosen, *paths]
    done = subprocess.run(command, cwd=extended.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    passed = [line for line in done.stdout.splitlines() if "PASSED" in line]
    for word in WORDS:
        assert any(word in line for line in passed), f"no test of {word}"


def test_code_of_the_page_passes_ruff(extended):
    ruff = [sys.executable, "-m", "ruff"]
    for command in ([*ruff, "check"], [*ruff, "format", "--check"]):
        paths = [path for path in extended.changed if path.endswith(".py")]
        done = subprocess.run([*command, *paths], cwd=extended.path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_experiment_uses_all_new_names(extended):
    results = extended.path / "results/tiny"
    first, second = (results / f"added/seed-0/round-{number}" for number in (1, 2))
    generations = read_rows(second / "step-1/generations.jsonl")
    assert {row["component"] for row in generations} == {"policy", "halfway"}
    texts = {(row["prompt_id"], row["response_id"]): row["response"] for row in generations}
    rewards = read_rows(second / "step-1/rewards.jsonl")
    assert [row["reward"] for row in rewards] == [len(texts[row["prompt_id"], row["response_id"]]) for row in rewards]
    for pair in read_rows(second / "pairs.jsonl"):
        longer = max(pair["n_chosen"], pair["n_rejected"])
        assert pair["score"] == pytest.approx((pair["reward_chosen"] - pair["reward_rejected"]) / longer)
    arms = json.loads((first / "step-1/arms.json").read_text())["arms"]
    assert sum(arm["pulls"] for arm in arms) == 4
    assert read_policy(second / "policy.pt")["beta_state"]["rule"] == "spread"
    steps = read_rows(first / "training.jsonl")
    assert steps[0]["beta"] == 0.3, "the new rule receives beta of the config"
    data = pd.read_csv(results / "figures/lengths.csv").set_index("round")
    assert data.loc[2, "n_tokens"] == pytest.approx(pd.DataFrame(generations)["n_tokens"].mean(), rel=1e-5)
    table = pd.read_csv(results / "tables/annotated.csv").set_index("round")
    assert table.loc[2, "mean"] == pytest.approx(pd.DataFrame(rewards)["reward"].mean(), rel=1e-5)


def test_changed_constant_retrains_and_edited_program_rewards_again(extended):
    assert extended.jobs() == set()
    changed = extended.jobs("--config", "methods={added: {train: {odpo_alpha: 2.0}}}")
    assert "train" in changed
    assert "allocate" not in changed, "prompts of both rounds are already drawn"
    with (extended.path / "count.py").open("a") as file:
        file.write("# edited\n")
    assert "reward" in extended.jobs()
