"""The programs that write feedback, reward.py and compare_samples.py, with functions and a judge server."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from annotated_rows import answer, asks
from conftest import ROOT
from judge_server import JudgeServer, Reply
from prefloop.config.declarations import defaults, relevant
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.config.resolve import flags, merged
from prefloop.core.files import read_json
from prefloop.core.jsonl import read_rows, write_rows

KEY = "sk-test-9876543210-secret"
UNCLEAR = "Both replies are helpful."


# The judge server prefers the longer response, and gives an unclear answer if the prompt contains "nonsense".
def by_length(question: str) -> str:
    prompt, first, second = question.split("|")
    if "nonsense" in prompt:
        return UNCLEAR
    return "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


def run_program(name: str, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    """Run a program of the pipeline in `folder` with the judge's key in the environment."""
    (folder / "short.txt").write_text("{conversation}|{response_a}|{response_b}\n")
    environment = os.environ | {"JUDGE_KEY": KEY, "NO_PROXY": "127.0.0.1", "OPENAI_LOG": "debug"}
    command = [sys.executable, str(ROOT / "workflow/scripts" / name), *flags]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def judge_flags(name: str, server: JudgeServer) -> list[str]:
    settings = {
        "kind": "judge",
        "judge.base-url": server.url,
        "judge.model": "judge",
        "judge.template": "short.txt",
        "judge.api-key-env": "JUDGE_KEY",
        "judge.cache": "cache",
        "judge.max-retries": "0",
    }
    return [text for key, value in settings.items() for text in (f"--{name}.{key}", value)]


def assert_secret(folder: Path, *outputs: subprocess.CompletedProcess) -> None:
    """Check that the key is in no output, file name or file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    texts = [text for done in outputs for text in (done.stdout, done.stderr)]
    texts += [str(path) for path in files] + [path.read_text(errors="replace") for path in files]
    assert not any(KEY in text for text in texts)


def test_server_failures_lose_and_repeat_no_judgment(tmp_path):
    """Three of ten requests fail. The program then writes no output; repeated runs complete all judgments."""
    lengths = dict(enumerate([(2, 3, 4), (4, 3, 2), (3, 3, 2), (2, 4, 4), (3, 5, 2), (3, 3, 3), (5, 2, 4)]))
    prompts = {p: f"{'nonsense' if p == 4 else 'prompt'} {p}" for p in lengths}
    rows = [
        answer(f"p{p}", i, f"{'abc'[i]}{p}".ljust(n, "."), n_tokens=n)
        for p, sizes in lengths.items()
        for i, n in enumerate(sizes)
    ]
    rows = [{"cluster": 2, **row} for row in rows]
    write_rows(tmp_path / "prompts.jsonl", [{"prompt_id": f"p{p}", "messages": asks(t)} for p, t in prompts.items()])
    write_rows(tmp_path / "generations.jsonl", rows)
    failed, seen = [], set()

    def trouble(question, attempt, headers):
        seen.add(headers["authorization"])
        if int(hashlib.sha256(f"{question} {attempt}".encode()).hexdigest(), 16) % 10 >= 3:
            return None
        failed.append(question)
        return Reply(500, json.dumps({"error": {"message": f"no luck with {headers['authorization']}"}}))

    runs, files = [], ["--prompts", "prompts.jsonl", "--generations", "generations.jsonl"]
    files += ["--output", "rewards.jsonl", "--cost", "cost.json"]
    with JudgeServer(by_length, trouble) as server:
        while not runs or (runs[-1].returncode and len(runs) < 12):
            missing = 42 - sum(server.answered.values())
            runs.append(run_program("reward.py", tmp_path, *files, *judge_flags("feedback", server)))
            if runs[-1].returncode:
                assert f"of {missing} requests failed, the first with 500 Internal Server Error: " in runs[-1].stderr
                assert "running again continues with those that are missing" in runs[-1].stderr
                assert "Traceback" not in runs[-1].stderr
                assert not list(tmp_path.glob("*rewards.jsonl*")) and not list(tmp_path.glob("*cost.json*"))
    assert runs[-1].returncode == 0, runs[-1].stderr
    assert len(runs) > 1
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == 42
    assert sum(server.attempts.values()) == 42 + len(failed)
    assert seen == {f"Bearer {KEY}"}
    assert_secret(tmp_path, *runs)

    found = read_rows(tmp_path / "rewards.jsonl")
    fields = ("prompt_id", "cluster", "response_id")
    assert [[row[f] for f in fields] for row in found] == [[row[f] for f in fields] for row in rows]
    for row in found:
        p, i = int(row["prompt_id"][1:]), row["response_id"]
        own, others = lengths[p][i], [(j, n) for j, n in enumerate(lengths[p]) if j != i]
        scores = {j: 1.0 if own > n else 0.0 if own < n else 0.5 for j, n in others}
        if p == 4:
            assert (row["reward"], row["beats"]) == (None, [])
            assert row["judged"] == [[j, None, None] for j in range(i + 1, 3)]
        else:
            assert row["reward"] == pytest.approx(sum(scores.values()) / 2)
            assert row["beats"] == [j for j, score in scores.items() if score == 1]
            assert row["judged"] == [[j, scores[j], scores[j]] for j in range(i + 1, 3)]
    cost = read_json(tmp_path / "cost.json")
    counts = cost["judge"]["outcomes"]
    assert (cost["device"], cost["flops"], cost["judge"]["pairs"]) == ("server", 0, 21)
    assert (cost["tokens_in"], cost["tokens_out"]) == (42 * 100, 42 * 2), "the total over all runs"
    assert (counts["invalid"], counts["tie"], counts["A"] + counts["B"]) == (3, 5, 13)
    assert cost["judge"]["asked"] == missing
    assert cost["judge"]["cached"] == 42 - missing
    assert cost["judge"]["longer_won"] == [13, 13]


def test_chosen_responses_are_an_opponent(tmp_path, manifests):
    """Prompts without a chosen response are left out and counted. Lengths are in the policy's tokens, including EOS."""
    (tmp_path / "own.py").write_text("def length(prompts, responses):\n    return [len(r) for r in responses]\n")
    rows = [{"prompt_id": name, "messages": asks(name)} for name in ("p", "q", "r")]
    rows[0]["chosen"], rows[1]["chosen"] = "goo", "a"
    write_rows(tmp_path / "prompts.jsonl", rows)
    write_rows(tmp_path / "samples.jsonl", [answer(row["prompt_id"], 0, "ab", n_tokens=3) for row in rows])
    flags = ["--prompts", "prompts.jsonl", "--samples", "samples.jsonl", "--tokenizer", str(manifests["llama"])]
    flags += ["--evaluator.function", "own:length", "--feedback.function", "own:length"]
    flags += ["--output", "judgments.jsonl", "--cost", "cost.json"]
    done = run_program("compare_samples.py", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    found = read_rows(tmp_path / "judgments.jsonl")
    assert [(row["prompt_id"], row["outcome"], row["reward_opponent"]) for row in found] == [
        ("p", "loss", 3.0),
        ("q", "win", 1.0),
    ]
    tokenizer = AutoTokenizer.from_pretrained(manifests["llama"].parent)

    def count(text: str) -> int:
        return len(tokenizer(f"<assistant>{text}", add_special_tokens=False)["input_ids"])

    expected = [count(f"{text}</s>") - count("") for text in ("goo", "a")]
    assert [row["n_tokens_opponent"] for row in found] == expected
    assert "compare_samples: 2 of 3 prompts have a chosen response" in done.stdout

    write_rows(tmp_path / "prompts.jsonl", [{k: v for k, v in row.items() if k != "chosen"} for row in rows])
    assert "no prompt has a chosen response" in run_program("compare_samples.py", tmp_path, *flags).stderr


@pytest.mark.parametrize("opponent", ["initial", "chosen"])
def test_samples_are_compared_by_number(tmp_path, manifests, opponent):
    """The opponent is the sample with the same number, at any position in the file, or the chosen response."""
    (tmp_path / "own.py").write_text("def length(prompts, responses):\n    return [len(r) for r in responses]\n")
    rows = [{"prompt_id": name, "messages": asks(name), "chosen": "four"} for name in "pq"]
    write_rows(tmp_path / "prompts.jsonl", rows)
    samples = [answer(name, i, text) for name in "pq" for i, text in enumerate(["a", "bbbbb"])]
    write_rows(tmp_path / "samples.jsonl", samples)
    theirs = [answer(name, i, text) for name in "pq" for i, text in enumerate(["aaa", "bbb"])]
    write_rows(tmp_path / "theirs.jsonl", theirs[::-1])
    flags = ["--prompts", "prompts.jsonl", "--samples", "samples.jsonl"]
    flags += ["--evaluator.function", "own:length", "--feedback.function", "own:length"]
    flags += ["--output", "judgments.jsonl", "--cost", "cost.json"]
    of_initial, of_chosen = ["--opponent", "theirs.jsonl"], ["--tokenizer", str(manifests["llama"])]
    done = run_program("compare_samples.py", tmp_path, *flags, *(of_initial if opponent == "initial" else of_chosen))
    assert done.returncode == 0, done.stderr
    found = read_rows(tmp_path / "judgments.jsonl")
    length = 3.0 if opponent == "initial" else 4.0
    names = ("prompt_id", "sample", "outcome", "reward", "reward_opponent")
    assert [tuple(row[name] for name in names) for row in found] == [
        (name, *values) for name in "pq" for values in [(0, "loss", 1.0, length), (1, "win", 5.0, length)]
    ]
    write_rows(tmp_path / "theirs.jsonl", theirs[:3])
    done = run_program("compare_samples.py", tmp_path, *flags, *of_initial)
    assert "theirs.jsonl: no sample 1 for prompt q, which samples.jsonl has" in done.stderr


def test_server_evaluates_against_the_opponent(tmp_path):
    """The program writes the judge's outcomes and the rewards of the training feedback."""
    texts = {"p": ("longer", "short"), "q": ("a", "bb"), "r": ("even", "size"), "nonsense": ("x", "yy")}
    (tmp_path / "own_dots.py").write_text(
        "def vowels(prompts, responses):\n    return [sum(c in 'aeiou' for c in r) for r in responses]\n"
    )
    write_rows(tmp_path / "prompts.jsonl", [{"prompt_id": name, "messages": asks(name)} for name in texts])
    write_rows(tmp_path / "samples.jsonl", [answer(name, 0, ours, n_tokens=3) for name, (ours, _) in texts.items()])
    opponents = [answer(name, 0, theirs, n_tokens=2) for name, (_, theirs) in reversed(texts.items())]
    write_rows(tmp_path / "opponent.jsonl", opponents)
    flags = ["--prompts", "prompts.jsonl", "--samples", "samples.jsonl", "--opponent", "opponent.jsonl"]
    flags += ["--feedback.function", "own_dots:vowels", "--output", "judgments.jsonl", "--cost", "cost.json"]
    with JudgeServer(by_length) as server:
        done = run_program("compare_samples.py", tmp_path, *flags, *judge_flags("evaluator", server))
    assert done.returncode == 0, done.stderr
    assert set(server.attempts.values()) == {1} and len(server.attempts) == 8
    names = ["prompt_id", "outcome", "reward", "reward_opponent", "preference", "feedback", "feedback_opponent"]
    names += ["n_tokens", "n_tokens_opponent"]
    rows = read_rows(tmp_path / "judgments.jsonl")
    assert [row.pop("answers")[0] for row in rows] == [["A", ""], ["B", ""], ["tie", ""], [UNCLEAR, "unclear"]]
    assert rows == [
        dict(zip(names, row, strict=True))
        for row in [
            ("p", "win", None, None, 1.0, 2.0, 1.0, 3, 2),
            ("q", "loss", None, None, 0.0, 1.0, 0.0, 3, 2),
            ("r", "tie", None, None, 0.5, 2.0, 2.0, 3, 2),
            ("nonsense", "invalid", None, None, None, 0.0, 0.0, 3, 2),
        ]
    ]
    assert (
        "compare_samples: 4 samples in " in done.stdout
        and " samples/s), 1 win, 1 tie, 1 loss, 1 invalid" in done.stdout
    )
    assert read_json(tmp_path / "cost.json")["judge"]["outcomes"] == {"A": 1, "B": 1, "tie": 1, "invalid": 1}
    assert_secret(tmp_path, done)


def write_step(folder: Path, responses: list[str], **prompt) -> list[str]:
    """Write one prompt with these responses to a folder; return the flags of a program that rewards them."""
    write_rows(folder / "prompts.jsonl", [{"prompt_id": "p", "messages": asks("why")} | prompt])
    rows = [answer("p", i, response) | {"finish_reason": "stop"} for i, response in enumerate(responses)]
    write_rows(folder / "generations.jsonl", rows)
    flags = {"prompts": "prompts.jsonl", "generations": "generations.jsonl", "output": "out.jsonl", "cost": "cost.json"}
    return [text for name, value in flags.items() for text in (f"--{name}", value)]


def test_mostly_invalid_judgments_warn_in_log_and_status(tmp_path, monkeypatch):
    """The stage succeeds. Its warning shows the first raw answer and what to change."""
    monkeypatch.setenv("PREFLOOP_LOG", str(tmp_path / "reward.log"))
    flags = write_step(tmp_path, ["yes", "no", "perhaps"])
    with JudgeServer(lambda question: "<think>Let me see") as server:
        done = run_program("reward.py", tmp_path, *flags, *judge_flags("feedback", server))
    assert done.returncode == 0, done.stderr
    warning = read_json(tmp_path / "reward.status.json")["warning"]
    assert warning.startswith("3 of 3 judgments are invalid (answers: 6 thoughts); the first answer is '<think>Let me")
    assert f"WARNING: {warning}" in done.stdout.splitlines()
    assert read_json(tmp_path / "cost.json")["judge"]["invalid_answers"]["thoughts"] == 6
    rows = read_rows(tmp_path / "out.jsonl")
    assert rows[0]["answers"] == [[["<think>Let me see", "thoughts"]] * 2] * 2


def test_request_settings_reach_the_server(tmp_path):
    """Settings go from the config through flags to the body of a request."""
    judge = {
        "base_url": "URL",
        "model": "big",
        "template": "short.txt",
        "request": {"drop": ["temperature"], "extra": {"effort": {"of": "low"}}},
    }
    settings = {
        "kind": "judge",
        "judge": judge,
        "chat_template_kwargs": {"enable_thinking": False},
        "system_prompt": "Hm",
    }
    flags_of_step = write_step(tmp_path, ["yes", "no"])
    with JudgeServer(by_length) as server:
        judge["base_url"] = server.url
        feedback = relevant(merged(defaults(FeedbackConfig), settings), FeedbackConfig)
        words = shlex.split(flags({"feedback": feedback}))
        done = run_program("reward.py", tmp_path, *flags_of_step, *words)
    assert done.returncode == 0, done.stderr
    body = server.bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "Hm"}
    assert {name: value for name, value in body.items() if name != "messages"} == {
        "model": "big",
        "max_tokens": 16,
        "effort": {"of": "low"},
        "chat_template_kwargs": {"enable_thinking": False},
    }


@pytest.mark.parametrize("strip", [True, False])
def test_thoughts_are_not_scored(tmp_path, strip):
    """Closed blocks are optionally removed. An open block is scored unchanged and counted."""
    (tmp_path / "own.py").write_text("def length(prompts, responses):\n    return [len(r) for r in responses]\n")
    responses = ["<think>a</think>\n\nHello", "<think>a", "Hi"]
    flags = [*write_step(tmp_path, responses), "--feedback.function", "own.py:length", "--feedback.strip-thinking"]
    done = run_program("reward.py", tmp_path, *flags, str(strip))
    assert done.returncode == 0, done.stderr
    rewards = [row["reward"] for row in read_rows(tmp_path / "out.jsonl")]
    assert rewards == ([5.0, 8.0, 2.0] if strip else [23.0, 8.0, 2.0])
    assert read_json(tmp_path / "cost.json")["unfinished_thoughts"] == 1
    assert "reward: 1 responses are unfinished thoughts and are scored unchanged" in done.stdout


def test_evaluator_does_not_score_thoughts(tmp_path):
    (tmp_path / "own.py").write_text("def length(prompts, responses):\n    return [len(r) for r in responses]\n")
    write_rows(tmp_path / "prompts.jsonl", [{"prompt_id": "p", "messages": asks("why")}])
    write_rows(tmp_path / "samples.jsonl", [answer("p", 0, "<think>long thoughts</think>no")])
    write_rows(tmp_path / "opponent.jsonl", [answer("p", 0, "longer")])
    flags = ["--prompts", "prompts.jsonl", "--samples", "samples.jsonl", "--opponent", "opponent.jsonl"]
    flags += ["--evaluator.function", "own.py:length", "--feedback.function", "own.py:length"]
    flags += ["--feedback.strip-thinking", "False", "--output", "out.jsonl", "--cost", "cost.json"]
    done = run_program("compare_samples.py", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    (row,) = read_rows(tmp_path / "out.jsonl")
    assert (row["outcome"], row["reward"], row["reward_opponent"], row["feedback"]) == ("loss", 2.0, 6.0, 30.0)


def test_function_outside_the_working_directory_gets_columns(tmp_path):
    """The path may be absolute or relative to the working directory. Columns include the prompt's meta."""
    (tmp_path / "work").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/rewards.py").write_text(
        "async def right(response, answer, finish_reason, n_tokens):\n"
        "    return (response == answer) + 10 * (finish_reason == 'stop') + 100 * n_tokens\n"
    )
    flags = write_step(tmp_path / "work", ["41", "42"], meta={"answer": "42"})
    for path in (str(tmp_path / "elsewhere/rewards.py"), "../elsewhere/rewards.py"):
        done = run_program("reward.py", tmp_path / "work", *flags, "--feedback.function", f"{path}:right")
        assert done.returncode == 0, done.stderr
        assert [row["reward"] for row in read_rows(tmp_path / "work/out.jsonl")] == [110.0, 111.0]
    (tmp_path / "elsewhere/rewards.py").write_text("def right(response, result):\n    return 0\n")
    done = run_program("reward.py", tmp_path / "work", *flags, "--feedback.function", f"{path}:right")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: prompt p: no result, which feedback.function asks for; list the column in prompts.keep"
    )
