"""Measure how a stage's time grows if one quantity doubles: prompts, responses, length, clusters.

    OMP_NUM_THREADS=2 python benchmarks/growth.py [--only generate logprobs]

Each quantity takes three or four values, each twice the previous one; all other arguments have their defaults. The
values of a quantity run in turn, three times after an untimed run. The slope is that of a straight line through the
logarithms of value and median seconds. It is 0 if doubling the value does not change the time, 1 if it doubles the
time,
and 2 if it quadruples the time. Models have SmolLM2-135M's shape and random weights. Start-up of programs is not
included.
"""

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from measuring import SMOLLM2, conversations, in_turn, machine, new_model
from scoring import ours as score

from prefloop.config.generation_settings import SamplingParams
from prefloop.config.training_settings import TrainConfig
from prefloop.data.clusters import cluster
from prefloop.data.pairs import all_pairs, to_columns
from prefloop.data.pfp_rows import pfp_row
from prefloop.generation.decoding import WeightedModel
from prefloop.generation.decoding import sample_responses as sample
from prefloop.methods.bandit import Arms, BanditConfig, draw_prompts, score_arms, update_arms
from prefloop.methods.pair_metrics import METRICS
from prefloop.models.batching import batches_by_length
from prefloop.models.cpu_decoding import optimize_for_cpu_decoding
from prefloop.models.distributed import wrap_model
from prefloop.models.loading import add_adapter
from prefloop.models.options import Lora
from prefloop.models.response_logprobs import prepare_scorer
from prefloop.training.loop import optimize
from prefloop.training.preference import PreferenceObjective, TokenizedPair
from prefloop.training.run import start_accelerator
from prefloop.training.tracking import Tracking

PAD = SMOLLM2["pad_token_id"]
Work = Callable[[], object]


def generate(prompts: int = 4, responses: int = 4, length: int = 8, prompt_length: float = 1) -> Work:
    """Sampling in batches of 64, as in workflow/scripts/generate.py, with `length` tokens per response."""
    model, asked = models()["sampling"], [one.prompt for one in conversations(prompts, 1, prompt_length)]
    uniforms = np.random.default_rng(0).random((prompts, responses, length))

    def work() -> None:
        for batch in batches_by_length(list(map(len, asked)), max(1, 64 // responses)):
            drawn = torch.from_numpy(uniforms[batch].reshape(-1, length))
            inputs = [asked[i] for i in batch]
            sample([WeightedModel(model)], inputs, [responses] * len(batch), drawn, SamplingParams(), [PAD], PAD)

    return work


def logprobs(prompts: int = 4, responses: int = 2, length: float = 1, prompt_length: float = 1) -> Work:
    """Log-probabilities in batches of 64; `length` is a factor for the lengths of HH-RLHF's pairs."""
    asked = conversations(prompts, responses, prompt_length, length)
    scorer = prepare_scorer(models()["scoring"])
    return lambda: score(scorer, asked)


def training(pairs: int = 4, length: float = 1, prompt_length: float = 1) -> Work:
    """DPO of rank-16 adapters in steps of four pairs."""
    asked = conversations(pairs, 2, prompt_length, length)
    rows = [TokenizedPair(one.prompt, *one.responses, -100.0, -100.0) for one in asked]
    settings = TrainConfig(epochs=1, batch_size=4, micro_batch_size=4, dtype=str(DTYPE).removeprefix("torch."))

    def work() -> None:
        accelerator = start_accelerator("cpu", Tracking())
        model = wrap_model(models()["adapter"], "none", accelerator, DTYPE)
        objective = PreferenceObjective(prepare_scorer(model), rows, settings, accelerator)
        optimize(model, objective, settings, seed=0, accelerator=accelerator)

    return work


def select_pairs(prompts: int = 1000, responses: int = 4) -> Work:
    """All pairs of each prompt's responses, with their preference perplexity."""
    rng = np.random.default_rng(0)

    def response(response_id: int) -> dict:
        values = {"reward": rng.normal(), "logp": -rng.gamma(20, 10), "logp_ref": -rng.gamma(20, 10), "n_tokens": 20}
        return {"response_id": response_id, "response": f"response {response_id}"} | values

    rows = [
        pfp_row({"prompt_id": str(i), "cluster": 0, "messages": []}, [response(number) for number in range(responses)])
        for i in range(prompts)
    ]
    return lambda: METRICS["pfp"](to_columns(all_pairs(rows)[0]), np.random.default_rng(0))


def bandit(prompts: int = 20_000, clusters: int = 250) -> Work:
    """A step's update of all arms, their scores, and a proportional draw of a twentieth of the prompts."""
    rng = np.random.default_rng(0)
    labels, rewards = rng.integers(clusters, size=prompts), rng.random(prompts)
    centroids, times = np.zeros((clusters, 2)), np.zeros(prompts, dtype=int)

    def work() -> None:
        arms = score_arms(update_arms(Arms.fresh(clusters), labels, rewards, 1.0), centroids, BanditConfig())
        draw_prompts(arms, labels, times, prompts // 20, np.random.default_rng(0), BanditConfig())

    return work


def clustering(prompts: int = 5_000, clusters: int = 50) -> Work:
    """k-means of embeddings with 384 dimensions."""
    embeddings = np.random.default_rng(0).standard_normal((prompts, 384), dtype=np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return lambda: cluster(embeddings, clusters, seed=0)


DTYPE = torch.bfloat16
LOADED: dict[str, torch.nn.Module] = {}
STAGES: dict[str, tuple[Callable[..., Work], dict[str, list]]] = {
    "generate": (
        generate,
        {
            "prompts": [4, 8, 16, 32],
            "responses": [2, 4, 8, 16],
            "length": [8, 16, 32, 64],
            "prompt_length": [0.5, 1, 2, 4],
        },
    ),
    "logprobs": (
        logprobs,
        {
            "prompts": [2, 4, 8, 16],
            "responses": [2, 4, 8, 16],
            "length": [0.5, 1, 2, 4],
            "prompt_length": [0.5, 1, 2, 4],
        },
    ),
    "train": (training, {"pairs": [4, 8, 16], "length": [0.5, 1, 2, 4], "prompt_length": [0.5, 1, 2, 4]}),
    "select_pairs": (select_pairs, {"prompts": [1000, 2000, 4000, 8000], "responses": [2, 4, 8, 16]}),
    "update_arms, allocate": (
        bandit,
        {"prompts": [20_000, 40_000, 80_000, 160_000], "clusters": [125, 250, 500, 1000]},
    ),
    "cluster_prompts": (clustering, {"prompts": [5_000, 10_000, 20_000, 40_000], "clusters": [50, 100, 200, 400]}),
}


def models() -> dict[str, torch.nn.Module]:
    """Models for sampling, for scoring, and for training adapters; created at the first call."""
    if not LOADED:
        optimize_for_cpu_decoding(sampling := new_model(DTYPE, attn_implementation="eager"))
        LOADED["sampling"], LOADED["scoring"] = sampling, new_model(DTYPE)
        LOADED["adapter"] = add_adapter(new_model(DTYPE), Lora(r=16))
    return LOADED


def slope(values: list[float], seconds: list[float]) -> float:
    """The least-squares slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    given = parser.parse_args()
    print(f"{machine()}\n{str(DTYPE).removeprefix('torch.')}\n\n| stage | doubled | values | seconds | slope |")
    print("|---|---|---|---|---:|")
    for stage in given.only:
        make, quantities = STAGES[stage]
        for quantity, values in quantities.items():
            works = {str(value): make(**{quantity: value}) for value in values}
            medians = [statistics.median(taken) for taken in in_turn(works, repeats=3).values()]
            cells = [stage, quantity.replace("_", " "), ", ".join(works)]
            cells += [", ".join(f"{seconds:.3g}" for seconds in medians), f"{slope(values, medians):.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
