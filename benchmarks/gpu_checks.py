"""Checks of benchmarks/gpu.py, which compare results on the device with those of a CPU in float32."""

import contextlib
import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from gpu_report import Report
from measuring import Conversation
from peers import tokenizer
from torch import Tensor

from prefloop.config.generation_settings import SamplingParams
from prefloop.config.training_settings import TrainConfig
from prefloop.generation.decoding import WeightedModel, next_tokens, sample_responses
from prefloop.models.distributed import checkpoint_activations, wrap_model
from prefloop.models.loading import add_adapter, load_policy, load_trainable
from prefloop.models.options import Lora
from prefloop.models.policies import Provenance, policy_content, trained_weights
from prefloop.models.precision import keep_masters, trained_parameters
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs
from prefloop.training.checkpoint import TrainingCheckpoint
from prefloop.training.loop import optimize
from prefloop.training.preference import PreferenceObjective, TokenizedPair
from prefloop.training.run import start_accelerator
from prefloop.training.tracking import Tracking

VOCABULARY, EOS, PAD = 1000, 1, 2
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
LIMITS = {torch.float32: (1e-4, 1e-4), torch.bfloat16: (0.1, 0.05)}  # nats per token; relative error of gradients


def small_model(architecture: str = "qwen3") -> Any:
    """A model with three layers, grouped queries and a tied head, always with the same weights, on the CPU in float32.

    Heads have 64 dimensions, which the fast attention kernels need. Weights are so large that the context matters.
    """
    import transformers

    torch.manual_seed(0)
    if architecture == "qwen3":
        model: Any = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SHAPE, head_dim=64))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.06)
    return model.eval()


def random_conversations(count: int, prompt: int, response: int, n: int, seed: int) -> list[Conversation]:
    """Prompts of about `prompt` tokens with n responses of about `response`; each first response has 1 to 3 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    def near(length: int) -> int:
        return max(1, int(length * (0.3 + 1.4 * torch.rand((), generator=generator).item())))

    return [
        Conversation(ids(near(prompt)), [ids(near(response)) if i else ids(1 + number % 3) for i in range(n)])
        for number in range(count)
    ]


def flat(conversations: list[Conversation]) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses as two lists with one entry per response."""
    prompts = [prompt for prompt, responses in conversations for _ in responses]
    return prompts, [response for _, responses in conversations for response in responses]


def pairs_of(conversations: list[Conversation]) -> list[TokenizedPair]:
    """The first two responses of each conversation, with made-up log-probabilities of the reference."""
    return [TokenizedPair(p, r[0], r[1], -5.0 * len(r[0]), -5.0 * len(r[1])) for p, r in conversations]


def new_accelerator(device: str) -> Any:
    """An Accelerator for a device, independent of earlier ones in this process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return start_accelerator(device, Tracking())


def gradients_of(model: Any, conversations: list[Conversation], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Gradients of the summed log-probabilities, as training computes them."""
    for parameter in model.parameters():
        parameter.data = parameter.data if parameter.requires_grad else parameter.data.to(dtype)
    keep_masters(model, dtype)
    response_logprobs(prepare_scorer(model), *flat(conversations)).sum().backward()
    return {name: cast(Tensor, p.grad).double().cpu() for name, p in trained_parameters(model).items()}


def relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """‖found − expected‖ / ‖expected‖ over all tensors."""
    difference = sum((found[name] - tensor).square().sum() for name, tensor in expected.items())
    return (difference / sum(tensor.square().sum() for tensor in expected.values())).sqrt().item()


def check_logprobs(report: Report, device: str) -> None:
    """Log-probabilities and gradients of small models."""
    conversations = random_conversations(6, prompt=40, response=30, n=3, seed=1)
    lengths = torch.tensor([float(len(response)) for response in flat(conversations)[1]])
    for architecture in ("qwen3", "llama"):
        base = small_model(architecture)
        with torch.no_grad():
            expected = response_logprobs(prepare_scorer(copy.deepcopy(base)), *flat(conversations))
            for dtype, (limit, _) in LIMITS.items():
                scorer = prepare_scorer(copy.deepcopy(base).to(device, dtype))
                found = response_logprobs(scorer, *flat(conversations)).cpu()
                name = f"{architecture}, log-probabilities in {dtype}: nats per token from float32 on a CPU"
                report.at_most(name, ((found - expected).abs() / lengths).max().item(), limit)
        for parameters in ("full", "lora"):
            model = copy.deepcopy(base) if parameters == "full" else add_random_adapter(copy.deepcopy(base))
            reference = gradients_of(copy.deepcopy(model), conversations, torch.float32)
            for dtype, (_, limit) in LIMITS.items():
                found_gradients = gradients_of(copy.deepcopy(model).to(device), conversations, dtype)
                name = f"{architecture}, {parameters}, gradient in {dtype}: relative error from float32 on a CPU"
                report.at_most(name, relative_error(found_gradients, reference), limit)


def add_random_adapter(model: Any) -> Any:
    """Adapters that change the model's output."""
    torch.manual_seed(1)
    model = add_adapter(model, Lora(r=8))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


class Training:
    """Six DPO steps on one device, with all parameters in float32.

    Args:
        device (str): The device.
    """

    def __init__(self, device: str) -> None:
        self.accelerator = new_accelerator(device)
        self.pairs = pairs_of(random_conversations(24, prompt=30, response=30, n=2, seed=3))

    def losses(
        self, recompute: bool = False, folder: Path | None = None, stop_after: int | None = None
    ) -> torch.Tensor:
        """Losses of the steps that run; after `stop_after` steps the training is interrupted."""
        settings = TrainConfig(parameters="full", learning_rate=1e-3, batch_size=4, micro_batch_size=2, dtype="float32")
        model, losses = small_model(), []
        if recompute:
            checkpoint_activations(model)
        model = wrap_model(model, "none", self.accelerator, torch.float32)
        objective = PreferenceObjective(prepare_scorer(model), self.pairs, settings, self.accelerator)
        checkpoint = TrainingCheckpoint(folder, "fingerprint", 1, self.accelerator) if folder else None

        def on_step(metrics: dict[str, Any]) -> None:
            losses.append(metrics["loss"])
            if len(losses) == stop_after:
                raise InterruptedError

        with contextlib.suppress(InterruptedError):
            optimize(
                model,
                objective,
                settings,
                seed=0,
                accelerator=self.accelerator,
                on_step=on_step,
                checkpoint=checkpoint,
            )
        return torch.tensor(losses)


def check_training(report: Report, device: str) -> None:
    """Compare losses of a short training with a CPU's, with those of recomputed layers, and after an interruption."""
    on_cpu, training = Training("cpu").losses(), Training(device)
    losses = training.losses()
    report.at_most("DPO, 6 steps in float32: losses from a CPU's", (losses - on_cpu).abs().max().item(), 1e-3)
    recomputed = training.losses(recompute=True)
    report.at_most("the same with gradient checkpointing", (recomputed - losses).abs().max().item(), 1e-4)
    with tempfile.TemporaryDirectory() as folder:
        training.losses(folder=Path(folder), stop_after=4)  # the fourth step is not saved
        resumed = training.losses(folder=Path(folder))
    report.at_most("steps repeated after an interruption", len(resumed), 3)
    report.at_most("losses after an interruption, from those without", (resumed - losses[3:]).abs().max().item(), 1e-4)


def saved_model(folder: Path) -> Path:
    """Write the small model with a tokenizer, and return its manifest."""
    small_model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"source": "random", "sha256": "0", "parameters": 1, "files": {}}))
    return manifest


def check_first_margins(report: Report, device: str) -> None:
    """Check the margins of the first step, where reference and policy have to agree exactly."""
    conversations = random_conversations(16, prompt=40, response=60, n=2, seed=4)
    with tempfile.TemporaryDirectory() as folder:
        manifest = saved_model(Path(folder))
        for parameters in ("full", "lora"):
            scoring = prepare_scorer(load_policy(manifest, manifest, torch.bfloat16, device)[0])
            with torch.no_grad():
                logps = response_logprobs(scoring, *flat(conversations)).reshape(-1, 2).tolist()
            pairs = [TokenizedPair(p, *r, *logp) for (p, r), logp in zip(conversations, logps, strict=True)]
            settings = TrainConfig(parameters=parameters, batch_size=16, micro_batch_size=16, dtype="bfloat16")
            accelerator = new_accelerator(device)
            network, _ = load_trainable(manifest, manifest, parameters, Lora(), torch.bfloat16)
            model = wrap_model(network, "none", accelerator, torch.bfloat16)
            objective = PreferenceObjective(prepare_scorer(model), pairs, settings, accelerator)
            margins = objective.terms_of(list(range(len(pairs))))["margin"]
            name = f"margins of the first step, {parameters} in bfloat16: largest, nats"
            report.at_most(name, margins.abs().max().item(), 0.0)


def check_policy_bytes(report: Report, device: str) -> None:
    """Check that a policy.pt has every parameter once, also a head that is tied to the embedding."""
    model = small_model().to(device)
    with tempfile.TemporaryDirectory() as folder:
        manifest = saved_model(Path(folder))
        provenance = Provenance(manifest, round_index=1, seed=0, pairs_sha256="")
        state = policy_content(model, trained_weights(model, None), None, provenance)["state_dict"]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values()}
    share = sum(storages.values()) / sum(p.nbytes for p in model.parameters())
    report.at_most("policy.pt of a tied model: its bytes, relative to its parameters", share, 1.01)


def check_decoding(report: Report, device: str) -> None:
    """Compare tokens drawn with given random numbers, and greedy responses."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((64, 50000), generator=generator) * 3
    uniforms = torch.rand(64, generator=generator, dtype=torch.float64)
    cases = {"all": SamplingParams(), "top-p": SamplingParams(temperature=0.7, top_p=0.9)}
    for name, params in (cases | {"top-k": SamplingParams(top_k=50)}).items():
        here, there = (next_tokens(logits.to(d), uniforms.to(d), params).cpu() for d in ("cpu", device))
        different = (here != there).float().mean().item()
        report.at_most(f"sampling, {name}: share of tokens that differ from a CPU's", different, 0.02)
    prompts = [prompt for prompt, _ in random_conversations(6, prompt=40, response=1, n=1, seed=5)]
    draw = greedy_sampler(prompts)
    here_and_there = list(zip(draw("cpu"), draw(device), strict=True))
    compared = [(a, b) for one, other in here_and_there for a, b in zip(one, other, strict=False)]
    different = sum(a != b for a, b in compared) / len(compared)
    report.at_most("greedy decoding: share of tokens that differ from a CPU's", different, 0.02)


def greedy_sampler(prompts: list[list[int]]) -> Callable[[str], list[list[int]]]:
    """A function that returns two greedy responses of 24 tokens to each prompt on a device."""
    uniforms = torch.zeros((2 * len(prompts), 24), dtype=torch.float64)
    params, counts = SamplingParams(temperature=0.0), [2] * len(prompts)
    return lambda device: sample_responses(
        [WeightedModel(small_model().to(device))], prompts, counts, uniforms, params, [EOS]
    )


CHECKS = (check_logprobs, check_training, check_first_margins, check_policy_bytes, check_decoding)
