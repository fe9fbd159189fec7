"""The reward function of docs/extending.md rewards reference answers that come from the source via prompts.jsonl."""

import json
import re
import subprocess
import sys

import yaml

from conftest import ROOT, TINY, merge
from prefloop.config.validation import checked
from prefloop.core.jsonl import read_rows, write_rows

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8").split("## A reward function\n")[1].split("\n## ")[0]
PROMPTS = ROOT / "workflow/prompts/instructions.jsonl"


def start(program: str, folder, **flags) -> None:
    words = [
        text for name, value in flags.items() for text in (f"--{name.replace('__', '.').replace('_', '-')}", str(value))
    ]
    command = [sys.executable, ROOT / f"workflow/scripts/{program}.py", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_function_of_the_page_rewards_correct_answers(tmp_path, monkeypatch, manifests):
    """42 is correct, 41 is not, and a truncated response has no reward."""
    code, config = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL), re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    asked = json.loads(re.search(r"such as `(\{.*?\})`", PAGE)[1])
    (tmp_path / "math_rewards.py").write_text(code[1])
    write_rows(tmp_path / "questions.jsonl", [asked, *({"question": f"{n}?", "answer": n} for n in range(60))])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    settings = merge(merge(TINY, {"policy": {"model": "some/model"}}), yaml.safe_load(config[1]))
    resolved = checked(settings)
    start(
        "prepare_prompts",
        tmp_path,
        packaged=PROMPTS,
        model=manifests["llama"],
        source=resolved["prompts"]["source"],
        columns__prompt=resolved["prompts"]["columns"]["prompt"],
        keep=" ".join(resolved["prompts"]["keep"]),
        train="train.jsonl",
        eval="eval.jsonl",
        chat="chat.json",
        provenance="sources.json",
    )
    rows = [*read_rows(tmp_path / "train.jsonl"), *read_rows(tmp_path / "eval.jsonl")]
    (prompt,) = [row for row in rows if row["messages"][0]["content"] == asked["question"]]
    write_rows(tmp_path / "prompts.jsonl", [prompt])
    texts = [("6 times 7 is 42.", "stop"), ("It is 41.", "stop"), ("It is 42", "length"), ("No idea.", "stop")]
    usual = {"prompt_id": prompt["prompt_id"], "cluster": 0, "component": "policy", "n_tokens": 5}
    write_rows(
        tmp_path / "generations.jsonl",
        (
            usual | {"response_id": i, "response": text, "finish_reason": reason}
            for i, (text, reason) in enumerate(texts)
        ),
    )
    start(
        "reward",
        tmp_path,
        prompts="prompts.jsonl",
        generations="generations.jsonl",
        feedback__function=resolved["feedback"]["function"],
        output="rewards.jsonl",
        cost="cost.json",
    )
    assert [row["reward"] for row in read_rows(tmp_path / "rewards.jsonl")] == [1.0, 0.0, 0.0, 0.0]
