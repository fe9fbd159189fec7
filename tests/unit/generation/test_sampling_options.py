"""min-p, repetition penalty and stop strings match transformers and do not depend on the batch."""

import re
from collections.abc import Callable
from functools import cache

import pytest
import torch
import transformers
from transformers import GenerationConfig

import families
from prefloop.config.generation_settings import SamplingParams
from prefloop.generation.decoding import WeightedModel, next_tokens, penalize, sample_responses, tokens_in
from prefloop.generation.responses import decode_responses
from prefloop.generation.stop_strings import StopStrings
from prefloop.models.chat import eos_ids, prompt_ids
from prefloop.models.fetch import fetch
from prefloop.models.loading import load_merged

TEXTS = ["why?", "what is the answer to a question that is this long?", "good"]
LENGTH = 24


@pytest.mark.parametrize(
    "options",
    [
        {"min_p": 0.2},
        {"min_p": 0.05, "temperature": 0.5},
        {"min_p": 0.3, "temperature": 2.0, "top_k": 5},
        {"min_p": 0.1, "top_p": 0.8},
        {"min_p": 0.02, "top_p": 0.9, "top_k": 12, "temperature": 0.7},
    ],
)
def test_frequencies_match_transformers_warpers(options):
    """With 20,000 evenly spaced numbers in [0, 1), token frequencies equal the warped softmax."""
    draws, params = 20_000, SamplingParams(**options)
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    warped = transformers.TemperatureLogitsWarper(params.temperature)(None, logits)
    warped = transformers.MinPLogitsWarper(params.min_p)(None, warped)
    if params.top_k is not None:
        warped = transformers.TopKLogitsWarper(params.top_k)(None, warped)
    if params.top_p < 1:
        warped = transformers.TopPLogitsWarper(params.top_p)(None, warped)
    uniforms = torch.arange(draws, dtype=torch.float64) / draws
    tokens = next_tokens(logits.expand(draws, -1), uniforms, params)
    frequencies = torch.bincount(tokens, minlength=50) / draws
    assert frequencies.tolist() == pytest.approx(warped.softmax(dim=1)[0].tolist(), abs=2 / draws)
    assert 1 < (frequencies > 0).sum() < 50


def test_penalty_matches_transformers():
    logits = torch.randn(2, 30, generator=torch.Generator().manual_seed(1))
    prompts = [[3, 4, 4], [29]]
    for row, ids in enumerate(prompts):
        processor = transformers.RepetitionPenaltyLogitsProcessor(1.7)
        expected = processor(torch.tensor([ids]), logits[row : row + 1])[0]
        assert torch.equal(penalize(logits, tokens_in(prompts, 30), 1.7)[row], expected)


class Sampler:
    """A tiny model with its tokenizer."""

    def __init__(self, name: str, manifest):
        self.name = name
        self.model, self.tokenizer = load_merged(manifest, manifest, torch.float32, "cpu")
        self.eos = eos_ids(self.tokenizer, self.model.generation_config)
        self.prompts = [prompt_ids(self.tokenizer, [{"role": "user", "content": text}]) for text in TEXTS]

    def sample(self, params, prompts=None, uniforms=None, stop=()):
        prompts = prompts or self.prompts
        uniforms = torch.zeros(len(prompts), LENGTH, dtype=torch.float64) if uniforms is None else uniforms
        strings = StopStrings(self.tokenizer, stop)
        return sample_responses(
            [WeightedModel(self.model)],
            prompts,
            [len(uniforms) // len(prompts)] * len(prompts),
            uniforms,
            params,
            self.eos,
            strings.completed if stop else None,
        )

    def generate(self, prompt, **options):
        """Decode greedily with transformers."""
        config = GenerationConfig(
            do_sample=False, max_new_tokens=LENGTH, eos_token_id=self.eos, pad_token_id=0, **options
        )
        tokenizer = {"tokenizer": self.tokenizer} if "stop_strings" in options else {}
        return self.model.generate(torch.tensor([prompt]), generation_config=config, **tokenizer)[
            0, len(prompt) :
        ].tolist()


@pytest.fixture(scope="module")
def sampler_of(tmp_path_factory) -> Callable[[str], Sampler]:
    """Samplers for different tokenizers: byte-level, and sentencepiece with and without a leading space."""

    @cache
    def make(name: str) -> Sampler:
        folder = tmp_path_factory.mktemp(name)
        fetch(str(families.make_family(folder / "hub", name)), folder / "fetched")
        return Sampler(name, folder / "fetched/manifest.json")

    return make


@pytest.fixture(params=["qwen3", "mistral", "gemma2", "pythia"])
def sampler(request, sampler_of) -> Sampler:
    return sampler_of(request.param)


GREEDY = SamplingParams(temperature=0)


def test_greedy_decoding_with_penalty_matches_transformers(sampler):
    """Prompts in a batch have different lengths, and padding is not penalized."""
    responses = sampler.sample(SamplingParams(temperature=0, repetition_penalty=1.8))
    assert responses == [sampler.generate(prompt, repetition_penalty=1.8) for prompt in sampler.prompts]
    assert responses != sampler.sample(GREEDY)


def test_greedy_decoding_with_stop_strings_matches_transformers(sampler):
    """A stop string may end within a token or span several. The token that completes it is the last one."""
    free = sampler.sample(GREEDY)
    texts = [sampler.tokenizer.decode(ids) for ids in free]
    stops = [match for text in texts for match in re.findall("[!-~]{2,3}", text)[1:2]]  # printable ASCII only
    responses = sampler.sample(GREEDY, stop=stops)
    for ids, response in zip(free, responses, strict=True):
        ends = [end for end in range(1, len(ids)) if any(stop in sampler.tokenizer.decode(ids[:end]) for stop in stops)]
        assert response == ids[: min(ends, default=len(ids))]
    if sampler.name != "mistral":  # transformers does not see the space of its first token
        assert responses == [sampler.generate(prompt, stop_strings=stops) for prompt in sampler.prompts]
    assert sum(map(len, responses)) < sum(map(len, free))
    assert [StopStrings(sampler.tokenizer, stops).cut_ids(ids) for ids in free] == responses


def test_options_do_not_depend_on_the_batch(sampler):
    uniforms = torch.rand(9, LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(min_p=0.02, repetition_penalty=1.2)
    stops = sorted({"a", sampler.tokenizer.decode(sampler.sample(params, uniforms=uniforms)[0])[2:4]})
    together = sampler.sample(params, uniforms=uniforms, stop=stops)
    alone = [
        row
        for i, prompt in enumerate(sampler.prompts)
        for row in sampler.sample(params, [prompt], uniforms[3 * i : 3 * i + 3], stops)
    ]
    assert together == alone
    assert len({len(row) for row in together}) > 1


def test_text_ends_before_the_stop_string(sampler_of):
    """The finish reason is `stop`. The tokens of the stop string are kept, because their probabilities count."""
    tokenizer = sampler_of("pythia").tokenizer
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("good bad", "good Human:", "good")]
    decoded = decode_responses(tokenizer, {(0, i): row for i, row in enumerate(ids)}, [1], stop=["\nUser", " Human:"])
    assert [(r.text, r.finish_reason) for r in decoded.values()] == [
        ("good bad", "length"),
        ("good", "stop"),
        ("good", "length"),
    ]
    assert [r.token_ids for r in decoded.values()] == ids
