"""Judges and reward models use the template variables, date and system message of their settings."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import tiny
from prefloop.config.feedback_settings import FeedbackConfig, Judging
from prefloop.core.errors import InputError
from prefloop.core.files import write_json
from prefloop.feedback.annotate import load_feedback
from prefloop.feedback.judgments import Question
from prefloop.feedback.reward_sources import Request
from prefloop.models.fetch import fetch

# Prints a variable, the day and the turns; every role has its own tag.
TEMPLATE = (
    "{{ bos_token }}{{ mood | default('calm') }} {{ strftime_now('%d') }} "
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
USUAL = {"chat_template_kwargs": {"mood": "glad"}, "system_prompt": "be", "template_date": "2025-01-31"}
STARTS = [
    (USUAL, "<s>glad 31 <system>be</s>"),
    (USUAL | {"template_date": None}, "<s>glad 07 <system>be</s>"),  # the date in chat.json
    ({"template_date": "2025-01-31"}, "<s>calm 31 "),
]


def fetched(folder: Path, tmp_path: Path, template: str = TEMPLATE) -> Path:
    """Replace a model's chat template, fetch the model, and return its manifest."""
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    fetch(str(folder), tmp_path / "fetched")
    write_json(tmp_path / "chat.json", {"template_kwargs": {}, "date": "2026-02-07", "end_of_turn": "</s>"})
    return tmp_path / "fetched/manifest.json"


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor([tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]])


@pytest.mark.parametrize(("settings", "start"), STARTS)
def test_reward_model_uses_the_settings(tmp_path, settings, start):
    folder = tiny.make_reward_model(tmp_path / "rm")
    manifest = fetched(folder, tmp_path)
    source = load_feedback(
        FeedbackConfig(kind="reward_model", model=str(manifest), **settings), 1, "feedback", tmp_path / "chat.json"
    )
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "why"}]
    rewards = source.rewards([Request("p", 0, own[1:], "so"), Request("q", 0, own, "so")])
    without_system = start.removesuffix("<system>be</s>")
    texts = [f"{start}<user>why</s><assistant>so</s>", f"{without_system}<system>own</s><user>why</s><assistant>so</s>"]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        expected = [model(input_ids=ids_of(text)).logits.item() for text in texts]
    assert rewards == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("settings", "start"), STARTS)
def test_local_judge_uses_the_settings(tmp_path, settings, start):
    folder = tiny.make_model(tmp_path / "lm")
    manifest = fetched(folder, tmp_path)
    (tmp_path / "short.txt").write_text("{conversation}|{response_a}|{response_b}")
    judging = Judging(template=tmp_path / "short.txt", min_label_mass=0.0)
    feedback = FeedbackConfig(kind="judge", model=str(manifest), judge=judging, **settings)
    (answer,) = load_feedback(feedback, 1, "feedback", tmp_path / "chat.json").compare([Question("why", "a", "b")])
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder)(ids_of(f"{start}<user>why|a|b</s><assistant>")).logits
    letters = tiny.tokenizer().convert_tokens_to_ids(["A", "B"])
    assert answer.probability == pytest.approx(logits[0, -1, letters].softmax(dim=0)[0].item(), abs=1e-5)
    assert answer.text == tiny.tokenizer().decode([logits[0, -1].argmax()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chat_template_kwargs": {"moods": 1}}, "^evaluator.chat_template_kwargs: moods is not a variable .*mood?"),
        ({"template_date": "today"}, "^evaluator.template_date: 'today', expected a day"),
        ({"system_prompt": "be"}, "^evaluator.system_prompt: the model's chat template refuses system messages"),
    ],
)
def test_settings_without_support_in_the_template_are_refused(tmp_path, settings, message):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    manifest = fetched(tiny.make_reward_model(tmp_path / "rm"), tmp_path, refusing)
    with pytest.raises(InputError, match=message):
        load_feedback(FeedbackConfig(kind="reward_model", model=str(manifest), **settings), 1, "evaluator")


def test_conversation_refused_by_a_reward_models_template_raises(tmp_path):
    refusing = "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + TEMPLATE
    manifest = fetched(tiny.make_reward_model(tmp_path / "rm"), tmp_path, refusing)
    source = load_feedback(FeedbackConfig(kind="reward_model", model=str(manifest)), 1, "feedback")
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    message = (
        r"^the reward model's chat template refuses roles user, assistant, user, assistant \(one turn\); leave out"
    )
    with pytest.raises(InputError, match=message):
        source.rewards([Request("p", 0, turns, "so")])
