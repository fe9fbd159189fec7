"""Log-probabilities match transformers' own loss for all kinds of models, packed or not."""

import math

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, BloomConfig, Gemma2Config, MistralConfig

from prefloop.models import chunked_head as heads
from prefloop.models.chat import prompt_ids
from prefloop.models.loading import add_adapter, load_policy
from prefloop.models.options import Lora
from prefloop.models.packed_attention import PACKED_ATTENTION
from prefloop.models.response_logprobs import (
    discounted_logprobs,
    logprobs_and_collisions,
    logprobs_and_prefixes,
    plan_packing,
    prepare_scorer,
    response_logits,
    response_logprobs,
    tokens_read,
)
from tiny import ARCHITECTURES

QUESTIONS = ["what is good?", "a", "why is the reply to that longer question so bad, and the answer good?"]
# Two questions have several responses, not in sequence. One response has a single token, and one occurs twice.
ASKED = [0, 1, 2, 0, 2, 2, 0]
RESPONSES = [[5, 9, 33, 1], [7, 1], [40, 41, 42, 43, 44, 45, 46], [8], [50, 51, 1], [40, 41, 42, 1], [5, 9, 33, 1]]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
# Models whose responses cannot share a sequence (sliding window, attention biased by distance), and one whose logits
# are not the output of its head (capped).
UNPACKED = {
    "window": MistralConfig(**SIZES, num_key_value_heads=2, intermediate_size=64, sliding_window=8),
    "alibi": BloomConfig(**{name.replace("num_hidden_layers", "n_layer"): size for name, size in SIZES.items()}),
    "capped": Gemma2Config(
        **SIZES, num_key_value_heads=2, head_dim=8, intermediate_size=64, sliding_window=8, final_logit_softcapping=0.5
    ),
}


def by_hand(model, prompts, responses) -> list[float]:
    """Return log-probabilities from transformers' own loss, for each response alone and without padding."""
    sums = []
    for prompt, response in zip(prompts, responses, strict=True):
        labels = torch.tensor([[-100] * len(prompt) + response])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([prompt + response]), labels=labels).loss
        sums.append(-loss.item() * len(response))
    return sums


@pytest.fixture(params=list(ARCHITECTURES))
def packed(request, manifests):
    manifest = manifests[request.param]
    model, tokenizer = load_policy(manifest, manifest, torch.float32, "cpu")
    encoded = [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in QUESTIONS]
    return prepare_scorer(model), [encoded[i] for i in ASKED]


@pytest.fixture(params=list(UNPACKED))
def unpacked(request):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(UNPACKED[request.param]).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= 10  # sharpen the nearly uniform attention of random weights
    return prepare_scorer(model), [[0, *range(10, 10 + 4 * i)] for i in ASKED]


def test_logprobs_match_transformers_loss(packed):
    scorer, prompts = packed
    assert scorer.packed and scorer.chunked_head
    logps = response_logprobs(scorer, prompts, RESPONSES)
    assert logps.dtype == torch.float32
    assert logps.tolist() == pytest.approx(by_hand(scorer.model, prompts, RESPONSES), abs=1e-4)


def test_unpacked_logprobs_match_transformers_loss(unpacked):
    scorer, prompts = unpacked
    assert not scorer.packed
    assert scorer.chunked_head == (scorer.model.config.model_type != "gemma2")
    logps = response_logprobs(scorer, prompts, RESPONSES).tolist()
    assert logps == pytest.approx(by_hand(scorer.model, prompts, RESPONSES), abs=1e-4)


@pytest.mark.parametrize(
    ("family", "packed"),
    [(name, True) for name in ("Qwen3", "Phi3", "Gemma", "Olmo2", "Granite", "Cohere", "Mixtral", "SmolLM3")]
    + [(name, False) for name in ("Gemma3Text", "Cohere2", "Falcon", "OPT", "StableLm", "Mamba")],
)
def test_other_families_match_transformers_loss(family, packed):
    """Some families do not pass unknown arguments to layers, some have several kinds of layers, some are recurrent."""
    sizes = SIZES | {"intermediate_size": 64, "num_key_value_heads": 2, "pad_token_id": 2}
    sizes |= {"head_dim": 8} if family in ("Qwen3", "Gemma", "Gemma3Text") else {}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**sizes)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= 5
    prompts = [[0, *range(10, 10 + 4 * i)] for i in ASKED]
    scorer = prepare_scorer(model)
    assert scorer.packed == packed
    logps = response_logprobs(scorer, prompts, RESPONSES).tolist()
    assert logps == pytest.approx(by_hand(model, prompts, RESPONSES), abs=1e-4)


def test_batch_does_not_change_logprobs(packed):
    scorer, prompts = packed
    together = response_logprobs(scorer, prompts, RESPONSES).tolist()
    alone = [response_logprobs(scorer, [p], [r]).item() for p, r in zip(prompts, RESPONSES, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together[0] == pytest.approx(together[6], abs=1e-5)


def test_first_and_last_response_token_are_scored(packed):
    """The shift by one is correct: a response's log-probability is the sum over all of its tokens."""
    scorer, prompts = packed
    logps = response_logprobs(scorer, prompts, RESPONSES)
    for prompt, response, logp in zip(prompts, RESPONSES, logps, strict=True):
        full = torch.log_softmax(scorer.model(torch.tensor([prompt + response])).logits[0], dim=1)
        shares = [full[len(prompt) - 1 + t, token].item() for t, token in enumerate(response)]
        assert logp.item() == pytest.approx(sum(shares), abs=1e-4)
        assert abs(shares[0]) > 0.1 and abs(shares[-1]) > 0.1


def test_logits_are_in_the_order_of_responses(packed):
    scorer, prompts = packed
    with torch.no_grad():
        logits = response_logits(scorer, prompts, RESPONSES)
    assert len(logits) == sum(map(len, RESPONSES))
    tokens = torch.tensor([token for response in RESPONSES for token in response])
    parts = heads.logit_logprobs(logits, tokens).split(list(map(len, RESPONSES)))
    assert [part.sum().item() for part in parts] == pytest.approx(by_hand(scorer.model, prompts, RESPONSES), abs=1e-4)


def test_prompt_is_read_once_for_all_of_its_responses(packed):
    scorer, prompts = packed
    assert plan_packing(scorer, prompts, RESPONSES) == [[0, 3, 6], [1], [2, 4, 5]]
    unshared = sum(map(len, prompts)) + sum(map(len, RESPONSES)) - len(RESPONSES)
    assert tokens_read(scorer, prompts, RESPONSES) == unshared - 2 * len(prompts[0]) - 2 * len(prompts[2])


def test_long_responses_do_not_share_a_sequence(packed):
    """At most 6hP/R² responses share a sequence, and a shared sequence has at most 2,048 tokens."""
    scorer, _ = packed
    hidden = scorer.model.config.hidden_size
    rows = plan_packing(scorer, [[0] * 10] * 40, [[3] * 20] * 40)
    assert max(map(len, rows)) == 6 * hidden * 10 // 400 < 40
    assert sorted(i for row in rows for i in row) == list(range(40))
    assert {len(row) for row in plan_packing(scorer, [[0] * 2040] * 9, [[3] * 4] * 9)} == {2, 1}
    assert plan_packing(scorer, [[0] * 3000] * 2, [[3] * 4] * 2) == [[0], [1]]


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_gradients_match_those_of_plain_logits(packed, trained):
    """Compares all trained weights, for a loss with different weights per response."""
    scorer, prompts = packed
    model = scorer.model
    torch.manual_seed(1)
    if trained == "lora":
        model = add_adapter(model, Lora(r=4))
        scorer = prepare_scorer(model)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data += 0.05 * torch.randn_like(parameter)
    weights = torch.linspace(-1, 2, len(RESPONSES))
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad((weights * response_logprobs(scorer, prompts, RESPONSES)).sum(), parameters)
    loss = 0.0
    for weight, prompt, response in zip(weights, prompts, RESPONSES, strict=True):
        labels = torch.tensor([[-100] * len(prompt) + response])
        loss -= weight * len(response) * model(input_ids=torch.tensor([prompt + response]), labels=labels).loss
    for gradient, expected in zip(ours, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.allclose(gradient, expected, atol=1e-4, rtol=1e-3)
    assert any(gradient.abs().max() > 0.01 for gradient in ours)


def test_bfloat16_head_matches_its_logits():
    """As under autocast, the product is in bfloat16 and the softmax in float32."""
    torch.manual_seed(0)
    head = torch.nn.Linear(32, 64, bias=True)
    states, tokens = torch.randn(7, 32, requires_grad=True), torch.arange(7) * 9
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = heads.head_logprobs(head, states, tokens), heads.logit_logprobs(head(states), tokens)
    assert ours.dtype == plain.dtype == torch.float32
    assert torch.allclose(ours, plain, atol=1e-5)
    for one, two in zip(
        *(torch.autograd.grad(x.sum(), [states, *head.parameters()]) for x in (ours, plain)), strict=True
    ):
        assert torch.allclose(one, two, atol=0.03)


def test_chunks_do_not_change_the_head(monkeypatch):
    """Several chunks, the last one smaller, give the values and gradients of one chunk, also for a trained head."""
    torch.manual_seed(0)
    head, tokens = torch.nn.Linear(8, 16, bias=True).double(), torch.arange(11)
    states = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    for trained in (True, False):
        head.requires_grad_(trained)
        inputs = [states, *head.parameters()] if trained else [states]
        found = []
        for size in (256, 2048, 4, 1):
            monkeypatch.setitem(heads.CHUNKS, "cpu", size)
            assert len(list(heads.chunks(states))) == math.ceil(11 / size)
            logps = heads.head_logprobs(head, states, tokens)
            found.append([logps, *torch.autograd.grad((logps * torch.arange(11)).sum(), inputs)])
        for changed in found[1:]:
            assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(found[0], changed, strict=True))
        assert found[0][0].dtype == torch.float32


def test_gpu_accumulates_the_head_in_float32(monkeypatch):
    """A GPU can return products of half-precision matrices in float32. A CPU rounds them first."""

    class OnGPU(torch.Tensor):
        is_cuda = True

    asked = []
    monkeypatch.setattr(torch, "mm", lambda a, b, out_dtype: asked.append((a.shape, b.shape, out_dtype)))
    a, b = torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(3, 4, dtype=torch.bfloat16)
    assert torch.equal(heads.product_in_float32(a, b), torch.full((2, 4), 3, dtype=torch.bfloat16))
    assert asked == []
    heads.product_in_float32(a.as_subclass(OnGPU), b)
    assert asked == [((2, 3), (3, 4), torch.float32)]
    whole = heads.product_in_float32(a.float().as_subclass(OnGPU), b.float())
    assert whole.shape == (2, 4) and len(asked) == 1


def test_preparing_keeps_model_and_rng_state(manifests):
    """Weights, mode, logits and the global RNG state are unchanged. Only the name of the attention changes."""
    model, _ = load_policy(manifests["llama"], manifests["llama"], torch.float32, "cpu")
    ids = torch.tensor([[5, 9, 33, 1]])
    with torch.no_grad():
        logits, state = model(ids).logits, torch.get_rng_state()
        scorer = prepare_scorer(model)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(model(ids).logits, logits)
    assert model.config._attn_implementation == PACKED_ATTENTION
    assert "forward" not in vars(model.get_output_embeddings())
    assert prepare_scorer(model) == scorer, "preparing twice has no further effect"


def test_unsupported_models_keep_their_attention(unpacked):
    scorer, _ = unpacked
    assert scorer.model.config._attn_implementation != PACKED_ATTENTION


def test_collisions_of_known_logits(monkeypatch):
    """log Σ_v π_v² is correct from logits and from a head, in chunks, and log-probabilities do not change."""
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])
    expected = [0.375, 0.54, 1.0]
    monkeypatch.setitem(heads.CHUNKS, "cpu", 2)
    assert heads.logit_collisions(probabilities.log()).exp().tolist() == pytest.approx(expected)
    head, tokens = torch.nn.Linear(3, 3, bias=False), torch.tensor([1, 2, 0])
    head.weight.data = torch.eye(3)
    head.requires_grad_(False)
    states = probabilities.clamp(min=1e-30).log().requires_grad_()
    collisions = torch.empty(3)
    logps = heads.head_logprobs(head, states, tokens, collisions)
    assert collisions.exp().tolist() == pytest.approx(expected)
    plain = heads.head_logprobs(head, states, tokens)
    assert torch.equal(logps, plain)
    gradients = [torch.autograd.grad(x.sum(), states)[0] for x in (logps, plain)]
    assert torch.equal(*gradients)


def check_collisions(scorer, prompts) -> None:
    with torch.no_grad():
        logps, collisions = logprobs_and_collisions(scorer, prompts, RESPONSES)
        assert torch.equal(logps, response_logprobs(scorer, prompts, RESPONSES))
        squares = response_logits(scorer, prompts, RESPONSES).float().softmax(dim=1).square().sum(dim=1).log()
    expected = [part.sum().item() for part in squares.split(list(map(len, RESPONSES)))]
    assert collisions.tolist() == pytest.approx(expected, abs=1e-4)


def test_collisions_match_those_of_all_logits(packed):
    check_collisions(*packed)


def test_unpacked_collisions_match_those_of_all_logits(unpacked):
    check_collisions(*unpacked)


def test_logit_logprobs_of_known_logits():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    assert heads.logit_logprobs(logits, torch.tensor([1, 2])).exp().tolist() == pytest.approx([0.25, 0.7])


def test_prefixes_equal_shorter_responses(manifests):
    """The log-probability of the first tokens does not depend on the rest of the response."""
    model, _ = load_policy(manifests["llama"], manifests["llama"], torch.float32, "cpu")
    scorer, prompts, responses = prepare_scorer(model), [[0, 5], [0, 5]], [[7, 8, 9, 1], [11, 12]]
    with torch.no_grad():
        whole = response_logprobs(scorer, prompts, responses).tolist()
        short = response_logprobs(scorer, prompts, [[7, 8], [11]]).tolist()
        found = logprobs_and_prefixes(scorer, prompts, responses, [[2, 4], [1]]).tolist()
        discounted = discounted_logprobs(scorer, prompts, responses, [2, 2], 0.25).tolist()
    assert found == pytest.approx([*whole, short[0], whole[0], short[1]], abs=1e-5)
    assert discounted == pytest.approx([short[0] + 0.25 * (whole[0] - short[0]), whole[1]], abs=1e-5)
