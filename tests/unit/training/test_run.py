"""The start of training programs, before the training loop."""

from datetime import timedelta

import pytest
import torch

from prefloop.core.errors import InputError
from prefloop.training.run import start_accelerator
from prefloop.training.tracking import Tracking


def test_processes_wait_an_hour_for_each_other():
    """With NCCL's default of ten minutes, training would fail while the first process writes a large checkpoint."""
    accelerator = start_accelerator("cpu", Tracking())
    assert accelerator.init_handler.to_kwargs() == {"timeout": timedelta(hours=1)}


def test_more_processes_than_gpus_raise(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="processes: 4 on a machine whose job has 2 GPU.*--set-resources train:gpu=N"):
        start_accelerator("cuda", Tracking())
