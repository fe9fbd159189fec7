"""Check prefloop on a GPU: correct results, speed, and memory.

    python benchmarks/gpu.py --out OUT                         # on the GPU machine; at most 8 minutes
    python benchmarks/gpu.py --device cpu --small --out OUT    # tiny shapes: a test of this script

Run it from the repository. It needs torch, transformers, peft and accelerate, but no internet. TRL is compared if it is
installed (tests/requirements.txt). Models have random weights: small models for the checks, and the shape of Qwen3-1.7B
for speeds. Texts have the lengths of HH-RLHF (lengths.csv), or of DOTA's limits: prompts of 256 tokens and responses of
768. Each line is `PASS|FAIL|SKIP|INFO name value limit`. OUT gets gpu.json and gpu.md. The exit code is 1 if a check
fails. Shares of peak count unavoidable operations, including attention.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow/scripts"))

import torch
from gpu_checks import CHECKS, flat, new_accelerator, pairs_of
from gpu_report import Report
from measuring import Conversation, conversations, machine
from peers import dpo_trainer, with_adapter

from prefloop.config.generation_settings import SamplingParams
from prefloop.config.training_settings import TrainConfig
from prefloop.generation.decoding import WeightedModel, sample_responses
from prefloop.models.batching import batches_by_length
from prefloop.models.devices import use_plain_attention_kernels
from prefloop.models.distributed import checkpoint_activations, wrap_model
from prefloop.models.loading import add_adapter
from prefloop.models.options import Lora
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs
from prefloop.training.loop import optimize
from prefloop.training.preference import PreferenceObjective

PEAKS = {  # dense bfloat16 operations per second, from the manufacturer, by the name of the device
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
QWEN3_1_7B = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 2000,
}
TOKENS = 8192  # per micro-batch where a goal names it
GIB = 2**30


class Machine:
    """The device, its arithmetic and its speed of plain matrix products.

    Args:
        device (str): `cuda` or `cpu`.
        is_small (bool): Tiny shapes.
        report (Report): Receives all measurements.
    """

    def __init__(self, device: str, is_small: bool, report: Report) -> None:
        self.device, self.is_small, self.report = device, is_small, report
        self.is_cuda = device == "cuda"
        self.dtype = torch.bfloat16 if self.is_cuda else torch.float32
        self.product = float("nan")

    def now(self) -> float:
        """The time in seconds, after all work on the device has ended."""
        if self.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Median seconds of some work, after one untimed run."""
        work()
        taken = []
        for _ in range(repeats):
            began = self.now()
            work()
            taken.append(self.now() - began)
        return statistics.median(taken)

    def peak_memory(self, work: Callable[[], object]) -> float:
        """GiB that some work allocates on the device, in addition to memory that is already allocated."""
        if not self.is_cuda:
            work()
            return float("nan")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / GIB

    def measure_product(self) -> None:
        """The rate of a large matrix product, as an upper limit for programs."""
        size = 8192 if self.is_cuda else 512
        left, right = (torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(2))
        self.product = 2 * size**3 / self.seconds(lambda: left @ right, repeats=20)
        self.report.record("INFO", "matrix product, TFLOP/s", self.product / 1e12)

    def peak(self) -> float | None:
        """The manufacturer's operations per second; None for an unknown device."""
        return PEAKS.get(torch.cuda.get_device_name()) if self.is_cuda else None

    def shares(self, operations: float, seconds: float) -> str:
        """Operations per second as shares of the peak and of the measured product."""
        of_product = f"{100 * operations / seconds / self.product:.0f} % of the product"
        peak = self.peak()
        return of_product if peak is None else f"{100 * operations / seconds / peak:.0f} % of peak, {of_product}"

    def model(self, dtype: torch.dtype, **changes: Any) -> Any:
        """A model with random weights, created on the device."""
        import transformers

        torch.manual_seed(0)
        shape = (SMALL if self.is_small else QWEN3_1_7B) | changes
        config = transformers.Qwen3Config(**shape, tie_word_embeddings=True, max_position_embeddings=4096)
        with torch.device(self.device):
            return transformers.Qwen3ForCausalLM(config).to(dtype).eval()

    def workload(self, lengths: str, count: int, n: int) -> list[Conversation]:
        """Random tokens, with the lengths of HH-RLHF (`hh`) or of DOTA's limits (`limits`)."""
        if lengths == "hh":
            stretch = 0.2 if self.is_small else 1.0
            rows = conversations(count, n, stretch, stretch)
            size = SMALL["vocab_size"] if self.is_small else SMALL["vocab_size"] * 20
            return [Conversation([t % size for t in p], [[t % size for t in r] for r in rs]) for p, rs in rows]
        generator = torch.Generator().manual_seed(5)
        prompt, response = (16, 24) if self.is_small else (256, 768)

        def ids(length: int) -> list[int]:
            return torch.randint(3, SMALL["vocab_size"], (length,), generator=generator).tolist()

        return [Conversation(ids(prompt), [ids(response) for _ in range(n)]) for _ in range(count)]


def operations(model: Any, asked: list[Conversation]) -> tuple[float, int]:
    """The unavoidable multiplications and additions of a forward pass, and the tokens that it reads.

    Each prompt is read once, the head is computed only for response tokens, and attention is causal.
    """
    config = model.config.get_text_config()
    head = config.vocab_size * config.hidden_size
    body = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name) - head
    scored = sum(len(response) for _, responses in asked for response in responses)
    read = sum(len(prompt) + sum(len(r) - 1 for r in responses) for prompt, responses in asked)
    pairs = sum(len(p) ** 2 / 2 + sum(len(r) * len(p) + len(r) ** 2 / 2 for r in rs) for p, rs in asked)
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * pairs
    return 2 * body * read + 2 * head * scored + attention, read


def measure_lengths(at: Machine) -> None:
    """Check that a new sequence length does not take much longer than a known one.

    cuDNN's attention, which torch prefers on new GPUs, prepares a plan for every length.
    """
    model = at.model(at.dtype, num_hidden_layers=1, vocab_size=1000)
    scorer = prepare_scorer(model)

    def step(lengths: list[int]) -> None:
        asked = [Conversation([5] * length, [[7] * (length // 2), [9] * (length // 3)]) for length in lengths]
        response_logprobs(scorer, *flat(asked)).sum().backward()

    def measure(kernels: str) -> float:
        step([300, 400])
        began, count = at.now(), 0
        while count < 12 and at.now() - began < 8:
            step([301 + 2 * count, 411 + 3 * count])
            count += 1
        new = (at.now() - began) / count
        known = at.seconds(lambda: step([333, 444]), repeats=9)
        name = f"forward and backward of one layer, {kernels}: ms for a new length, for a known one"
        at.report.record("INFO", name, f"{1e3 * new:.2f}, {1e3 * known:.2f}")
        return new / known

    ratio = measure("kernels as prefloop chooses them")
    at.report.at_most("time of a new length, relative to a known one", ratio, 5.0)
    if at.is_cuda:
        was_enabled = torch.backends.cuda.cudnn_sdp_enabled()
        torch.backends.cuda.enable_cudnn_sdp(True)
        measure("kernels as torch chooses them")
        torch.backends.cuda.enable_cudnn_sdp(was_enabled)


def measure_scoring(at: Machine, lengths: str) -> None:
    """Tokens per second of scoring: three responses per prompt, in batches of about `TOKENS` tokens."""
    scorer = prepare_scorer(at.model(at.dtype))
    asked = at.workload(lengths, 6 if at.is_small else {"hh": 192, "limits": 24}[lengths], 3)
    sizes = [len(prompt) + sum(map(len, responses)) for prompt, responses in asked]
    batches = batches_by_length(sizes, max(1, round(TOKENS / statistics.mean(sizes))))

    @torch.no_grad()
    def work() -> None:
        for batch in batches:
            response_logprobs(scorer, *flat([asked[i] for i in batch])).tolist()

    began = at.now()
    work()
    first = at.now() - began
    seconds = at.seconds(work)
    needed, read = operations(scorer.model, asked)
    name = f"scoring, {lengths}: tokens/s, share of peak, GiB above the model"
    value = f"{read / seconds:.0f}, {at.shares(needed, seconds)}, {at.peak_memory(work):.1f}"
    at.report.record("INFO", f"{name}; first pass {first:.1f} s", value)
    if (peak := at.peak()) is not None and lengths == "limits":
        at.report.at_least("scoring: share of peak", needed / seconds / peak, 0.55)


def measure_training(at: Machine, parameters: str, lengths: str, recompute: bool = False) -> tuple[float, float]:
    """Full DPO steps in micro-batches of at most `TOKENS` tokens; the first of four is not timed.

    Returns:
        tuple: Pairs per second, and GiB of memory above the model.
    """
    batch = 4 if at.is_small else {"hh": 64, "limits": 16}[lengths]
    asked = at.workload(lengths, 4 * batch, 2)
    settings = TrainConfig(
        parameters=parameters,
        batch_size=batch,
        micro_batch_tokens=100 if at.is_small else TOKENS,
        dtype=str(at.dtype).removeprefix("torch."),
        warmup_ratio=0.0,
    )
    model = at.model(torch.float32 if parameters == "full" else at.dtype)
    model = add_adapter(model, Lora()) if parameters == "lora" else model
    if recompute:
        checkpoint_activations(model)
    accelerator, steps = new_accelerator(at.device), []

    def work() -> None:
        wrapped = wrap_model(model, "none", accelerator, at.dtype)
        objective = PreferenceObjective(prepare_scorer(wrapped), pairs_of(asked), settings, accelerator)
        steps.extend(optimize(wrapped, objective, settings, seed=0, accelerator=accelerator))

    memory = at.peak_memory(work)
    seconds = statistics.median(step["seconds"] for step in steps[1:])
    needed, read = operations(model, asked)
    needed *= (3 if parameters == "full" else 2) / len(steps)  # backward to inputs, and to all weights if trained
    recomputed = ", layers recomputed" if recompute else ""
    name = f"DPO, {parameters}, {lengths}{recomputed}: pairs/s, tokens/s, share of peak, GiB above the model"
    value = f"{batch / seconds:.2f}, {read / len(steps) / seconds:.0f}, {at.shares(needed, seconds)}, {memory:.1f}"
    at.report.record("INFO", name, value)
    if (peak := at.peak()) is not None and not recompute:
        at.report.at_least(f"DPO, {parameters}, {lengths}: share of peak", needed / seconds / peak, 0.45)
    return batch / seconds, memory


def measure_trl(at: Machine, ours: tuple[float, float]) -> None:
    """TRL's DPOTrainer at its best settings with the same lengths: adapters, given references, no recomputed layers."""
    try:
        import trl  # noqa: F401
        from transformers import TrainerCallback
    except ImportError:
        at.report.record("SKIP", "comparison with TRL", "TRL is not installed")
        return
    batch = 2 if at.is_small else 32
    asked, taken = at.workload("hh", 4 * batch, 2), []
    rows = [{"prompt_ids": p, "chosen_ids": r[0], "rejected_ids": r[1]} for p, r in asked]
    trainer = dpo_trainer(
        with_adapter(at.model(at.dtype)),
        rows,
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        gradient_checkpointing=False,
        precompute_ref_log_probs=True,
        **({"bf16": True} if at.is_cuda else {}),
    )
    data = trainer.train_dataset
    for column in ("ref_chosen_logps", "ref_rejected_logps"):
        data = data.add_column(column, [-100.0] * len(rows))
    trainer.train_dataset = data

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = at.now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            taken.append(at.now() - self.began)

    trainer.add_callback(Clock())
    memory = at.peak_memory(trainer.train)
    theirs = batch / statistics.median(taken[1:])
    at.report.record("INFO", "TRL's DPOTrainer, lora, hh: pairs/s, GiB above the model", f"{theirs:.2f}, {memory:.1f}")
    if at.is_cuda:
        at.report.at_least("DPO, lora, hh: pairs/s relative to TRL", ours[0] / theirs, 3.0)
        at.report.at_most("DPO, lora, hh: memory relative to TRL", ours[1] / memory, 0.5)
    else:
        at.report.record("INFO", "DPO, lora, hh: pairs/s relative to TRL", ours[0] / theirs)


def measure_decoding(at: Machine) -> None:
    """Sample responses with transformers, the fallback without vLLM, twice: the second time, lengths are known."""
    model, rows, tokens = at.model(at.dtype), 4 if at.is_small else 64, 8 if at.is_small else 96
    prompts = [prompt for prompt, _ in at.workload("hh", rows, 2)]
    for number in ("first", "second"):
        uniforms = torch.rand((rows, tokens), dtype=torch.float64)
        began = at.now()
        drawn = sample_responses([WeightedModel(model)], prompts, [1] * rows, uniforms, SamplingParams(), [1])
        seconds = at.now() - began
        value = f"{sum(map(len, drawn)) / seconds:.0f}, {1e3 * seconds / tokens:.1f}"
        at.report.record("INFO", f"decoding {rows} rows, {number} time: tokens/s, ms per step", value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to test this script")
    parser.add_argument("--minutes", type=float, default=7.5, help="parts that would take longer are skipped")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir(), "prefloop-gpu"), help="for the tables")
    given = parser.parse_args()
    report = Report(given.minutes)
    at = Machine(given.device, given.small, report)
    use_plain_attention_kernels()  # as in every stage that loads a model
    report.record("INFO", "machine", machine())
    if at.is_cuda:
        versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        report.record("INFO", "versions", versions)
    report.part("matrix product", 20, at.measure_product)
    for check in CHECKS:
        report.part(check.__name__.replace("_", " "), 20, lambda check=check: check(report, at.device))
    report.part("lengths", 40, lambda: measure_lengths(at))
    for lengths in ("hh", "limits"):
        report.part(f"scoring, {lengths}", 30, lambda lengths=lengths: measure_scoring(at, lengths))
    ours: list[tuple[float, float]] = []
    report.part("DPO, lora, hh", 40, lambda: ours.append(measure_training(at, "lora", "hh")))
    report.part("TRL", 40, lambda: measure_trl(at, ours[0]))
    for case in (("lora", "limits"), ("full", "hh"), ("full", "limits", True)):
        report.part(f"DPO, {', '.join(map(str, case[:2]))}", 40, lambda case=case: measure_training(at, *case))
    report.part("decoding", 30, lambda: measure_decoding(at))
    report.write(given.out)
    print(f"{report.summary()}\n{given.out}/gpu.md")
    return 1 if report.count("FAIL") else 0


if __name__ == "__main__":
    sys.exit(main())
