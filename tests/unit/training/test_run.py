"""The start of training programs, before the training loop."""

import signal
import subprocess
import sys
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


# The main thread locks a mutex twice, so that it never returns to Python, like one that waits for a dead process.
STUCK = """
import ctypes
import signal
from prefloop.training.run import end_after_interrupt
signal.signal(signal.SIGINT, lambda *_: None)  # processes in the background ignore it
end_after_interrupt(0.5)
lock = ctypes.CDLL(None).pthread_mutex_lock
mutex = ctypes.create_string_buffer(64)
print("ready", flush=True)
lock(mutex)
lock(mutex)
"""


def test_ctrl_c_ends_a_process_that_waits_for_a_dead_one():
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.communicate()
