"""Log-probabilities agree with transformers' own loss, on three architectures, whatever the padding."""

import pytest
import torch

from prefloop.chat import prompt_ids
from prefloop.models import load_policy
from prefloop.scoring import response_logps, token_logps
from tiny import ARCHITECTURES

QUESTIONS = ["what is good?", "a", "why is the reply to that longer question so bad, and the answer good?"]
RESPONSES = [[5, 9, 33, 1], [7, 1], [40, 41, 42, 43, 44, 45, 46]]


@pytest.fixture(params=list(ARCHITECTURES))
def scored(request, manifests):
    manifest = manifests[request.param]
    model, tokenizer = load_policy(manifest, manifest, torch.float32, "cpu")
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in QUESTIONS]
    return model, prompts, response_logps(model, prompts, RESPONSES, tokenizer.pad_token_id)


def test_logp_is_transformers_own_loss_times_the_token_count(scored):
    model, prompts, logps = scored
    for prompt, response, logp in zip(prompts, RESPONSES, logps, strict=True):
        ids = torch.tensor([prompt + response])
        labels = torch.tensor([[-100] * len(prompt) + response])
        loss = model(input_ids=ids, labels=labels).loss
        assert logp.item() == pytest.approx(-loss.item() * len(response), abs=1e-4)


def test_first_and_last_response_token_are_scored(scored):
    """The shift by one is right: changing the first or the last token changes logp by that token's own share."""
    model, prompts, logps = scored
    for prompt, response, logp in zip(prompts, RESPONSES, logps, strict=True):
        full = torch.log_softmax(model(torch.tensor([prompt + response])).logits[0], dim=1)
        by_hand = sum(full[len(prompt) - 1 + t, token].item() for t, token in enumerate(response))
        assert logp.item() == pytest.approx(by_hand, abs=1e-4)
        without_first = by_hand - full[len(prompt) - 1, response[0]].item()
        assert abs(logp.item() - without_first) > 0.1


def test_token_logps_of_known_logits():
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]]))
    assert token_logps(logits, torch.tensor([[1, 2]]))[0].exp().tolist() == pytest.approx([0.25, 0.7])
