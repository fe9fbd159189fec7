"""A local judge answers with the model's probabilities, independent of batches."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefloop.config.feedback_settings import Judging
from prefloop.core.errors import InputError
from prefloop.feedback.judgments import Judgment, judge_pairs
from prefloop.feedback.local_judge import LocalJudge

LOCAL_PAIRS = (
    [[{"role": "user", "content": text}] for text in ("why is it so", "who", "")],
    ["because it is good", "me", "the reply"],
    ["no", "you and the other one, I say", "the reply"],
)


@pytest.fixture
def short(tmp_path) -> Judging:
    """Settings of a local judge that accepts improbable labels, because a random model gives no others."""
    (tmp_path / "short.txt").write_text("{conversation}|{response_a}|{response_b}")
    return Judging(template=tmp_path / "short.txt", min_label_mass=0.0)


@pytest.mark.parametrize("architecture", ["llama", "qwen", "gpt2", "gpt_neox"])
def test_answers_are_the_models_probabilities(manifests, model_folders, short, architecture):
    """p(A) of all questions in a padded batch equals a plain forward pass of transformers per question."""
    judge = LocalJudge(short, manifests[architecture], 1, 8)
    judgments = judge_pairs(judge, *LOCAL_PAIRS)
    model = AutoModelForCausalLM.from_pretrained(model_folders[architecture], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folders[architecture])
    labels = [tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
    read = 0

    def p_of_first(prompt: list[dict], first: str, second: str) -> float:
        nonlocal read
        question = f"{prompt[0]['content']}|{first}|{second}"
        if tokenizer.chat_template is None:
            text = f"<s>\n\nHuman: {question}\n\nAssistant:"
        else:
            text = f"<s><user>{question}</s><assistant>"
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        read += ids.shape[1]
        with torch.no_grad():
            probabilities = model(ids).logits[0, -1].softmax(dim=0)
        return (probabilities[labels[0]] / probabilities[labels].sum()).item()

    for prompt, a, b, judgment in zip(*LOCAL_PAIRS, judgments, strict=True):
        assert judgment.first == pytest.approx(p_of_first(prompt, a, b), abs=1e-5)
        if a != b:
            assert judgment.second == pytest.approx(1 - p_of_first(prompt, b, a), abs=1e-5)
    assert judge.usage.tokens_in == read  # a pair of equal responses is one question
    assert judge.usage.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert judge.usage.device in ("cpu", "cuda")


def test_answers_do_not_depend_on_batches(manifests, short):
    judgments = [judge_pairs(LocalJudge(short, manifests["llama"], 1, size), *LOCAL_PAIRS) for size in (1, 2, 32)]
    for other in judgments[1:]:
        orders = [(judgment.first, judgment.second) for judgment in other]
        assert orders == [pytest.approx((judgment.first, judgment.second), abs=1e-5) for judgment in judgments[0]]


def test_swapped_responses_swap_the_orders(manifests, short):
    prompts, a, b = LOCAL_PAIRS
    judge = LocalJudge(short, manifests["llama"], 1, 4)
    for judgment, swapped in zip(judge_pairs(judge, prompts, a, b), judge_pairs(judge, prompts, b, a), strict=True):
        assert swapped.first == pytest.approx(1 - judgment.second, abs=1e-5)
        assert swapped.second == pytest.approx(1 - judgment.first, abs=1e-5)
    assert judgment.outcome == "tie"  # the responses of the last pair are equal


def test_improbable_labels_are_invalid(manifests, short):
    """A random model gives A and B a few percent together, far less than the required 90 %."""
    judgments = judge_pairs(LocalJudge(replace(short, min_label_mass=0.9), manifests["llama"], 1, 4), *LOCAL_PAIRS)
    assert judgments == [Judgment(None, None)] * 3
    judgments = judge_pairs(LocalJudge(replace(short, tie_margin=0.5), manifests["llama"], 1, 4), *LOCAL_PAIRS)
    assert [judgment.outcome for judgment in judgments] == ["tie"] * 3


def test_question_too_long_raises(manifests, short):
    judge = LocalJudge(short, manifests["gpt2"], 1, 4)
    with pytest.raises(InputError, match="reads 256 tokens, and 2 of 4 questions to the judge are longer"):
        judge_pairs(judge, [LOCAL_PAIRS[0][0]] * 2, ["z" * 300, "x"], ["y", "y"])


def test_tokenizer_without_label_raises(manifests, short, tmp_path):
    folder = tmp_path / "silent"
    folder.mkdir()
    for file in manifests["llama"].parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"] = {{"B": "ß"}.get(token, token): i for token, i in words["model"]["vocab"].items()}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(InputError, match="silent: cannot judge, its tokenizer has no token for B"):
        LocalJudge(short, folder / "manifest.json", 1, 4)
