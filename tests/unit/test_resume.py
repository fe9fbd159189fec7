"""A training that is killed and started again ends in the same bytes as one that was not."""

import signal

import pytest
import torch
from accelerate import Accelerator

import two_processes
from prefloop.betas import Batch, Risk
from prefloop.finetuning import Example, finetune
from prefloop.models import add_adapter, load_base
from prefloop.optimisation import Optimisation
from prefloop.partial import Partial, work_of
from prefloop.policies import Lora
from prefloop.training import Settings, train


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it, and what lies on disk is all that remains."""


def settings_of(rule: str, parameters: str, optimizer: str = "adamw") -> Settings:
    return Settings(
        parameters=parameters,
        lora=Lora(r=4, dropout=0.3),
        beta_rule=rule,
        beta_risk=Risk(warmup=3, step=0.05),
        beta_batch=Batch(keep=0.7),
        optimizer=optimizer,
        learning_rate=2e-3,
        epochs=4,
        batch_size=4,
        micro_batch_size=2,
    )


def attempt(manifest, settings: Settings, folder, kill_at: int | None, every: int = 1) -> tuple[list[dict], dict, dict]:
    """Train from `folder`'s state, and be killed in step `kill_at`, or not: steps, weights, the rule's state."""
    torch.manual_seed(0)
    model, _ = load_base(manifest, torch.float32)
    model = model if settings.parameters == "full" else add_adapter(model, settings.lora)
    accelerator = Accelerator(cpu=True)
    kept = Partial(folder, work_of(__file__, settings), every, accelerator)

    def on_step(metrics: dict) -> None:
        if metrics["step"] == kill_at:
            raise Killed

    state = train(model, two_processes.PAIRS, settings, pad=2, seed=1, accelerator=accelerator, on_step=on_step,
                  partial=kept)  # fmt: skip
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    return [{k: v for k, v in step.items() if k != "seconds"} for step in kept.steps], weights, state


@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [("risk", "adamw"), ("batch", "adamw"), ("risk_calibrated", "rmsprop"), ("constant", "adamw")],
)
def test_killed_at_any_step_it_ends_the_same(manifests, tmp_path, rule, optimizer, parameters):
    """Eight steps, killed in the first, in the last and between; weights, log and β state are equal bit by bit."""
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


def test_it_does_go_on(manifests, tmp_path, capsys):
    """The second part trains the rest only, and the seconds of the first are not lost."""
    settings = settings_of("constant", "lora")
    with pytest.raises(Killed):
        attempt(manifests["llama"], settings, tmp_path, 5)
    accelerator = Accelerator(cpu=True)
    found = Partial(tmp_path, work_of(__file__, settings), 1, accelerator)
    assert len(found.steps) == 5
    assert found.resumed == 1
    assert found.earlier_seconds > sum(step["seconds"] for step in found.steps)
    with pytest.raises(Killed):
        attempt(manifests["llama"], settings, tmp_path, 5)  # step 5 is the first one it takes
    assert "goes on after step 5" in capsys.readouterr().out


def test_a_save_that_is_killed_leaves_the_one_before(manifests, tmp_path, monkeypatch):
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
    monkeypatch.setattr(type(tmp_path), "unlink", lambda *_, **__: None)  # after SIGKILL nobody cleans up
    with pytest.raises(Killed):
        attempt(manifests["llama"], settings, tmp_path / "killed", None)
    monkeypatch.undo()
    assert len(list((tmp_path / "killed").iterdir())) == 2
    steps, weights, _ = attempt(manifests["llama"], settings, tmp_path / "killed", None)
    assert len(list((tmp_path / "killed").iterdir())) == 1
    assert steps == expected[0]
    assert all(torch.equal(weights[name], expected[1][name]) for name in weights)


def test_a_state_of_other_work_is_not_continued(manifests, tmp_path, capsys):
    """Other settings, or a file that is damaged or would run something: the training starts anew and says so."""
    settings = settings_of("constant", "lora")
    other = settings_of("constant", "full")
    with pytest.raises(Killed):
        attempt(manifests["llama"], other, tmp_path, 5)
    steps, _, _ = attempt(manifests["llama"], settings, tmp_path, None)
    assert len(steps) == 8
    assert "starts anew, as the state there is of other" in capsys.readouterr().out
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


def test_work_is_code_settings_and_inputs(tmp_path):
    (tmp_path / "program.py").write_text("import helper\n")
    (tmp_path / "helper.py").write_text("a = 1\n")
    settings = settings_of("constant", "lora")
    names = [work_of(tmp_path / "program.py", settings, seed=0)]
    names += [work_of(tmp_path / "program.py", settings, seed=1)]
    names += [work_of(tmp_path / "program.py", settings_of("risk", "lora"), seed=0)]
    assert work_of(tmp_path / "program.py", settings, seed=0) == names[0]
    (tmp_path / "helper.py").write_text("a = 2\n")
    names += [work_of(tmp_path / "program.py", settings, seed=0)]
    assert len(set(names)) == 4


def test_sigterm_saves_after_the_step_and_exits(manifests, tmp_path):
    """Whatever `every` says; afterwards the signal means what it meant."""
    settings = settings_of("risk", "lora")
    expected = attempt(manifests["llama"], settings, tmp_path / "whole", None)
    model = add_adapter(load_base(manifests["llama"], torch.float32)[0], settings.lora)
    accelerator = Accelerator(cpu=True)
    kept = Partial(tmp_path / "stopped", work_of(__file__, settings), 1000, accelerator)

    def on_step(metrics: dict) -> None:
        if metrics["step"] == 2:
            signal.raise_signal(signal.SIGTERM)

    torch.manual_seed(0)
    model = add_adapter(load_base(manifests["llama"], torch.float32)[0], settings.lora)
    with pytest.raises(SystemExit) as exit:
        train(model, two_processes.PAIRS, settings, pad=2, seed=1, accelerator=accelerator, on_step=on_step,
              partial=kept)  # fmt: skip
    assert exit.value.code == 143
    steps, weights, _ = attempt(manifests["llama"], settings, tmp_path / "stopped", None)
    assert steps == expected[0]
    assert all(torch.equal(weights[name], expected[1][name]) for name in weights)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_supervised_training_goes_on_too(manifests, tmp_path):
    settings = Optimisation(lora=Lora(r=4, dropout=0.3), learning_rate=5e-3, epochs=4, batch_size=2)
    examples = [Example(pair.prompt, pair.chosen) for pair in two_processes.PAIRS]

    def attempt_sft(folder, kill_at):
        torch.manual_seed(0)
        model = add_adapter(load_base(manifests["llama"], torch.float32)[0], settings.lora)
        kept = Partial(folder, work_of(__file__, settings), 1, Accelerator(cpu=True))

        def on_step(metrics: dict) -> None:
            if metrics["step"] == kill_at:
                raise Killed

        finetune(model, examples, settings, pad=2, seed=1, accelerator=kept.accelerator, on_step=on_step, partial=kept)
        return [step["loss"] for step in kept.steps]

    expected = attempt_sft(tmp_path / "whole", None)
    with pytest.raises(Killed):
        attempt_sft(tmp_path / "killed", 3)
    assert attempt_sft(tmp_path / "killed", None) == expected
