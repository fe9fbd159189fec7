"""Variable-length attention matches masks. PyTorch's kernel, which needs a GPU, is replaced by a loop."""

import itertools

import pytest
import torch
from torch.nn.attention import varlen
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from prefloop.models import packed_attention
from prefloop.models.loading import add_adapter, load_policy, load_trainable
from prefloop.models.options import Lora
from prefloop.models.response_logprobs import plan_packing, prepare_scorer, response_logprobs
from prefloop.models.varlen_attention import VarlenLayout, plan_segments, takes_varlen, varlen_attention

# Several prompts, one of them with a single token. Responses of one token, which adds no input token, and a response
# that is longer than its prompt.
PROMPTS = [[0, 11, 12, 13, 14], [0], [0, 21, 22]]
ASKED = [0, 1, 0, 2, 0, 1, 2]
RESPONSES = [[5, 9, 33, 1], [7, 1], [8], [40, 41, 42, 43, 44, 45, 46], [50, 51, 1], [12], [60, 1]]


def kernel(query, key, value, query_starts, key_starts, max_q, max_k, *, scale, window_size, enable_gqa):
    """Compute torch.nn.attention.varlen.varlen_attn segment by segment."""
    assert window_size == (-1, 0)
    assert query_starts.dtype == key_starts.dtype == torch.int32
    outputs, counts = [], []
    for (q0, q1), (k0, k1) in zip(itertools.pairwise(query_starts), itertools.pairwise(key_starts), strict=True):
        assert q1 > q0, "an empty segment"
        counts.append((q1 - q0, k1 - k0))
        q, k, v = (s.transpose(0, 1)[None] for s in (query[q0:q1], key[k0:k1], value[k0:k1]))
        bias = causal_lower_right(q.shape[2], k.shape[2])
        outputs.append(scaled_dot_product_attention(q, k, v, bias, scale=scale, enable_gqa=enable_gqa)[0])
    assert (max(q for q, _ in counts), max(k for _, k in counts)) == (max_q, max_k)
    return torch.cat(outputs, dim=1).transpose(0, 1)


@pytest.fixture
def on_gpu(monkeypatch):
    """Models that are prepared from now on use variable-length attention as on a GPU; records the calls."""
    calls = []

    def counted(*arguments, **options):
        calls.append(options)
        return kernel(*arguments, **options)

    monkeypatch.setattr(varlen, "varlen_attn", counted)
    monkeypatch.setattr(packed_attention, "takes_varlen", lambda *_: True)
    return calls


def test_segments_by_hand():
    """A prompt with two tokens has responses with two, no and one token. A second prompt has no response."""
    keys, query_starts, key_starts = plan_segments([(2, 2, 0, 1), (1,)])
    assert keys == [0, 1] + [0, 1, 2, 3] + [0, 1, 4] + [5]
    assert query_starts == [0, 2, 4, 5, 6]
    assert key_starts == [0, 2, 6, 9, 10]


@pytest.mark.parametrize(("heads", "groups", "size"), [(4, 4, 8), (4, 2, 8), (6, 1, 24), (2, 1, 64)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_outputs_and_gradients_equal_a_dense_mask(monkeypatch, heads, groups, size, scale):
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    lengths = [(5, 3, 0, 6), (1, 1, 0), (3, 2), (4,)]
    tokens, generator = sum(map(sum, lengths)), torch.Generator().manual_seed(0)
    states = [torch.randn(1, n, tokens, size, generator=generator).requires_grad_() for n in (heads, groups, groups)]
    keys, query_starts, key_starts = (torch.tensor(numbers) for numbers in plan_segments(lengths))
    longest = [int(starts.diff().max()) for starts in (query_starts, key_starts)]
    layout = VarlenLayout(keys, query_starts.int(), key_starts.int(), *longest)
    # A token attends to the prompt of its sequence, and to earlier tokens of its segment.
    place = [(s, n) for s, sequence in enumerate(lengths) for n, length in enumerate(sequence) for _ in range(length)]
    mask = torch.tensor([[s == t and m in (0, n) for t, m in place] for s, n in place]).tril()
    dense = scaled_dot_product_attention(*states, mask[None, None], scale=scale, enable_gqa=True).transpose(1, 2)
    output = varlen_attention(*states, layout, scale)
    assert output.shape == (1, tokens, heads, size)
    assert torch.allclose(output, dense, atol=1e-5)
    weights = torch.randn(dense.shape, generator=generator)
    for ours, theirs in zip(*(torch.autograd.grad((weights * o).sum(), states) for o in (output, dense)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "qwen", "gpt2", "gpt_neox"])
def test_logprobs_and_gradients_equal_those_with_masks(manifests, request, architecture):
    manifest = manifests[architecture]
    torch.manual_seed(0)
    network, _ = load_trainable(manifest, manifest, "full", Lora(), torch.float32)
    prompts, parameters = [PROMPTS[i] for i in ASKED], list(network.parameters())
    weights = torch.linspace(-1, 1, len(RESPONSES))

    def read(scorer):
        logps = response_logprobs(scorer, prompts, RESPONSES)
        return logps, torch.autograd.grad((weights * logps).sum(), parameters)

    masked = prepare_scorer(network.eval())
    assert masked.packed and not masked.varlen
    expected, expected_gradients = read(masked)
    calls = request.getfixturevalue("on_gpu")
    scorer = prepare_scorer(network)
    assert scorer.packed and scorer.varlen and scorer.chunked_head
    assert plan_packing(scorer, prompts, RESPONSES) == [[0, 2, 4], [1, 5], [3, 6]]
    logps, gradients = read(scorer)
    assert len(calls) == network.config.num_hidden_layers
    assert logps.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_long_responses_share_their_prompt(manifests, on_gpu):
    """There is no mask whose size grows with the square of the sequence length."""
    model, _ = load_policy(manifests["llama"], manifests["llama"], torch.float32, "cpu")
    scorer = prepare_scorer(add_adapter(model, Lora(r=2)))
    assert plan_packing(scorer, [[0]] * 4, [[3] * 400] * 4) == [[0, 1, 2, 3]]


def test_cpu_and_float32_use_masks():
    """The kernel supports only half precision on a GPU. All other cases use masks."""
    states = [torch.zeros(1, 2, 3, 8, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert not any(takes_varlen(*[s] * 3) for s in states)


@pytest.mark.parametrize(
    ("dtype", "size", "value_size", "capability", "expected"),
    [
        (torch.bfloat16, 128, 128, (9, 0), True),
        (torch.float16, 256, 256, (8, 0), True),
        (torch.float32, 128, 128, (9, 0), False),
        (torch.bfloat16, 128, 128, (7, 5), False),
        (torch.bfloat16, 20, 20, (9, 0), False),
        (torch.bfloat16, 264, 264, (9, 0), False),
        (torch.bfloat16, 192, 128, (9, 0), False),  # multi-head latent attention
    ],
)
def test_kernel_is_chosen_by_device_dtype_and_size(monkeypatch, dtype, size, value_size, capability, expected):
    class OnGPU(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    query, value = (torch.zeros(1, 2, 3, n, dtype=dtype).as_subclass(OnGPU) for n in (size, value_size))
    assert takes_varlen(query, query, value) == expected
