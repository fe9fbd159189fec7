"""docs/walkthrough.md: its files form a valid experiment, its functions work and its commands can be planned."""

import csv

import pytest
import yaml

from documented import ROOT, commands_of, dry_run, project_in
from pages import blocks_of, follow
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.feedback.annotate import load_feedback
from prefloop.feedback.reward_sources import Request

PAGE = ROOT / "docs/walkthrough.md"
COMMANDS = [command for command in commands_of(PAGE) if command.startswith("snakemake ")]


@pytest.fixture
def folder(tmp_path):
    """The project with the files of the page, and with more prompts than the page shows."""
    project_in(tmp_path)
    for name in ("my_rewards.py", "mine.yaml", "my_evaluation.py"):
        (tmp_path / name).unlink(missing_ok=True)
    follow(PAGE, tmp_path)
    with (tmp_path / "questions.csv").open("a", newline="") as file:
        csv.writer(file).writerows([f"How do I return article {number}?", "returns"] for number in range(64))
    return tmp_path


@pytest.mark.parametrize("part", ["", "my_evaluation.py", "sweep="])
def test_commands_are_planned_with_the_files_of_the_page(folder, part):
    """Covers the first run, another evaluator and a sweep. test_documented_commands.py plans the other commands."""
    command = next(command for command in COMMANDS if part in command and "--dry-run" not in command)
    assert "results/mine" in dry_run(folder, command)


def test_too_few_rows_of_jsonl_are_refused_before_any_job(folder):
    """The page says so about JSONL. Rows of a CSV file are not counted before the first job."""
    rows = '{"question": "Which payment methods do you accept?"}\n' * 10
    (folder / "questions.jsonl").write_text(rows)
    config = (folder / "mine.yaml").read_text()
    (folder / "mine.yaml").write_text(config.replace("questions.csv", "questions.jsonl"))
    with pytest.raises(AssertionError, match="bandit.budget: 32 per step makes 64 prompts"):
        dry_run(folder, "snakemake --cores all --configfile mine.yaml")


@pytest.mark.parametrize(
    ("section", "function", "expected"),
    [
        ("feedback", None, [-28.0, -29.0 - 30.0]),
        ("evaluator", None, [0.5, 0.0]),
        ("evaluator", "my_evaluation.py:complete", [1.0, 0.0]),
    ],
)
def test_functions_of_the_page_score_two_responses(folder, monkeypatch, section, function, expected):
    """One response has two words, one of them from the question, and is finished; the other is one truncated word."""
    monkeypatch.chdir(folder)
    config = yaml.safe_load((folder / "mine.yaml").read_text())
    named = config["feedback"] if section == "feedback" else config["evaluation"]["evaluator"]
    prompt = [{"role": "user", "content": "return article"}]
    extra = [{"finish_reason": "stop"}, {"finish_reason": "length"}]
    requests = [
        Request("id", number, prompt, text, columns=columns)
        for number, (text, columns) in enumerate(zip(["Return it.", "hello"], extra, strict=True))
    ]
    source = load_feedback(FeedbackConfig(function=function or named["function"]), 1, section)
    assert source.rewards(requests) == pytest.approx(expected)


def test_peft_loads_the_folder_that_the_config_trains():
    """The path in the page's code has the config's name, one of its methods and seeds, and its last round."""
    blocks = {block.before: block for block in blocks_of(PAGE)}
    config = yaml.safe_load(blocks["New file `mine.yaml`:"].text)
    (code,) = [block.text for block in blocks.values() if "AutoPeftModelForCausalLM" in block.text]
    name, seed, rounds = config["name"], config["seeds"][0], config["rounds"]
    assert f'"results/{name}/{config["compare"][0]}/seed-{seed}/round-{rounds}/adapter"' in code
    assert f'"{config["policy"]["model"]}"' in code
