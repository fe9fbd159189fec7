"""Two rounds with each loss and adapter that no preset has."""

import math

import pytest

from conftest import Workdir
from prefloop.core.jsonl import read_rows

OPTIONS = {
    "summed": {"loss": {"dpo": 1.0, "nll": 0.2, "my_loss.py:linear": 0.5}},
    "weighted": {"pair_weights": "wpo_sampled"},
    "sorted": {"loss": "aot_unpaired", "beta_rule": "batch"},
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory, model_folders) -> Workdir:
    directory = Workdir(tmp_path_factory.mktemp("options"), model_folders["llama"])
    (directory.path / "my_loss.py").write_text("def linear(beta, margin):\n    return -beta * margin\n")
    train = {"batch_size": 4, "micro_batch_size": 2, "learning_rate": 1.0e-3}
    directory.configure(
        compare=list(OPTIONS),
        rounds=2,
        steps=1,
        methods={name: {"train": train | options} for name, options in OPTIONS.items()},
        figures=[],
        tables=[],
    )
    done = directory.run(*(f"results/tiny/{name}/seed-0/round-2/policy.pt" for name in OPTIONS))
    assert done.returncode == 0, done.stdout
    return directory


@pytest.mark.parametrize("method", OPTIONS)
def test_both_rounds_train(ran, method):
    for number in (1, 2):
        steps = read_rows(ran.path / f"results/tiny/{method}/seed-0/round-{number}/training.jsonl")
        assert all(math.isfinite(step["loss"]) for step in steps)
        assert all(step["grad_norm"] > 0 for step in steps)


def test_editing_a_weighted_function_retrains(ran):
    path = ran.path / "my_loss.py"
    text = path.read_text()
    targets = [f"results/tiny/{name}/seed-0/round-1/policy.pt" for name in OPTIONS]
    try:
        path.write_text(text.replace("-beta", "-2 * beta"))
        assert ran.jobs(*targets) == {"train"}
    finally:
        path.write_text(text)
    assert ran.jobs(*targets) == set()
