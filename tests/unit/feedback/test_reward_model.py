"""Reward models score with their chat template, and folders without a trained reward model are refused."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import tiny
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.core.errors import InputError, SettingError
from prefloop.feedback.annotate import load_feedback
from prefloop.feedback.reward_model import RewardModel, padding_token
from prefloop.feedback.reward_sources import Request
from prefloop.models.fetch import fetch
from prefloop.models.manifests import trust

PROMPT = [{"role": "user", "content": "why?"}]
REQUESTS = [Request("p1", 0, PROMPT, "good"), Request("p2", 1, PROMPT, "a much longer reply")]


def test_reward_model_scores_with_its_chat_template(tmp_path):
    folder = tiny.make_reward_model(tmp_path / "rm")
    fetch(str(folder), tmp_path / "fetched")
    source = RewardModel(tmp_path / "fetched/manifest.json", 32, 1)
    rewards = source.rewards(REQUESTS)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = tiny.tokenizer()
    for request, reward in zip(REQUESTS, rewards, strict=True):
        text = f"<s><user>why?</s><assistant>{request.response}</s>"
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        assert reward == pytest.approx(model(input_ids=ids).logits.item(), abs=1e-5)
    assert source.usage.tokens_in > 0


def test_missing_padding_token_does_not_change_rewards(tmp_path):
    """EOS ends a turn of the template, so it must not be used for padding."""
    rewards = []
    for name in ("with", "without"):
        folder = tiny.make_reward_model(tmp_path / name)
        if name == "without":
            for file in (folder / "config.json", folder / "tokenizer_config.json"):
                settings = json.loads(file.read_text())
                settings.pop("pad_token", None), settings.pop("pad_token_id", None)
                file.write_text(json.dumps(settings))
        fetch(str(folder), tmp_path / f"{name}-fetched")
        rewards.append(RewardModel(tmp_path / f"{name}-fetched/manifest.json", 32, 1).rewards(REQUESTS))
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-5)


def test_pickled_reward_model_keeps_its_head(tmp_path):
    folder = tiny.make_reward_model(tmp_path / "rm")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    fetch(str(folder), tmp_path / "fetched")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "fetched")
    assert (again.score.weight == model.score.weight).all()


def test_language_model_raises(model_folders, tmp_path):
    """Its head would be random, and so would the rewards."""
    fetch(str(model_folders["llama"]), tmp_path / "fetched")
    settings = json.loads((tmp_path / "fetched/config.json").read_text()) | {
        "num_labels": 1,
        "id2label": {"0": "reward"},
    }
    (tmp_path / "fetched/config.json").unlink()
    (tmp_path / "fetched/config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="not a trained reward model, it lacks score.weight"):
        RewardModel(tmp_path / "fetched/manifest.json", 32, 1)


LONG = Request("p3", 2, [{"role": "user", "content": "why is it so good?"}], "b")
TURNS = [*PROMPT, {"role": "assistant", "content": "so."}, {"role": "user", "content": "and?"}]
UNEVEN = [*REQUESTS, LONG, Request("p4", 3, TURNS, "the answer is bad")]
DECODERS = {
    "llama": lambda **ids: transformers.LlamaConfig(**tiny.SIZES, num_key_value_heads=2, **ids),
    "qwen3": lambda **ids: transformers.Qwen3Config(**tiny.SIZES, num_key_value_heads=2, head_dim=8, **ids),
    "mistral": lambda **ids: transformers.MistralConfig(**tiny.SIZES, num_key_value_heads=2, sliding_window=8, **ids),
    "gpt2": lambda **ids: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **ids),
    "gpt_neox": lambda **ids: transformers.GPTNeoXConfig(**tiny.SIZES, **ids),
    "opt": lambda **ids: transformers.OPTConfig(
        hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, **ids
    ),
    "xlnet": lambda **ids: transformers.XLNetConfig(d_model=32, n_layer=2, n_head=4, d_inner=64, **ids),
}
ENCODERS = {
    "roberta": lambda **ids: transformers.RobertaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=34,
        **ids,
    )
}


def classifier(folder: Path, architecture: str, pad: str | None, side: str = "right", **options) -> Path:
    """Fetch a random classifier whose turns end in </s> and whose tokenizer pads with `pad`; return its manifest."""
    torch.manual_seed(0)
    words = tiny.tokenizer()
    words.pad_token, words.padding_side = pad, side
    ids = {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": words.pad_token_id}
    config = (DECODERS | ENCODERS)[architecture](**ids, **({"num_labels": 1} | options))
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.12 if "embed" not in name else 0.5)
    model.save_pretrained(folder / "made")
    words.save_pretrained(folder / "made")
    fetch(str(folder / "made"), folder / "fetched")
    return folder / "fetched/manifest.json"


def alone(manifest: Path, request: Request) -> float:
    """Return the logit at the last token of one unpadded conversation, computed without a padding token."""
    model = AutoModelForSequenceClassification.from_pretrained(manifest.parent, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(manifest.parent)
    conversation = [*request.messages, {"role": "assistant", "content": request.response}]
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    assert ids[0, -1] == 1, "the end of the turn must be the last token"
    model.config.pad_token_id = None
    with torch.no_grad():
        return model(input_ids=ids).logits.item()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["</s>", "<pad>", None])
@pytest.mark.parametrize("architecture", DECODERS)
def test_rewards_equal_those_of_unpadded_conversations(tmp_path, architecture, pad, side):
    """Holds for any padding token and padding side."""
    manifest = classifier(tmp_path, architecture, pad, side)
    expected = [alone(manifest, request) for request in UNEVEN]
    assert np.ptp(expected) > 0.01
    for batch_size in (4, 1):
        assert RewardModel(manifest, batch_size, 1).rewards(UNEVEN) == pytest.approx(expected, abs=1e-5)


def test_keys_and_values_are_not_cached(tmp_path, monkeypatch):
    """They are never read, and for an 8B model they would take gigabytes per batch."""

    def refuse(*_, **__):
        raise AssertionError("a classifier needs no cache")

    source = RewardModel(classifier(tmp_path, "llama", "<pad>"), 4, 1)
    monkeypatch.setattr(transformers.DynamicCache, "update", refuse)
    assert len(source.rewards(UNEVEN)) == 4
    assert source.model.config.use_cache, "the setting that would be saved is not changed"


def test_padding_token_does_not_end_a_conversation():
    words = tiny.tokenizer()
    assert padding_token(words, [[5, 6], [7]]) == words.pad_token_id == 2
    assert padding_token(words, [[0, 2, 1], [3]]) == 4
    words.pad_token = None
    assert padding_token(words, [[1, 2, 0]]) == 3
    every = list(range(words.vocab_size))
    assert padding_token(words, [[*every, 0], [*every, 1]]) == 2, "every token occurs, this one not at an end"
    with pytest.raises(InputError, match="batch_size: 90 conversations end in all 90 tokens"):
        padding_token(words, [[token] for token in every])


def test_rewards_are_computed_in_float32(tmp_path):
    """In float32 even a model stored in bfloat16 ranks responses that are tied in bfloat16."""
    manifest = classifier(tmp_path, "llama", "<pad>")
    made = AutoModelForSequenceClassification.from_pretrained(tmp_path / "made", dtype=torch.bfloat16)
    with torch.no_grad():
        made.score.weight *= 100
    made.save_pretrained(tmp_path / "rounded")
    tiny.tokenizer().save_pretrained(tmp_path / "rounded")
    fetch(str(tmp_path / "rounded"), tmp_path / "fetched")
    requests = [Request("p", i, PROMPT, "a" * (1 + i % 9) + chr(97 + i % 26)) for i in range(60)]
    whole, rounded = (RewardModel(manifest, 60, 1, dtype=dtype).rewards(requests) for dtype in ("float32", "bfloat16"))
    assert whole == pytest.approx([alone(manifest, request) for request in requests], rel=1e-4)
    assert len(set(whole)) > len(set(rounded))
    assert rounded == pytest.approx(whole, rel=0.1, abs=1)
    settings = FeedbackConfig(kind="reward_model", model=str(manifest), batch_size=60)
    assert load_feedback(settings, 1, "feedback").rewards(requests) == pytest.approx(whole, rel=1e-6)


def test_output_is_selected_by_index_or_label(tmp_path):
    labels = {0: "helpfulness", 1: "correctness", 2: "verbosity"}
    manifest = classifier(tmp_path, "llama", "<pad>", num_labels=3, id2label=labels)
    model = AutoModelForSequenceClassification.from_pretrained(manifest.parent).eval()
    text = "<s><user>why?</s><assistant>good</s>"
    with torch.no_grad():
        logits = model(torch.tensor([tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]])).logits[0]
    for wanted, column in {0: 0, 2: 2, "correctness": 1, "verbosity": 2}.items():
        found = RewardModel(manifest, 2, 1, output=wanted).rewards(REQUESTS[:1])
        assert found == pytest.approx([logits[column].item()], abs=1e-5)
    for wanted in (None, 3, "honesty"):
        settings = FeedbackConfig(kind="reward_model", model=str(manifest), output=wanted)
        with pytest.raises(InputError) as refused:
            load_feedback(settings, 1, "feedback")
        expected = r"feedback.output: .*; .* has 3 outputs, name one: 0 .helpfulness., 1 .correctness., 2 .verbosity."
        assert re.fullmatch(expected, str(refused.value)), refused.value


TWO_HEADS = """
import torch
from transformers import LlamaPreTrainedModel, LlamaModel
from transformers.utils import ModelOutput
from dataclasses import dataclass

@dataclass
class Scores(ModelOutput):
    logits: torch.Tensor = None
    value: torch.Tensor = None

class TwoHeads(LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.attributes = torch.nn.Linear(config.hidden_size, 2)
        self.head = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **options):
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = states[torch.arange(len(states)), torch.eq(input_ids, self.config.pad_token_id).int().argmax(-1) - 1]
        return Scores(logits=self.attributes(last), value=self.head(last).squeeze(-1))
"""


@pytest.fixture
def two_heads(tmp_path) -> Path:
    """A classifier with custom code: two attributes and a value, read before the first padding token."""
    source = tmp_path / "two_heads"
    source.mkdir()
    (source / "heads.py").write_text(TWO_HEADS)
    spec = importlib.util.spec_from_file_location("heads", source / "heads.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    config = DECODERS["llama"](vocab_size=90, pad_token_id=1, bos_token_id=0, eos_token_id=1)
    config.auto_map = {"AutoModelForSequenceClassification": "heads.TwoHeads"}
    module.TwoHeads(config).save_pretrained(source)
    tiny.tokenizer().save_pretrained(source)
    return source


def test_second_head_is_selected_by_name(two_heads, tmp_path):
    fetch(str(two_heads), tmp_path / "fetched")
    trust(manifest := tmp_path / "fetched/manifest.json")
    found = RewardModel(manifest, 4, 1, output="value").rewards(UNEVEN)
    singly = [RewardModel(manifest, 1, 1, output="value").rewards([request])[0] for request in UNEVEN]
    assert found == pytest.approx(singly, abs=1e-5)
    assert np.ptp(found) > 0.01
    assert found != pytest.approx(RewardModel(manifest, 4, 1, output=0).rewards(UNEVEN), abs=1e-3)
    with pytest.raises(SettingError, match=r"output: missing; .* has 3 outputs, name one: 0 .LABEL_0., 1 .*, value"):
        RewardModel(manifest, 4, 1)


def test_code_of_a_reward_model_needs_permission(two_heads, tmp_path):
    config = json.loads((two_heads / "config.json").read_text()) | {"model_type": "two_heads"}
    config["auto_map"]["AutoConfig"] = "heads.Config"
    (two_heads / "config.json").write_text(json.dumps(config))
    fetch(str(two_heads), tmp_path / "fetched")
    with pytest.raises(InputError, match="it needs code of its own; if you trust it, set trust_remote_code: true"):
        RewardModel(tmp_path / "fetched/manifest.json", 4, 1, output="value")


def test_head_of_another_size_is_refused_as_feedback(tmp_path):
    """The weights have three outputs, and the config has one."""
    manifest = classifier(tmp_path, "llama", "<pad>", num_labels=3)
    config = json.loads((manifest.parent / "config.json").read_text()) | {"num_labels": 1, "id2label": {"0": "reward"}}
    (manifest.parent / "config.json").unlink()
    (manifest.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"weights disagree on the size of score.weight .\[3, 32\] and \[1, 32\]."):
        RewardModel(manifest, 4, 1)


def test_long_conversation_is_truncated_to_the_models_positions(tmp_path):
    manifest = classifier(tmp_path, "gpt2", "<pad>")
    rewards = RewardModel(manifest, 2, 1).rewards([Request("p", 0, PROMPT, "b" * 400), REQUESTS[0]])
    assert rewards[1] == pytest.approx(alone(manifest, REQUESTS[0]), abs=1e-5)


def test_positions_of_roberta_begin_after_that_of_padding(tmp_path):
    """With 34 position embeddings it reads 31 tokens, if padding has token 2."""
    manifest = classifier(tmp_path, "roberta", "<pad>")
    model = RewardModel(manifest, 2, 1)
    assert model.tokenizer.model_max_length == 31
    assert np.isfinite(model.rewards([Request("p", 0, PROMPT, "b" * 400)])).all()
