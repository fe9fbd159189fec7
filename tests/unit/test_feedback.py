"""Feedback: functions and reward models, and what happens when they misbehave."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import tiny
from prefloop.feedback import FEEDBACK, Settings, rewards_of
from prefloop.fetch import fetch
from prefloop.lexicons import afinn, vader
from prefloop.rows import InputError

PROMPT = [{"role": "user", "content": "why?"}]
IDS = [("p1", 0), ("p2", 1)]


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
