"""Train as workflow/scripts/train.py does, but without files."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from prefloop.config.training_settings import TrainConfig
from prefloop.models.distributed import wrap_model
from prefloop.models.response_logprobs import prepare_scorer
from prefloop.training.loop import Metrics, optimize
from prefloop.training.preference import PreferenceObjective, TokenizedPair


def train_policy(
    network: nn.Module,
    pairs: list[TokenizedPair],
    settings: TrainConfig,
    *,
    accelerator: Accelerator | None = None,
    seed: int = 1,
    round_index: int = 1,
    beta_state: dict | None = None,
    sharding: str = "none",
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[list[Metrics], dict]:
    """Train a policy in place; return the metrics of each step and the β rule's state.

    `options` are on_step and checkpoint of `optimize`.
    """
    accelerator = accelerator or Accelerator(cpu=True)
    model = wrap_model(network, sharding, accelerator, dtype)
    objective = PreferenceObjective(prepare_scorer(model), pairs, settings, accelerator, round_index)
    if beta_state is not None:
        objective.load_state_dict(beta_state)
    steps = optimize(model, objective, settings, seed=seed, accelerator=accelerator, **options)
    return steps, objective.state_dict()
