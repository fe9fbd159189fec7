"""Log-probabilities agree with transformers' own loss, whatever shares a sequence, on every kind of model."""

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, BloomConfig, Gemma2Config, MistralConfig

from prefloop import heads
from prefloop.attention import reads_packed
from prefloop.chat import prompt_ids
from prefloop.models import add_adapter, load_policy
from prefloop.policies import Lora
from prefloop.scoring import response_logits, response_logps, rows_of, tokens_read
from tiny import ARCHITECTURES

QUESTIONS = ["what is good?", "a", "why is the reply to that longer question so bad, and the answer good?"]
# Two questions have several responses, and not one after the other; one has a single token, one is there twice.
ASKED = [0, 1, 2, 0, 2, 2, 0]
RESPONSES = [[5, 9, 33, 1], [7, 1], [40, 41, 42, 43, 44, 45, 46], [8], [50, 51, 1], [40, 41, 42, 1], [5, 9, 33, 1]]
PAD = 2
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
# Whose responses cannot share a sequence (a window, attention biased by distance), whose logits are not their head's
# output (capped), and both.
OTHERS = {
    "window": MistralConfig(**SIZES, num_key_value_heads=2, intermediate_size=64, sliding_window=8),
    "alibi": BloomConfig(**{name.replace("num_hidden_layers", "n_layer"): size for name, size in SIZES.items()}),
    "capped": Gemma2Config(
        **SIZES, num_key_value_heads=2, head_dim=8, intermediate_size=64, sliding_window=8, final_logit_softcapping=0.5
    ),
}


def by_hand(model, prompts, responses) -> list[float]:
    """transformers' own loss, a mean over the response, of each response alone and without padding."""
    sums = []
    for prompt, response in zip(prompts, responses, strict=True):
        labels = torch.tensor([[-100] * len(prompt) + response])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([prompt + response]), labels=labels).loss
        sums.append(-loss.item() * len(response))
    return sums


@pytest.fixture(params=list(ARCHITECTURES))
def known(request, manifests):
    manifest = manifests[request.param]
    model, tokenizer = load_policy(manifest, manifest, torch.float32, "cpu")
    encoded = [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in QUESTIONS]
    return model, [encoded[i] for i in ASKED]


@pytest.fixture(params=list(OTHERS))
def other(request):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(OTHERS[request.param]).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= 10  # from random weights, whose attention is all but even, far enough to see mistakes
    return model, [[0, *range(10, 10 + 4 * i)] for i in ASKED]


def test_logp_is_transformers_own_loss_times_the_token_count(known):
    model, prompts = known
    assert reads_packed(model) and heads.is_plain(model)
    found = response_logps(model, prompts, RESPONSES, PAD)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(by_hand(model, prompts, RESPONSES), abs=1e-4)


def test_so_it_is_where_responses_cannot_share_a_sequence(other):
    model, prompts = other
    assert not reads_packed(model)
    assert heads.is_plain(model) == (model.config.model_type != "gemma2")
    found = response_logps(model, prompts, RESPONSES, PAD).tolist()
    assert found == pytest.approx(by_hand(model, prompts, RESPONSES), abs=1e-4)


@pytest.mark.parametrize(
    ("family", "packed"),
    [(name, True) for name in ("Qwen3", "Phi3", "Gemma", "Olmo2", "Granite", "Cohere", "Mixtral", "SmolLM3")]
    + [(name, False) for name in ("Gemma3Text", "Cohere2", "Falcon", "OPT", "StableLm", "Mamba")],
)
def test_so_it_is_in_other_families(family, packed):
    """Some do not pass on to their layers what they do not know, some have layers of several kinds, some recur."""
    sizes = SIZES | {"intermediate_size": 64, "num_key_value_heads": 2, "pad_token_id": 2}
    sizes |= {"head_dim": 8} if family in ("Qwen3", "Gemma", "Gemma3Text") else {}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**sizes)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= 5
    prompts = [[0, *range(10, 10 + 4 * i)] for i in ASKED]
    assert reads_packed(model) == packed
    found = response_logps(model, prompts, RESPONSES, PAD).tolist()
    assert found == pytest.approx(by_hand(model, prompts, RESPONSES), abs=1e-4)


def test_what_stands_beside_a_response_changes_nothing(known):
    model, prompts = known
    together = response_logps(model, prompts, RESPONSES, PAD).tolist()
    alone = [response_logps(model, [p], [r], PAD).item() for p, r in zip(prompts, RESPONSES, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together[0] == pytest.approx(together[6], abs=1e-5)


def test_first_and_last_response_token_are_scored(known):
    """The shift by one is right: changing the first or the last token changes logp by that token's own share."""
    model, prompts = known
    logps = response_logps(model, prompts, RESPONSES, PAD)
    for prompt, response, logp in zip(prompts, RESPONSES, logps, strict=True):
        full = torch.log_softmax(model(torch.tensor([prompt + response])).logits[0], dim=1)
        shares = [full[len(prompt) - 1 + t, token].item() for t, token in enumerate(response)]
        assert logp.item() == pytest.approx(sum(shares), abs=1e-4)
        assert abs(shares[0]) > 0.1 and abs(shares[-1]) > 0.1


def test_logits_come_in_the_order_of_responses(known):
    model, prompts = known
    with torch.no_grad():
        logits = response_logits(model, prompts, RESPONSES, PAD)
    assert len(logits) == sum(map(len, RESPONSES))
    tokens = torch.tensor([token for response in RESPONSES for token in response])
    parts = heads.logit_logps(logits, tokens).split(list(map(len, RESPONSES)))
    assert [part.sum().item() for part in parts] == pytest.approx(by_hand(model, prompts, RESPONSES), abs=1e-4)


def test_a_prompt_is_read_once_for_all_its_responses(known):
    model, prompts = known
    assert rows_of(model, prompts, RESPONSES) == [[0, 3, 6], [1], [2, 4, 5]]
    unshared = sum(map(len, prompts)) + sum(map(len, RESPONSES)) - len(RESPONSES)
    assert tokens_read(model, prompts, RESPONSES) == unshared - 2 * len(prompts[0]) - 2 * len(prompts[2])


def test_long_responses_part_where_attention_would_cost_more_than_the_prompt(known):
    """6hP/R² responses share a sequence at most, and 2,048 tokens."""
    model, _ = known
    hidden = model.config.hidden_size
    rows = rows_of(model, [[0] * 10] * 40, [[3] * 20] * 40)
    assert max(map(len, rows)) == 6 * hidden * 10 // 400 < 40
    assert sorted(i for row in rows for i in row) == list(range(40))
    assert {len(row) for row in rows_of(model, [[0] * 2040] * 9, [[3] * 4] * 9)} == {2, 1}
    assert rows_of(model, [[0] * 3000] * 2, [[3] * 4] * 2) == [[0], [1]]


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_gradients_are_those_of_plain_logits(known, trained):
    """Of the loss that weighs each response's log-probability differently, in every trained weight."""
    model, prompts = known
    torch.manual_seed(1)
    if trained == "lora":
        model = add_adapter(model, Lora(r=4))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data += 0.05 * torch.randn_like(parameter)
    weights = torch.linspace(-1, 2, len(RESPONSES))
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad((weights * response_logps(model, prompts, RESPONSES, PAD)).sum(), parameters)
    loss = 0.0
    for weight, prompt, response in zip(weights, prompts, RESPONSES, strict=True):
        labels = torch.tensor([[-100] * len(prompt) + response])
        loss -= weight * len(response) * model(input_ids=torch.tensor([prompt + response]), labels=labels).loss
    for one, two in zip(ours, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.allclose(one, two, atol=1e-4, rtol=1e-3)
    assert any(gradient.abs().max() > 0.01 for gradient in ours)


def test_log_probabilities_in_bfloat16_are_those_of_its_logits():
    """As autocast computes them: the product in bfloat16, what is made of it in float32."""
    torch.manual_seed(0)
    head = torch.nn.Linear(32, 64, bias=True)
    states, tokens = torch.randn(7, 32, requires_grad=True), torch.arange(7) * 9
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = heads.head_logps(head, states, tokens), heads.logit_logps(head(states), tokens)
    assert ours.dtype == plain.dtype == torch.float32
    assert torch.allclose(ours, plain, atol=1e-5)
    for one, two in zip(
        *(torch.autograd.grad(x.sum(), [states, *head.parameters()]) for x in (ours, plain)), strict=True
    ):
        assert torch.allclose(one, two, atol=0.03)


def test_head_in_chunks(monkeypatch):
    """Several chunks and a last smaller one give what one does, gradients too, with and without a trained head."""
    torch.manual_seed(0)
    head, tokens = torch.nn.Linear(8, 16, bias=True).double(), torch.arange(11)
    states = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    for trained in (True, False):
        head.requires_grad_(trained)
        inputs = [states, *head.parameters()] if trained else [states]
        found = []
        for size in (256, 4):
            monkeypatch.setattr(heads, "CHUNK", size)
            logps = heads.head_logps(head, states, tokens)
            found.append([logps, *torch.autograd.grad((logps * torch.arange(11)).sum(), inputs)])
        assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(*found, strict=True))
        assert found[0][0].dtype == torch.float32


def test_logit_logps_of_known_logits():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    assert heads.logit_logps(logits, torch.tensor([1, 2])).exp().tolist() == pytest.approx([0.25, 0.7])
