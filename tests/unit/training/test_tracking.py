"""Trackers get the values of training.jsonl, and training does not depend on them."""

import importlib.util
import os

import pytest
import torch

import two_processes
from prefloop.config.training_settings import TrainConfig
from prefloop.core.errors import InputError
from prefloop.models.loading import add_adapter, load_base
from prefloop.models.options import Lora
from prefloop.training import tracking as tracking_module
from prefloop.training.run import start_accelerator
from prefloop.training.tracking import Tracking, check_trackers, start_trackers
from train_policy import train_policy


def run(manifest, tracking: Tracking, earlier: list[dict]) -> tuple[list[dict], list[torch.Tensor]]:
    settings = TrainConfig(lora=Lora(r=4, dropout=0.2), learning_rate=1e-3, epochs=2, batch_size=4, dtype="float32")
    torch.manual_seed(0)
    accelerator = start_accelerator("cpu", tracking)
    model = add_adapter(load_base(manifest, torch.float32)[0], settings.lora)
    start_trackers(tracking, accelerator, earlier)

    def on_step(metrics: dict) -> None:
        accelerator.log(metrics, step=metrics["step"])

    steps, _ = train_policy(model, two_processes.PAIRS, settings, accelerator=accelerator, on_step=on_step)
    accelerator.end_training()
    return steps, [p.detach() for p in model.parameters() if p.requires_grad]


def test_missing_tracker_raises():
    with pytest.raises(InputError, match="'neptune' is not one of tensorboard, wandb, mlflow"):
        check_trackers(("neptune",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking_module.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match="wandb is not installed here; run `pip install wandb`"):
            check_trackers(("wandb",))


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="pip install tensorboard")
def test_tensorboard_gets_every_step(manifests, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    silent, weights = run(manifests["llama"], Tracking(), [])
    tracking = Tracking(("tensorboard",), "alignment", "tiny/dota/seed-0/round-1", tmp_path)
    tracked, same = run(manifests["llama"], tracking, silent[:1])
    assert [{k: v for k, v in s.items() if k != "seconds"} for s in tracked] == [
        {k: v for k, v in s.items() if k != "seconds"} for s in silent
    ]
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    events = EventAccumulator(str(tmp_path / "tiny/dota/seed-0/round-1/alignment"))
    events.Reload()
    assert {"loss", "rewards/margins", "beta", "grad_norm"} <= set(events.Tags()["scalars"])
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == pytest.approx({step["step"]: step["loss"] for step in tracked})
    assert [event.step for event in events.Scalars("loss")] == [0, 0, 1, 2, 3], "earlier steps come first"


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="pip install wandb")
def test_wandb_runs_offline(manifests, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "s3cret" * 7)
    run(manifests["llama"], Tracking(("wandb",), "alignment", "tiny/dota/seed-0/round-1", tmp_path), [])
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    content = b"".join(file.read_bytes() for file in files)
    assert any(file.suffix == ".wandb" for file in files)
    assert b"tiny/dota/seed-0/round-1" in content
    assert b"rewards/margins" in content
    assert os.environ["WANDB_API_KEY"].encode() not in content
