"""Training that is killed and restarted ends with the same bytes as uninterrupted training."""

import dataclasses
import signal

import pytest
import torch
from accelerate import Accelerator

import two_processes
from prefloop.config.training_settings import OptimizerConfig, TrainConfig
from prefloop.core.code_dependencies import read_module
from prefloop.methods.beta_config import BetaDPOConfig, RiskConfig
from prefloop.models.loading import add_adapter, load_base
from prefloop.models.options import Lora
from prefloop.models.precision import trained_parameters
from prefloop.models.response_logprobs import prepare_scorer
from prefloop.training import loop
from prefloop.training.checkpoint import TrainingCheckpoint, fingerprint, restored
from prefloop.training.loop import optimize
from prefloop.training.sft import SFTExample, SFTObjective
from train_policy import train_policy


class Killed(BaseException):
    """Simulates SIGKILL: none of our code runs after it, and only the files remain."""


def settings_of(rule: str, parameters: str, optimizer: str = "adamw") -> TrainConfig:
    return TrainConfig(
        parameters=parameters,
        lora=Lora(r=4, dropout=0.3),
        beta_rule=rule,
        beta_risk=RiskConfig(warmup=3, step=0.05),
        beta_batch=BetaDPOConfig(keep=0.7),
        optimizer=optimizer,
        learning_rate=2e-3,
        epochs=4,
        batch_size=4,
        micro_batch_size=2,
    )


def attempt(
    manifest, settings: TrainConfig, folder, kill_at: int | None, every: int = 1, dtype=torch.float32
) -> tuple[list[dict], dict, dict]:
    """Train from the state in `folder`, killed at step `kill_at` if given; return steps, weights and rule state."""
    torch.manual_seed(0)
    model, _ = load_base(manifest, torch.float32)
    model = model if settings.parameters == "full" else add_adapter(model, settings.lora)
    accelerator = Accelerator(cpu=True)
    checkpoint = TrainingCheckpoint(folder, fingerprint(__file__, settings, {}), every, accelerator)

    def on_step(metrics: dict) -> None:
        if metrics["step"] == kill_at:
            raise Killed

    options = {"accelerator": accelerator, "on_step": on_step, "checkpoint": checkpoint, "dtype": dtype}
    steps, state = train_policy(model, two_processes.PAIRS, settings, **options)
    weights = {name: p.detach().clone() for name, p in trained_parameters(model).items()}
    return [{k: v for k, v in step.items() if k != "seconds"} for step in steps], weights, state


@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [("risk", "adamw"), ("batch", "adamw"), ("risk_calibrated", "rmsprop"), ("constant", "adamw")],
)
def test_killed_training_ends_with_the_same_result(manifests, tmp_path, rule, optimizer, parameters):
    """Eight steps are killed at the first, last and other steps. Weights, log and β state are equal bit by bit."""
    settings = settings_of(rule, parameters, optimizer)
    expected = attempt(manifests["llama"], settings, tmp_path / "whole", None)
    assert len(expected[0]) == 8
    for kill_at in (0, 2, 5, 7):
        with pytest.raises(Killed):
            attempt(manifests["llama"], settings, tmp_path / "killed", kill_at, every=2)
    steps, weights, state = attempt(manifests["llama"], settings, tmp_path / "killed", None)
    assert steps == expected[0]
    assert state == expected[2]
    assert list(weights) == list(expected[1])
    assert all(torch.equal(weights[name], expected[1][name]) for name in weights)


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_killed_training_in_bfloat16_resumes(manifests, tmp_path, parameters):
    """On a CPU the result has the same bytes: float32 masters are saved, and the model computes with rounded ones."""
    settings = settings_of("risk", parameters)
    options = {"dtype": torch.bfloat16}
    expected = attempt(manifests["llama"], settings, tmp_path / "whole", None, **options)
    with pytest.raises(Killed):
        attempt(manifests["llama"], settings, tmp_path / "killed", 4, **options)
    steps, weights, _ = attempt(manifests["llama"], settings, tmp_path / "killed", None, **options)
    assert steps == expected[0]
    for name, weight in weights.items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, expected[1][name]), name


def test_killed_training_resumes_with_micro_batches_of_tokens(manifests, tmp_path):
    settings = dataclasses.replace(settings_of("batch", "full"), micro_batch_tokens=14)
    expected = attempt(manifests["llama"], settings, tmp_path / "whole", None)
    with pytest.raises(Killed):
        attempt(manifests["llama"], settings, tmp_path / "killed", 3)
    steps, weights, state = attempt(manifests["llama"], settings, tmp_path / "killed", None)
    assert (steps, state) == (expected[0], expected[2])
    assert all(torch.equal(weights[name], weight) for name, weight in expected[1].items())


def test_resumed_training_continues_after_the_last_step(manifests, tmp_path, capsys):
    """Only the remaining steps are trained, and earlier seconds are counted."""
    settings = settings_of("constant", "lora")
    with pytest.raises(Killed):
        attempt(manifests["llama"], settings, tmp_path, 5)
    accelerator = Accelerator(cpu=True)
    resumed = TrainingCheckpoint(tmp_path, fingerprint(__file__, settings, {}), 1, accelerator)
    assert len(resumed.steps) == 5
    assert resumed.resumed == 1
    assert resumed.earlier_seconds > sum(step["seconds"] for step in resumed.steps)
    with pytest.raises(Killed):
        attempt(manifests["llama"], settings, tmp_path, 5)  # step 5 is its first step
    assert "resumes after step 5" in capsys.readouterr().out


def test_killed_save_keeps_the_previous_one(manifests, tmp_path, monkeypatch):
    settings = settings_of("risk", "lora")
    expected = attempt(manifests["llama"], settings, tmp_path / "whole", None)
    original, saved = torch.save, []

    def torn(state, file):
        saved.append(file)
        if len(saved) == 3:
            file.write(b"half of it")
            raise Killed
        return original(state, file)

    monkeypatch.setattr(torch, "save", torn)
    monkeypatch.setattr(type(tmp_path), "unlink", lambda *_, **__: None)  # SIGKILL prevents cleanup
    with pytest.raises(Killed):
        attempt(manifests["llama"], settings, tmp_path / "killed", None)
    monkeypatch.undo()
    assert len(list((tmp_path / "killed").iterdir())) == 2
    steps, weights, _ = attempt(manifests["llama"], settings, tmp_path / "killed", None)
    assert len(list((tmp_path / "killed").iterdir())) == 1
    assert steps == expected[0]
    assert all(torch.equal(weights[name], expected[1][name]) for name in weights)


def test_state_of_another_training_is_not_used(manifests, tmp_path, capsys):
    """With other settings, or a damaged or malicious file, training starts from the beginning."""
    settings = settings_of("constant", "lora")
    other = settings_of("constant", "full")
    with pytest.raises(Killed):
        attempt(manifests["llama"], other, tmp_path, 5)
    steps, _, _ = attempt(manifests["llama"], settings, tmp_path, None)
    assert len(steps) == 8
    assert "starts from the beginning, because the state there was made with other" in capsys.readouterr().out
    file, whole = tmp_path / "state.pt", (tmp_path / "state.pt").read_bytes()

    class Poison:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("executed",))

    torch.save({"format": Poison()}, tmp_path / "poison")
    for content, why in [
        (whole[: len(whole) // 2], "is not readable"),
        (b"", "is not readable"),
        ((tmp_path / "poison").read_bytes(), "is not readable"),
    ]:
        tmp_path.mkdir(exist_ok=True)
        file.write_bytes(content)
        steps, _, _ = attempt(manifests["llama"], settings, tmp_path, None)
        assert [step["step"] for step in steps] == list(range(8))
        assert why in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


def test_fingerprint_covers_code_settings_and_inputs(tmp_path):
    """A comment does not change the fingerprint of code."""
    for name, code in {"one": "a = 1\n", "commented": "a = 1  # one\n", "two": "a = 2\n"}.items():
        (tmp_path / f"{name}.py").write_text(code)
    settings, other = settings_of("constant", "lora"), settings_of("risk", "lora")
    cases = [("one", settings, 0), ("one", settings, 1), ("one", other, 0), ("two", settings, 0)]
    names = [fingerprint(str(tmp_path / f"{name}.py"), config, {"seed": seed}) for name, config, seed in cases]
    assert len(set(names)) == 4
    assert fingerprint(str(tmp_path / "commented.py"), settings, {"seed": 0}) == names[0]


@pytest.mark.parametrize("loss", ["{}:hinge", {"dpo": 0.5, "{}:hinge": 0.5}])
def test_fingerprint_covers_functions_of_the_user(tmp_path, loss):
    """The state of an unfinished training with another loss is not continued."""
    path, found = tmp_path / "losses.py", []
    loss = loss.format(path) if isinstance(loss, str) else {key.format(path): share for key, share in loss.items()}
    for body in ("return terms", "return terms  # the same", "return -terms"):
        path.write_text(f"def hinge(terms, beta):\n    {body}\n")
        read_module.cache_clear()
        found.append(fingerprint(__file__, TrainConfig(loss=loss), {}))
    assert found[0] == found[1] != found[2]


def test_sigterm_saves_after_the_step(manifests, tmp_path):
    """Holds between two regular saves, too. After training, the default handler is restored."""
    settings = settings_of("risk", "lora")
    expected = attempt(manifests["llama"], settings, tmp_path / "whole", None)
    accelerator = Accelerator(cpu=True)
    checkpoint = TrainingCheckpoint(tmp_path / "stopped", fingerprint(__file__, settings, {}), 1000, accelerator)

    def on_step(metrics: dict) -> None:
        if metrics["step"] == 2:
            signal.raise_signal(signal.SIGTERM)

    torch.manual_seed(0)
    model = add_adapter(load_base(manifests["llama"], torch.float32)[0], settings.lora)
    options = {"accelerator": accelerator, "on_step": on_step, "checkpoint": checkpoint}
    with pytest.raises(SystemExit) as exit:
        train_policy(model, two_processes.PAIRS, settings, **options)
    assert exit.value.code == 143
    steps, weights, _ = attempt(manifests["llama"], settings, tmp_path / "stopped", None)
    assert steps == expected[0]
    assert all(torch.equal(weights[name], expected[1][name]) for name in weights)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_killed_fine_tuning_resumes(manifests, tmp_path):
    settings = OptimizerConfig(lora=Lora(r=4, dropout=0.3), learning_rate=5e-3, epochs=4, batch_size=2)
    examples = [SFTExample(pair.prompt, pair.chosen) for pair in two_processes.PAIRS]

    def attempt_sft(folder, kill_at):
        torch.manual_seed(0)
        model = add_adapter(load_base(manifests["llama"], torch.float32)[0], settings.lora)
        checkpoint = TrainingCheckpoint(folder, fingerprint(__file__, settings, {}), 1, Accelerator(cpu=True))
        objective = SFTObjective(prepare_scorer(model), examples)

        def on_step(metrics: dict) -> None:
            if metrics["step"] == kill_at:
                raise Killed

        options = {"accelerator": checkpoint.accelerator, "on_step": on_step, "checkpoint": checkpoint}
        return [step["loss"] for step in optimize(model, objective, settings, seed=1, **options)]

    expected = attempt_sft(tmp_path / "whole", None)
    with pytest.raises(Killed):
        attempt_sft(tmp_path / "killed", 3)
    assert attempt_sft(tmp_path / "killed", None) == expected


def test_fused_adamw_resumes(manifests, tmp_path, monkeypatch):
    """As on a GPU, AdamW is fused. Steps, weights and log equal those of uninterrupted training."""

    def fused(model, settings):
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)

    monkeypatch.setattr(loop, "build_optimizer", fused)
    settings = settings_of("constant", "full")
    expected = attempt(manifests["llama"], settings, tmp_path / "whole", None)
    with pytest.raises(Killed):
        attempt(manifests["llama"], settings, tmp_path / "killed", 5)
    steps, weights, _ = attempt(manifests["llama"], settings, tmp_path / "killed", None)
    assert steps == expected[0]
    assert all(torch.equal(weights[name], expected[1][name]) for name in weights)


@pytest.mark.parametrize(("is_fused", "device"), [(True, "meta"), (False, "cpu")])
def test_step_counter_is_on_the_device_that_adamw_needs(is_fused, device):
    """Fused AdamW needs the counter on the parameter's device, here torch's `meta`."""
    parameter = torch.nn.Parameter(torch.zeros(2, device="meta"))
    state = restored({"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}, parameter, is_fused)
    assert state["step"].device.type == device
    assert state["exp_avg"].device.type == "meta"
    assert is_fused or state["step"] == 3


@pytest.mark.parametrize(("minutes", "saved"), [(None, [2, 4]), (1e-9, [1, 2, 3, 4, 5]), (1000, [])])
def test_minutes_between_saves_override_steps(manifests, tmp_path, monkeypatch, minutes, saved):
    """Saves every second step, every step (if each takes longer than the interval), or never."""
    found, original = [], TrainingCheckpoint.save

    def save(checkpoint, *objects):
        original(checkpoint, *objects)
        found.append(len(checkpoint.steps))

    monkeypatch.setattr(TrainingCheckpoint, "save", save)
    settings, accelerator = settings_of("constant", "lora"), Accelerator(cpu=True)
    checkpoint = TrainingCheckpoint(tmp_path / "state", "", 2, accelerator, minutes)

    def on_step(metrics: dict) -> None:
        if metrics["step"] == 5:
            raise Killed

    model = add_adapter(load_base(manifests["llama"], torch.float32)[0], settings.lora)
    options = {"accelerator": accelerator, "on_step": on_step, "checkpoint": checkpoint}
    with pytest.raises(Killed):
        train_policy(model, two_processes.PAIRS, settings, **options)
    assert found == saved
    assert (tmp_path / "state/state.pt").exists() == bool(saved)
