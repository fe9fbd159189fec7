"""Feedback: functions and reward models and what happens when they misbehave, judges' verdicts as rows."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tiny
from conftest import ROOT
from judge_server import JudgeServer, Reply
from prefloop.costs import CostMeter
from prefloop.feedback import FEEDBACK, Settings, annotate, contest, rewards_of
from prefloop.fetch import fetch
from prefloop.lexicons import afinn, vader
from prefloop.rows import InputError, read_json, read_rows, write_rows
from prefloop.verdicts import Verdict

PROMPT = [{"role": "user", "content": "why?"}]
IDS = [("p1", 0), ("p2", 1)]
KEY = "sk-test-9876543210-secret"


def test_lexicons_tell_praise_from_blame():
    praise, blame, neither = "What a wonderful, happy day!", "This is terrible and sad.", "The table has four legs."
    for lexicon in (vader, afinn):
        scores = lexicon([PROMPT] * 3, [praise, neither, blame])
        assert scores[0] > scores[1] > scores[2]
    assert vader([PROMPT], [neither]) == [0.0]
    assert afinn([PROMPT], ["good bad awesome"]) == [3 - 3 + 4]


def test_function_is_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def words(prompts, responses):\n    return [len(r.split()) for r in responses]\n"
    )
    monkeypatch.chdir(tmp_path)
    score = FEEDBACK["function"](Settings(function="my_rewards:words"), 1)
    assert rewards_of(score, [PROMPT] * 2, ["a b c", "d"], IDS) == [3.0, 1.0]
    with pytest.raises(InputError, match="module my_rewards has no word"):
        FEEDBACK["function"](Settings(function="my_rewards:word"), 1)
    with pytest.raises(InputError, match="cannot import absent_module"):
        FEEDBACK["function"](Settings(function="absent_module:word"), 1)
    (tmp_path / "torn_rewards.py").write_text("def words(:\n")
    with pytest.raises(InputError, match="cannot import torn_rewards .SyntaxError"):
        FEEDBACK["function"](Settings(function="torn_rewards:words"), 1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p, r: [1.0, float("nan")], "nan for prompt p2, response 1"),
        (lambda p, r: [1.0, None], "None for prompt p2, response 1"),
        (lambda p, r: [1.0], "1 rewards for 2 responses"),
        (lambda p, r: None, "returned NoneType, expected a list of numbers"),
        (lambda p, r: [1.0 / (x != "bad") for x in r], "ZeroDivisionError.*first for prompt p2, response 1"),
    ],
)
def test_misbehaving_functions_are_named(function, message):
    with pytest.raises(InputError, match=message):
        rewards_of(function, [PROMPT] * 2, ["good", "bad"], IDS)


def test_reward_model_scores_through_its_chat_template(tmp_path):
    folder = tiny.make_reward_model(tmp_path / "rm")
    fetch(str(folder), tmp_path / "fetched")
    score = FEEDBACK["reward_model"](Settings(kind="reward_model", model=tmp_path / "fetched/manifest.json"), 1)
    responses = ["good", "a much longer reply"]
    rewards = rewards_of(score, [PROMPT] * 2, responses, IDS)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    words = tiny.tokenizer()
    for response, reward in zip(responses, rewards, strict=True):
        text = f"<s><user>why?</s><assistant>{response}</s>"
        ids = torch.tensor([words(text, add_special_tokens=False)["input_ids"]])
        assert reward == pytest.approx(model(input_ids=ids).logits.item(), abs=1e-5)
    assert score.tokens > 0


def test_a_reward_model_without_padding_token_reads_the_same(tmp_path):
    """EOS ends its template, so it must not stand for padding: rewards equal those of the model that has a token."""
    scores = []
    for name in ("with", "without"):
        folder = tiny.make_reward_model(tmp_path / name)
        if name == "without":
            for file in (folder / "config.json", folder / "tokenizer_config.json"):
                settings = json.loads(file.read_text())
                settings.pop("pad_token", None), settings.pop("pad_token_id", None)
                file.write_text(json.dumps(settings))
        fetch(str(folder), tmp_path / f"{name}-fetched")
        manifest = tmp_path / f"{name}-fetched/manifest.json"
        score = FEEDBACK["reward_model"](Settings(kind="reward_model", model=manifest), 1)
        scores.append(score([PROMPT] * 2, ["good", "a much longer reply"]))
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_a_pickled_reward_model_keeps_its_head(tmp_path):
    folder = tiny.make_reward_model(tmp_path / "rm")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    fetch(str(folder), tmp_path / "fetched")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "fetched")
    assert (again.score.weight == model.score.weight).all()


def test_a_language_model_is_no_reward_model(model_folders, tmp_path):
    """Its head would be drawn at random, and the rewards with it."""
    fetch(str(model_folders["llama"]), tmp_path / "fetched")
    settings = json.loads((tmp_path / "fetched/config.json").read_text()) | {
        "num_labels": 1,
        "id2label": {"0": "reward"},
    }
    (tmp_path / "fetched/config.json").unlink()
    (tmp_path / "fetched/config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="not a trained reward model, it lacks score.weight"):
        FEEDBACK["reward_model"](Settings(kind="reward_model", model=tmp_path / "fetched/manifest.json"), 1)


def test_a_classifier_with_two_logits_is_no_reward_model(tmp_path):
    fetch(str(tiny.make_reward_model(tmp_path / "rm", labels=2)), tmp_path / "fetched")
    with pytest.raises(InputError, match="one logit, this classifier has 2"):
        FEEDBACK["reward_model"](Settings(kind="reward_model", model=tmp_path / "fetched/manifest.json"), 1)


def asks(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def answer(prompt_id: str, response_id: int, response: str, component: str = "policy", n_tokens: int = 1) -> dict:
    return {
        "prompt_id": prompt_id,
        "cluster": 0,
        "response_id": response_id,
        "response": response,
        "component": component,
        "n_tokens": n_tokens,
    }


def said(rows: list[dict]) -> list[dict]:
    """What annotate says of responses, without which response each row is of."""
    return [{k: v for k, v in row.items() if k not in ("prompt_id", "cluster", "response_id")} for row in rows]


def test_a_data_set_prefers_what_it_has_chosen():
    rows = [answer("p", 0, "no", "rejected"), answer("p", 1, "yes", "chosen"), answer("q", 0, "yes", "chosen")]
    meter = CostMeter("reward")
    found = annotate(Settings(kind="dataset"), 1, {"p": asks("a"), "q": asks("b")}, rows, meter)
    assert said(found) == [{"reward": 0.0}, {"reward": 1.0}, {"reward": 1.0}]
    assert [(row["prompt_id"], row["response_id"]) for row in found] == [("p", 0), ("p", 1), ("q", 0)]
    assert (meter.notes, meter.tokens_in, meter.flops) == ({}, 0, 0)


def test_a_function_scores_every_response_with_its_own_prompt(tmp_path, monkeypatch):
    """The fields are the function's rewards in the order of the rows, wherever prompts and rows stand."""
    (tmp_path / "own_rewards.py").write_text(
        "def score(prompts, responses):\n"
        "    return [int(p[0]['content']) + len(r) for p, r in zip(prompts, responses, strict=True)]\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = Settings(function="own_rewards:score")
    prompts = {"p": asks("100"), "unanswered": asks("0"), "q": asks("200")}
    rows = [answer("q", 0, "aaa"), answer("p", 0, "b"), answer("q", 1, "")]
    assert said(annotate(settings, 1, prompts, rows, CostMeter("reward"))) == [
        {"reward": 203.0},
        {"reward": 101.0},
        {"reward": 200.0},
    ]
    (tmp_path / "torn_score.py").write_text(
        "def score(prompts, responses):\n    return [float('nan')] * len(responses)\n"
    )
    with pytest.raises(InputError, match="nan for prompt q, response 0"):
        annotate(Settings(function="torn_score:score"), 1, prompts, rows, CostMeter("reward"))


class StubJudge:
    """Answers with the verdicts it was given, by (response a, response b); `compared` are the pairs it was asked."""

    asked, cached, retried = 5, 6, 7
    tokens, parameters, device = 10, 3, "server"

    def __init__(self, verdicts: dict[tuple[str, str], Verdict]):
        self.verdicts, self.compared = verdicts, []

    def compare(self, prompts, a, b) -> list[Verdict]:
        self.compared += zip([prompt[0]["content"] for prompt in prompts], a, b, strict=True)
        return [self.verdicts[pair] for pair in zip(a, b, strict=True)]


@pytest.fixture
def judged_by(monkeypatch):
    """Put a stub in the place of every judge: judged_by({(a, b): verdict, …})."""

    def use(verdicts: dict[tuple[str, str], Verdict]) -> StubJudge:
        stub = StubJudge(verdicts)
        monkeypatch.setitem(FEEDBACK, "judge", lambda settings, threads: stub)
        return stub

    return use


def test_verdicts_become_rewards_by_hand(judged_by):
    """Prompt p has a win, a tie and an invalid pair, q one uneven win, and r a single response nobody can meet."""
    stub = judged_by(
        {
            ("x", "y"): Verdict(1.0, 1.0),  # x wins
            ("x", "z"): Verdict(1.0, 0.0),  # each order its own winner: a tie
            ("y", "z"): Verdict(None, 1.0),  # invalid, whatever the other order says
            ("u", "v"): Verdict(0.0, 0.25),  # v wins, and u is better with probability (0 + ¼)/2
        }
    )
    rows = [  # prompts mixed, and ids that are no places
        answer("p", 14, "x", n_tokens=9),
        answer("q", 3, "u", n_tokens=4),
        answer("p", 17, "y", n_tokens=2),
        answer("r", 0, "w"),
        answer("q", 8, "v", n_tokens=3),
        answer("p", 11, "z", n_tokens=1),
    ]
    prompts = {name: asks(f"about {name}") for name in "pqr"}
    meter = CostMeter("reward")
    assert said(annotate(Settings(kind="judge"), 1, prompts, rows, meter)) == [
        {"reward": 0.75, "beats": [17], "judged": [[17, 1.0, 1.0], [11, 1.0, 0.0]]},
        {"reward": 0.125, "beats": [], "judged": [[8, 0.0, 0.25]]},
        {"reward": 0.0, "beats": [], "judged": [[11, None, 1.0]]},
        {"reward": None, "beats": [], "judged": []},
        {"reward": 0.875, "beats": [3], "judged": []},
        {"reward": 0.5, "beats": [], "judged": []},
    ]
    assert stub.compared == [
        ("about p", "x", "y"),
        ("about p", "x", "z"),
        ("about p", "y", "z"),
        ("about q", "u", "v"),
    ]
    assert meter.notes["judge"] == {
        "pairs": 4,
        "outcomes": {"A": 1, "B": 1, "tie": 1, "invalid": 1},
        "position_flip_rate": [1, 3],
        # Shown first: x won and lost against y, x and z won against each other, u lost and v won, and z lost to y.
        "first_position_share": [4, 7],
        "longer_won": [1, 2],  # x of 9 tokens beat y of 2, v of 3 beat u of 4
        "asked": 5,
        "cached": 6,
        "retried": 7,
    }
    assert (meter.device, meter.tokens_in, meter.flops) == ("server", 10, 2 * 3 * 10)


def test_a_response_without_a_valid_verdict_has_no_reward(judged_by):
    """Neither a zero nor a half: of three responses the one whose every pair is invalid has none."""
    judged_by(
        {("x", "y"): Verdict(None, None), ("x", "z"): Verdict(0.0, None), ("y", "z"): Verdict(0.0, 0.0)},
    )
    rows = [answer("p", i, response) for i, response in enumerate("xyz")]
    found = annotate(Settings(kind="judge"), 1, {"p": asks("?")}, rows, CostMeter("reward"))
    assert [row["reward"] for row in found] == [None, 0.0, 1.0]
    assert [row["beats"] for row in found] == [[], [], [1]]


@pytest.mark.parametrize("sizes", [(1,), (2,), (5,), (1, 4, 2), (3, 3)])
def test_every_two_responses_of_a_prompt_meet_once_and_no_others(judged_by, sizes):
    responses = [(f"p{p}", i, f"p{p}-{i}") for p, size in enumerate(sizes) for i in range(size)]
    everyone = [response for _, _, response in responses]
    stub = judged_by({(a, b): Verdict(0.5, 0.5) for a in everyone for b in everyone})
    rows = sorted((answer(*row) for row in responses), key=lambda row: row["response_id"])  # prompts take turns
    prompts = {f"p{p}": asks(f"p{p}") for p in range(len(sizes))}
    annotate(Settings(kind="judge"), 1, prompts, rows, CostMeter("reward"))
    for prompt, a, b in stub.compared:
        assert a.split("-")[0] == b.split("-")[0] == prompt
    met = Counter(frozenset((a, b)) for _, a, b in stub.compared)
    assert set(met.values()) <= {1}
    assert all(len(pair) == 2 for pair in met)
    assert len(stub.compared) == sum(n * (n - 1) // 2 for n in sizes)


def test_contest_by_a_function(tmp_path, monkeypatch):
    (tmp_path / "own_lengths.py").write_text(
        "def length(prompts, responses):\n    return [len(r) for r in responses]\n"
    )
    monkeypatch.chdir(tmp_path)
    ours = [answer("p", 0, "long"), answer("q", 0, "no"), answer("r", 0, "same")]
    theirs = [answer("p", 5, "no"), answer("q", 5, "long"), answer("r", 5, "size")]
    found = contest(Settings(function="own_lengths:length"), 1, [PROMPT] * 3, ours, theirs, CostMeter("judge"))
    assert found == [
        {"outcome": "win", "reward": 4.0, "reward_opponent": 2.0},
        {"outcome": "loss", "reward": 2.0, "reward_opponent": 4.0},
        {"outcome": "tie", "reward": 4.0, "reward_opponent": 4.0},
    ]


def test_contest_by_a_judge(judged_by):
    """A judge rewards nothing; it prefers with a probability, and an invalid contest has none."""
    stub = judged_by(
        {
            ("a", "A"): Verdict(1.0, 0.5),
            ("b", "B"): Verdict(0.25, 0.0),
            ("c", "C"): Verdict(0.0, 1.0),
            ("d", "D"): Verdict(1.0, None),
        }
    )
    ours = [answer(f"p{r}", 0, r, n_tokens=2) for r in "abcd"]
    theirs = [answer(f"p{r.lower()}", 0, r, n_tokens=1) for r in "ABCD"]
    meter = CostMeter("judge")
    found = contest(Settings(kind="judge"), 1, [asks(f"p{r}") for r in "abcd"], ours, theirs, meter)
    assert found == [
        {"outcome": "win", "reward": None, "reward_opponent": None, "preference": 0.75},
        {"outcome": "loss", "reward": None, "reward_opponent": None, "preference": 0.125},
        {"outcome": "tie", "reward": None, "reward_opponent": None, "preference": 0.5},
        {"outcome": "invalid", "reward": None, "reward_opponent": None, "preference": None},
    ]
    assert stub.compared == [("pa", "a", "A"), ("pb", "b", "B"), ("pc", "c", "C"), ("pd", "d", "D")]
    assert meter.notes["judge"]["outcomes"] == {"A": 1, "B": 1, "tie": 1, "invalid": 1}
    assert (meter.notes["judge"]["longer_won"], meter.notes["judge"]["asked"]) == ([1, 2], 5)


# The server's judge finds the longer response better, and cannot make sense of a prompt that says so.
def by_length(question: str) -> str:
    prompt, first, second = question.split("|")
    if "nonsense" in prompt:
        return "Both replies are helpful."
    return "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


def run_program(name: str, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    """Run a program of the pipeline in `folder`, with the judge's key in its environment."""
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
    """The key is in no output, and in no file's name or content."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    texts = [text for done in outputs for text in (done.stdout, done.stderr)]
    texts += [str(path) for path in files] + [path.read_text(errors="replace") for path in files]
    assert not any(KEY in text for text in texts)


def test_a_failing_server_costs_no_verdict_and_repeats_none(tmp_path):
    """Three requests in ten fail: the program says so and writes nothing, and run until it ends it has lost nothing."""
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
    assert (cost["tokens_in"], cost["tokens_out"]) == (42 * 100, 42 * 2), "those of every run together"
    assert (counts["invalid"], counts["tie"], counts["A"] + counts["B"]) == (3, 5, 13)
    assert cost["judge"]["asked"] == missing
    assert cost["judge"]["cached"] == 42 - missing
    assert cost["judge"]["longer_won"] == [13, 13]


def test_chosen_responses_are_an_opponent(tmp_path, manifests):
    """Prompts without one are left out and counted; their length is that of the model's own tokens, EOS included."""
    (tmp_path / "own.py").write_text("def length(prompts, responses):\n    return [len(r) for r in responses]\n")
    rows = [{"prompt_id": name, "messages": asks(name)} for name in ("p", "q", "r")]
    rows[0]["chosen"], rows[1]["chosen"] = "goo", "a"
    write_rows(tmp_path / "prompts.jsonl", rows)
    write_rows(tmp_path / "samples.jsonl", [answer(row["prompt_id"], 0, "ab", n_tokens=3) for row in rows])
    flags = ["--prompts", "prompts.jsonl", "--samples", "samples.jsonl", "--tokenizer", str(manifests["llama"])]
    flags += ["--evaluator.function", "own:length", "--feedback.function", "own:length"]
    flags += ["--output", "verdicts.jsonl", "--cost", "cost.json"]
    done = run_program("judge.py", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    found = read_rows(tmp_path / "verdicts.jsonl")
    assert [(row["prompt_id"], row["outcome"], row["reward_opponent"]) for row in found] == [
        ("p", "loss", 3.0),
        ("q", "win", 1.0),
    ]
    tokenizer = AutoTokenizer.from_pretrained(manifests["llama"].parent)
    expected = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in ("goo", "a")]
    assert [row["n_tokens_opponent"] for row in found] == expected
    assert "judge: 2 of 3 prompts have a chosen response" in done.stdout

    write_rows(tmp_path / "prompts.jsonl", [{k: v for k, v in row.items() if k != "chosen"} for row in rows])
    assert "no prompt has a chosen response" in run_program("judge.py", tmp_path, *flags).stderr


def test_a_server_evaluates_against_the_opponent(tmp_path):
    """The program's verdicts are the judge's, and beside them stands the reward of the training feedback."""
    texts = {"p": ("longer", "short"), "q": ("a", "bb"), "r": ("even", "size"), "nonsense": ("x", "yy")}
    (tmp_path / "own_dots.py").write_text(
        "def vowels(prompts, responses):\n    return [sum(c in 'aeiou' for c in r) for r in responses]\n"
    )
    write_rows(tmp_path / "prompts.jsonl", [{"prompt_id": name, "messages": asks(name)} for name in texts])
    write_rows(tmp_path / "samples.jsonl", [answer(name, 0, ours, n_tokens=3) for name, (ours, _) in texts.items()])
    opponents = [answer(name, 0, theirs, n_tokens=2) for name, (_, theirs) in reversed(texts.items())]
    write_rows(tmp_path / "opponent.jsonl", opponents)
    flags = ["--prompts", "prompts.jsonl", "--samples", "samples.jsonl", "--opponent", "opponent.jsonl"]
    flags += ["--feedback.function", "own_dots:vowels", "--output", "verdicts.jsonl", "--cost", "cost.json"]
    with JudgeServer(by_length) as server:
        done = run_program("judge.py", tmp_path, *flags, *judge_flags("evaluator", server))
    assert done.returncode == 0, done.stderr
    assert set(server.attempts.values()) == {1} and len(server.attempts) == 8
    names = ["prompt_id", "outcome", "reward", "reward_opponent", "preference", "feedback", "feedback_opponent"]
    names += ["n_tokens", "n_tokens_opponent"]
    assert read_rows(tmp_path / "verdicts.jsonl") == [
        dict(zip(names, row, strict=True))
        for row in [
            ("p", "win", None, None, 1.0, 2.0, 1.0, 3, 2),
            ("q", "loss", None, None, 0.0, 1.0, 0.0, 3, 2),
            ("r", "tie", None, None, 0.5, 2.0, 2.0, 3, 2),
            ("nonsense", "invalid", None, None, None, 0.0, 0.0, 3, 2),
        ]
    ]
    assert "judge: 4 samples in " in done.stdout and " samples/s), 1 win, 1 tie, 1 loss, 1 invalid" in done.stdout
    assert read_json(tmp_path / "cost.json")["judge"]["outcomes"] == {"A": 1, "B": 1, "tie": 1, "invalid": 1}
    assert_secret(tmp_path, done)
