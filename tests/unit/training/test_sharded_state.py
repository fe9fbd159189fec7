"""Sharded models: one process reads and writes full weights, and any number of processes can resume from shards."""

import json
import os
import subprocess
import sys

import pytest
import torch

import tiny
import two_process_storage as storage
from conftest import ROOT
from prefloop.core.errors import InputError
from prefloop.core.files import read_tensors
from prefloop.models.fetch import fetch
from prefloop.models.loading import load_trainable


@pytest.fixture(scope="module")
def two(manifests, trained, tmp_path_factory):
    """Folder, results and cases of `two_process_storage` in two processes."""
    folder = tmp_path_factory.mktemp("two")
    fetch(str(tiny.make_model(folder / "made", "qwen", tied=True)), folder / "tied")
    llama, tied = str(manifests["llama"]), str(folder / "tied/manifest.json")
    cases = {
        "full": (llama, llama, "full", "float32"),
        "adapters": (llama, llama, "lora", "bfloat16"),
        "trained": (llama, str(trained("full")), "full", "float32"),
        "trained adapters": (llama, str(trained("lora")), "lora", "bfloat16"),
        "tied": (tied, tied, "full", "float32"),
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    storage.trained(manifests["llama"], folder / "whole", "none", kill_at=5)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "tests/helpers/two_process_storage.py"), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "resumes after step" in done.stdout
    return folder, torch.load(folder / "out.pt", weights_only=True), cases


def test_second_process_gets_weights_from_the_first(two):
    """Parameters and buffers equal those loaded by one process, bit by bit. Only the first process gathers them."""
    _, results, cases = two
    for name, (manifest, policy, parameters, dtype) in cases.items():
        torch.manual_seed(0)
        expected, _ = load_trainable(manifest, policy, parameters, storage.LORA, getattr(torch, dtype))
        found = results["loaded"][name]
        named = dict(expected.named_parameters())
        assert list(found["parameters"]) == list(named), name
        for key, parameter in named.items():
            assert torch.equal(found["parameters"][key], parameter.detach()), (name, key)
            assert found["parameters"][key].dtype == parameter.dtype, (name, key)
        assert found["trained"] == [key for key, parameter in named.items() if parameter.requires_grad], name
        buffers = dict(expected.named_buffers())
        for process in found["buffers"]:
            assert process.keys() == buffers.keys()
            assert all(torch.equal(process[key], buffer) for key, buffer in buffers.items()), name
        assert found["kept"][0] > found["kept"][1] == 0, name


def test_processes_wait_an_hour(two):
    """A process may need that long to read or write a large model."""
    _, results, _ = two
    assert results["timeout"] == 3600


def test_killed_sharded_training_ends_with_the_same_result(two):
    _, results, _ = two
    steps, weights, _ = results["undisturbed"]
    assert len(steps) == 8
    assert results["killed"][0] == steps
    assert all(torch.equal(results["killed"][1][name], weight) for name, weight in weights.items())
    assert results["killed"][2] is True, "the restored state was kept in memory"


def test_sharded_state_has_one_file_per_process(two):
    """Files have similar sizes, earlier states are deleted, and state.pt has no weights."""
    folder, _, _ = two
    state = read_tensors(folder / "shards/state.pt")
    assert (state["weights"], state["optimizer"], state["shards"]) == ({}, {}, "shards-5")
    assert {path.name for path in (folder / "shards").iterdir()} == {"state.pt", "shards-5"}
    first, second = sorted((folder / "shards/shards-5").iterdir())
    assert second.stat().st_size == pytest.approx(first.stat().st_size, rel=0.1)


def test_one_process_resumes_from_a_sharded_state(two, manifests, capsys):
    folder, results, _ = two
    steps, weights, _ = storage.trained(manifests["llama"], folder / "shards", "none")
    assert "resumes after step 5" in capsys.readouterr().out
    assert_close((steps, weights), results["undisturbed"])


def test_sharded_training_resumes_from_an_unsharded_state(two):
    _, results, _ = two
    assert_close(results["from whole"], results["undisturbed"])


def assert_close(found, expected) -> None:
    """Check that two trainings with different numbers of processes agree up to rounding."""
    assert [step["loss"] for step in found[0]] == pytest.approx([step["loss"] for step in expected[0]], abs=1e-5)
    for name, weight in expected[1].items():
        assert found[1][name].numpy() == pytest.approx(weight.numpy(), abs=1e-5), name


def test_damaged_shards_raise(manifests, two, tmp_path):
    """The error is one line and says what to delete."""
    folder, _, _ = two
    state = tmp_path / "state"
    subprocess.run(["cp", "-r", str(folder / "damaged"), str(state)], check=True)
    file = min((state / "shards-5").iterdir())
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"shards-5: not readable .*; delete .*/state to start the training again"):
        storage.trained(manifests["llama"], state, "none")
