"""A new user's path with commands of the documentation, in a folder outside the clone.

The experiment has its own prompts, rewards and evaluation prompts, and a sweep. It is stopped with Ctrl-C during
training, started again, compared with a second experiment, and exported. transformers and peft load the export in a
process without this project.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import ROOT
from prefloop.core.jsonl import read_rows

TOPICS = ["a river", "the moon", 'a "lost" key', "bread, warm", "a storm", "chess", "a garden", "a train", "glass"]
TOPICS += ["winter", "a bridge", "salt", "an echo", "a map", "honey", "a kite", "stone", "a mirror", "rain", "wool"]
# A function gets what its parameters name (docs/data.md, docs/extending.md).
REWARDS = '''"""Rewards of my own."""


def vowels(responses, style):
    """More vowels are better, twice as much where the column `style` of the prompt's row asks for songs."""
    return [sum(letter in "aeiou" for letter in text) * (2 if kind == "song" else 1)
            for text, kind in zip(responses, style)]


def capitals(response):
    """Called once per response: more capital letters are better."""
    return sum(letter.isupper() for letter in response)


def brevity(responses, n_tokens):
    """Shorter is better."""
    return [-count for count in n_tokens]
'''
# As in README.md, with sizes for a random model. With save_every, Ctrl-C interrupts training after a saved state.
CONFIG = """
name: mine
seeds: [0]
rounds: 1
steps: 1
compare: [dota]
methods: {dota: {sweep: {train.beta: [0.05, 0.2]}}}
policy: {model: my_model}
prompts: {source: my_prompts.csv, columns: {prompt: question}, keep: [style]}
clusters: {k: 3}
bandit: {budget: 6}
generation: {n: 3, max_new_tokens: 12, dtype: float32}
feedback: {function: "my_rewards:vowels"}
logprobs: {dtype: float32}
pairs: {top_n: 8}
train: {dtype: float32, lora: {r: 4}, batch_size: 2, micro_batch_size: 2, epochs: 20, save_every: 2}
evaluation:
  prompts: {source: my_evaluation.jsonl, keep: [style]}
  max_new_tokens: 12
  dtype: float32
  evaluator: {function: "my_rewards.py:capitals"}
  evaluators: {brevity: {function: "my_rewards.py:brevity"}}
figures: [sweep]
tables: [results]
"""
RUN = "results/mine/dota_train_beta_0p05/seed-0/round-1"  # named as in docs/methods.md
# The differences of the second experiment that `make compare` gets.
SECOND = ["--config", "name=second", "compare=[uniform]", "train={beta: 0.5}", "figures=[]", "tables=[results]"]
# Files with measured seconds or the date. All other files are compared byte by byte.
MEASURED = re.compile(r"\.cost\.json$|/training_speed\.csv$")
# Another Python process runs this and prints greedy answers of an adapter and the exported model.
LOAD = """
import json, sys
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

adapter, folder = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
messages = [{"role": "user", "content": "Write one line about a river."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
models = AutoPeftModelForCausalLM.from_pretrained(adapter), AutoModelForCausalLM.from_pretrained(folder)
options = {"max_new_tokens": 8, "do_sample": False}
print(json.dumps([model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist() for model in models]))
print(json.dumps(sorted(name for name in sys.modules if name.startswith("prefloop"))))
"""


def write_files(folder: Path, model: Path) -> None:
    """Write the files of a new user: a model folder, prompts, an evaluation set, rewards and a config."""
    folder.mkdir()
    shutil.copytree(model, folder / "my_model")
    with (folder / "my_prompts.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["question", "style"])
        lines.writerows([f"Write one line about {topic}.", style] for topic in TOPICS for style in ("song", "plain"))
    rows = [{"prompt": f"Describe {topic} in one line.\nBe brief.", "style": "plain"} for topic in TOPICS[:6]]
    (folder / "my_evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my_rewards.py").write_text(REWARDS)
    (folder / "mine.yaml").write_text(CONFIG)


def environment() -> dict[str, str]:
    """Return the environment of a user's shell, without the variables of the tests."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PREFLOOP_LOG")}
    return inherited | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def command(*arguments: str) -> list[str]:
    """Return `snakemake -s CLONE/Snakefile --workflow-profile CLONE/profiles/cpu …`, as in docs/running.md.

    Targets come before --configfile, which would otherwise read them as files.
    """
    profile = ["--workflow-profile", str(ROOT / "profiles/cpu")]
    snakemake = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2"]
    return [*snakemake, *profile, *arguments, "--configfile", "mine.yaml"]


def run(folder: Path, words: list[str]) -> str:
    """Run a command that must succeed; return what it prints."""
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(words, cwd=folder, env=environment(), check=False, **output)
    assert done.returncode == 0, done.stdout
    return done.stdout


def interrupt_training(folder: Path) -> str:
    """Start the experiment and press Ctrl-C once training has saved a state; return the output."""
    with subprocess.Popen(
        command(),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,  # a terminal sends SIGINT to a whole process group
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background jobs
    ) as process:
        while process.poll() is None and not list(folder.glob("results/mine/*/seed-0/round-1/policy.partial/state.pt")):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        printed = process.communicate(timeout=300)[0]
    assert process.returncode != 0, printed
    return printed


def results_of(folder: Path) -> dict[str, bytes]:
    """Return the result files without measured seconds, by path."""
    root = folder / "results/mine"
    paths = [path for path in root.rglob("*") if path.is_file() and not MEASURED.search(str(path))]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


class Newcomer(NamedTuple):
    """A new user's folders and the terminal output."""

    folder: Path
    """The experiment without interruptions."""
    interrupted: Path
    """The experiment with Ctrl-C during training and a second start."""
    first: str
    second: str
    trained_before: int


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory, model_folders) -> Newcomer:
    """Run the experiment with Ctrl-C and a second start. Then train without interruption in a copy at the same path."""
    root = tmp_path_factory.mktemp("newcomer")
    folder, interrupted = root / "work", root / "interrupted"
    write_files(folder, model_folders["llama"])
    first = interrupt_training(folder)
    trained = len(list(folder.glob("results/mine/*/seed-0/round-1/policy.pt")))
    second = run(folder, command())
    folder.rename(interrupted)
    subprocess.run(["cp", "-a", str(interrupted), str(folder)], check=True)
    run(folder, command("--forcerun", "train"))
    return Newcomer(folder, interrupted, first, second, trained)


def test_plan_is_one_table(newcomer):
    """A finished experiment has nothing to do, and the plan of a longer one is less than 60 lines."""
    assert "Nothing to be done" in run(newcomer.folder, command("--dry-run"))
    planned = run(newcomer.folder, command("--dry-run", "--config", "rounds=2", "name=planned"))
    assert "planned: 2 methods x 1 seed (0) x 2 rounds" in planned
    assert re.search(r"^dota_train_beta_0p05 +2 +12 +36$", planned, re.MULTILINE), planned
    assert len(planned.splitlines()) < 60 and "input:" not in planned


def test_run_after_ctrl_c_gives_the_same_bytes(newcomer):
    assert newcomer.trained_before < 2
    logs = [path.read_text() for path in newcomer.interrupted.glob("results/logs/mine/*/seed-0/round-1/train.log")]
    assert any("resumes after step" in text for text in logs)
    policy = f"{RUN}/policy.pt"
    times = [(folder / policy).stat().st_mtime_ns for folder in (newcomer.interrupted, newcomer.folder)]
    assert times[0] < times[1], "trained again"
    expected, found = results_of(newcomer.folder), results_of(newcomer.interrupted)
    assert expected.keys() == found.keys()
    assert [path for path, content in expected.items() if content != found[path]] == []
    assert {"figures/sweep.pdf", "tables/results.csv", policy.removeprefix("results/mine/")} <= expected.keys()


def test_terminal_shows_one_line_per_stage_and_how_to_continue(newcomer):
    assert "Traceback" not in newcomer.first + newcomer.second
    assert "start again" in newcomer.first.splitlines()[-1], newcomer.first
    lines = newcomer.second.splitlines()
    progress = [line for line in lines if " steps (" in line]
    assert progress[-1].endswith("(100%) done")
    assert any("/seed-0/round-1: train: round 1" in line for line in progress)
    assert not any(line.startswith(("rule ", "localrule ")) for line in lines)


def test_own_columns_and_evaluators_work(newcomer):
    """The own function uses the column `style`, and evaluation prompts come from their own file."""
    run_folder = newcomer.folder / RUN / "step-1"
    texts = {(r["prompt_id"], r["response_id"]): r["response"] for r in read_rows(run_folder / "generations.jsonl")}
    styles = {row["prompt_id"]: row["meta"]["style"] for row in read_rows(run_folder / "prompts.jsonl")}
    for row in read_rows(run_folder / "rewards.jsonl"):
        vowels = sum(letter in "aeiou" for letter in texts[row["prompt_id"], row["response_id"]])
        assert row["reward"] == vowels * (2 if styles[row["prompt_id"]] == "song" else 1)
    judged = newcomer.folder / RUN / "evaluation/temperature-0.7"
    samples = {row["prompt_id"]: row["response"] for row in read_rows(judged / "samples.jsonl")}
    assert len(samples) == 6
    for row in read_rows(judged / "against-initial.jsonl"):
        assert row["reward"] == sum(letter.isupper() for letter in samples[row["prompt_id"]])
    lengths = {row["prompt_id"]: row["n_tokens"] for row in read_rows(judged / "samples.jsonl")}
    rows = read_rows(judged / "brevity/against-initial.jsonl")
    assert {row["prompt_id"]: row["reward"] for row in rows} == {key: -count for key, count in lengths.items()}


def test_make_status_and_compare(newcomer):
    folder = newcomer.folder
    makefile = str(ROOT / "Makefile")
    assert run(folder, ["make", "--no-print-directory", "-f", makefile, "status"]).startswith("mine: done")
    run(folder, command(*SECOND))
    # -o stops make from installing the environment, which already exists.
    make = ["make", "-o", ".venv/installed", "--no-print-directory", "-C", str(ROOT), "compare"]
    words = [f"A={folder}/results/mine", f"B={folder}/results/second", "PAIRS=dota_train_beta_0p05:uniform"]
    compared = run(folder, [*make, *words])
    assert re.search(r"train\.beta.*0\.5", compared), compared
    assert "dota_train_beta_0p05" in compared and "uniform" in compared, compared


def test_exported_model_loads_without_this_project(newcomer, tmp_path):
    """The merged model gives the same answers as the adapter."""
    run(newcomer.folder, command("export"))
    run_folder = newcomer.folder / RUN
    assert "Results" in (run_folder / "model/README.md").read_text()
    paths = [str(run_folder / name) for name in ("adapter", "model")]
    answers, modules = run(tmp_path, [sys.executable, "-I", "-W", "ignore", "-c", LOAD, *paths]).splitlines()[-2:]
    by_adapter, by_model = json.loads(answers)
    assert by_adapter == by_model and len(by_model) > 0
    assert json.loads(modules) == []
