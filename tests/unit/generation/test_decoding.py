"""Sampling draws from the correct distribution, and a response depends only on its own random numbers."""

import pytest
import torch
import transformers

from prefloop.config.generation_settings import SamplingParams
from prefloop.core.errors import InputError
from prefloop.generation.decoding import WeightedModel, invert_cdf, next_tokens, sample_responses
from prefloop.models.batching import batches_by_length
from prefloop.models.chat import eos_ids, prompt_ids
from prefloop.models.loading import load_merged

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


def shares(decoding: SamplingParams, draws: int = 4000) -> list[float]:
    """Return how often each of four tokens is drawn with an even grid of uniforms: its probability, up to 1/draws."""
    grid = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    tokens = next_tokens(LOGITS.expand(draws, -1), grid, decoding)
    return (torch.bincount(tokens, minlength=4) / draws).tolist()


@pytest.mark.parametrize(
    ("decoding", "expected"),
    [
        (SamplingParams(), [0.5, 0.3, 0.15, 0.05]),
        (SamplingParams(top_k=2), [0.625, 0.375, 0, 0]),
        (SamplingParams(top_p=0.75), [0.625, 0.375, 0, 0]),
        (SamplingParams(top_p=0.81), [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        (SamplingParams(top_k=3, top_p=0.6), [0.625, 0.375, 0, 0]),
        (SamplingParams(temperature=0), [1, 0, 0, 0]),
        (SamplingParams(temperature=0.5), [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
    ],
)
def test_tokens_are_drawn_with_their_probability(decoding, expected):
    assert shares(decoding) == pytest.approx(expected, abs=1e-3)


def test_top_p_beyond_the_first_guess_sorts_the_whole_vocabulary(monkeypatch):
    expected = shares(SamplingParams(top_p=0.9))
    monkeypatch.setattr("prefloop.generation.decoding.NUCLEUS_GUESS", 1)
    assert shares(SamplingParams(top_p=0.9)) == expected


def test_invert_cdf_never_returns_a_weightless_index():
    weights = torch.tensor([[0.0, 1.0, 0.0, 2.0, 0.0]])
    for uniform, index in [(0.0, 1), (0.333, 1), (0.334, 3), (1 - 2**-53, 3)]:
        assert invert_cdf(weights, torch.tensor([uniform], dtype=torch.float64)).item() == index


@pytest.mark.parametrize("size", [3, 255, 256, 257, 1000])
def test_invert_cdf_searches_the_cumulative_sum(size):
    """Holds for any vocabulary size, and if most tokens have almost no weight."""
    generator = torch.Generator().manual_seed(size)
    for sharpness in (1, 10, 60):
        weights = torch.softmax(sharpness * torch.randn(64, size, generator=generator), dim=1)
        uniforms = torch.rand(64, dtype=torch.float64, generator=generator)
        uniforms[:2] = torch.tensor([0.0, 1 - 2**-53])
        ends, found = weights.double().cumsum(dim=1), invert_cdf(weights, uniforms)
        expected = torch.searchsorted(ends, uniforms[:, None] * ends[:, -1:], right=True).squeeze(1)
        assert torch.equal(found[2:], expected[2:])
        assert (weights.gather(1, found[:, None]) > 0).all()


@pytest.fixture(params=["llama", "qwen", "gpt_neox"])
def sampler(request, manifests):
    manifest = manifests[request.param]
    model, tokenizer = load_merged(manifest, manifest, torch.float32, "cpu")
    eos = eos_ids(tokenizer, model.generation_config)

    def sample(texts, uniforms, decoding=None):
        prompts = [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in texts]
        counts = [len(uniforms) // len(texts)] * len(texts)
        return sample_responses([WeightedModel(model)], prompts, counts, uniforms, decoding or SamplingParams(), eos)

    sample.model, sample.tokenizer, sample.eos = model, tokenizer, eos
    return sample


TEXTS = ["why?", "what is the answer to a question that is this long?", "good"]


def test_response_does_not_depend_on_its_batch(sampler):
    uniforms = torch.rand(12, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = sampler(TEXTS, uniforms)
    alone = [row for i, text in enumerate(TEXTS) for row in sampler([text], uniforms[4 * i : 4 * i + 4])]
    assert together == alone
    assert len({len(row) for row in together}) > 1, "rows must have different lengths for this test"


def test_sampling_equals_a_loop_without_cache(sampler):
    """The tokens equal draws from a full forward pass at every position."""
    uniforms = torch.rand(1, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ids = prompt_ids(sampler.tokenizer, [{"role": "user", "content": TEXTS[1]}])
    expected = []
    for position in range(15):
        with torch.no_grad():
            logits = sampler.model(torch.tensor([ids + expected])).logits[:, -1]
        expected.append(next_tokens(logits, uniforms[:, position], SamplingParams(temperature=0.8)).item())
        if expected[-1] in sampler.eos:
            break
    assert sampler([TEXTS[1]], uniforms, SamplingParams(temperature=0.8)) == [expected]


def test_one_device_synchronization_per_token(sampler, monkeypatch):
    """Python waits for a GPU whenever it reads a value. Without top-p it reads only the tokens."""
    reads = []
    for name in ("tolist", "item", "__bool__", "nonzero"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, own=own, name=name: reads.append(name) or own(self))
    uniforms = torch.rand(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    counted = []
    monkeypatch.setattr(
        "prefloop.generation.decoding.next_tokens",
        lambda *arguments: counted.append(len(reads)) or next_tokens(*arguments),
    )
    sampler(TEXTS, uniforms)
    assert len(counted) > 5
    own_reads = [later - earlier for earlier, later in zip(counted[:-1], counted[1:], strict=True)]
    assert max(own_reads) == 1, reads


def test_responses_end_with_eos_or_at_the_limit(sampler):
    uniforms = torch.rand(60, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for row in sampler(TEXTS, uniforms):
        assert all(token not in sampler.eos for token in row[:-1])
        assert row[-1] in sampler.eos or len(row) == 25


def test_top_p_does_not_depend_on_the_neighbors():
    """bfloat16 logits are often tied. A flat row in the batch requires sorting the whole vocabulary."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 3000, generator=generator).mul(3).bfloat16()
    uniforms = torch.rand(41, dtype=torch.float64, generator=generator)
    decoding = SamplingParams(top_p=0.9)
    alone = torch.cat([next_tokens(rows[i : i + 1], uniforms[i : i + 1], decoding) for i in range(40)])
    batched = next_tokens(torch.cat([rows, torch.zeros(1, 3000).bfloat16()]), uniforms, decoding)
    assert batched[:40].tolist() == alone.tolist()


def test_batches_depend_only_on_lengths():
    assert batches_by_length([3, 9, 5, 9, 1], 2) == [[1, 3], [2, 0], [4]]


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
SMALL |= {"num_key_value_heads": 2, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
LINEAR = dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim"], 8)
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
HYBRIDS = {
    "Lfm2Config": {"layer_types": ["conv", "full_attention"]},
    "Qwen3_5TextConfig": LINEAR
    | {"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2},
    "FalconH1Config": MAMBA,  # attention and a state space in every layer
}


def random_model(config: str, **settings):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**SMALL, **settings)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def reread(model, ids: list[int], count: int) -> list[int]:
    """Decode greedily and read the whole text again for every token."""
    text = list(ids)
    with torch.no_grad():
        for _ in range(count):
            text.append(int(model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
    return text[len(ids) :]


@pytest.mark.parametrize("config", HYBRIDS)
def test_layers_without_attention_keep_their_state(config):
    """Prompts are padded, have several responses, and most of the batch ends before the last one."""
    model, prompts = random_model(config, **HYBRIDS[config]), [[0, 5, 9, 11, 3, 8], [0, 7], [0, 30, 31]]
    expected = [reread(model, ids, 12) for ids in prompts for _ in range(2)]
    ends = {expected[0][2], expected[2][4]}
    lengths = [next((i + 1 for i, token in enumerate(row) if token in ends), 12) for row in expected]
    uniforms = torch.zeros(6, 12, dtype=torch.float64)
    found = sample_responses([WeightedModel(model)], prompts, [2] * 3, uniforms, SamplingParams(temperature=0), ends)
    assert found == [row[:length] for row, length in zip(expected, lengths, strict=True)]


def test_padding_token_without_an_embedding_is_not_read():
    """The tokenizers of some published models have an added padding token."""
    model, prompts = random_model("LlamaConfig"), [[0, 5, 9, 11], [0, 7]]
    model.config.pad_token_id = 64
    uniforms = torch.zeros(2, 5, dtype=torch.float64)
    found = sample_responses([WeightedModel(model)], prompts, [1, 1], uniforms, SamplingParams(temperature=0), [])
    assert found == [reread(model, ids, 5) for ids in prompts]


def test_model_without_a_key_value_cache_is_refused():
    model, uniforms = random_model("MambaConfig", state_size=4), torch.zeros(1, 4, dtype=torch.float64)
    with pytest.raises(InputError, match="MambaForCausalLM: its state is not in a key-value cache.*engine: vllm"):
        sample_responses([WeightedModel(model)], [[0, 5]], [1], uniforms, SamplingParams(), [1])
