"""Preference training: losses, micro-batches, processes, β rules, and weights restored from policy.pt."""

import dataclasses
import math
import os
import subprocess
import sys

import pytest
import torch

import tiny
import two_processes
from conftest import ROOT
from conversations import asks
from prefloop.config.training_settings import TrainConfig
from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.methods.beta_config import BetaScheduleConfig, RiskConfig
from prefloop.methods.beta_rules import BETAS
from prefloop.methods.losses import LOSSES
from prefloop.models._compat import model_layers
from prefloop.models.chat import load_tokenizer, prompt_ids
from prefloop.models.distributed import checkpoint_activations
from prefloop.models.loading import add_adapter, load_base, load_merged, load_policy, reference_for
from prefloop.models.options import Lora
from prefloop.models.policies import read_policy
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs
from prefloop.training.loop import batch_order, build_schedule
from prefloop.training.preference import TokenizedPair
from train_policy import train_policy

ATTENTION = {"llama": "self_attn", "qwen": "self_attn", "gpt2": "attn", "gpt_neox": "attention"}
TOKENS = [[5, 9, 33, 1], [7, 1], [40, 41, 42, 43, 44], [12, 1], [50, 51, 1], [61, 20]]


def examples(manifest) -> list[TokenizedPair]:
    scorer = prepare_scorer(load_policy(manifest, manifest, torch.float32, "cpu")[0])
    prompts = [[0, 10 + i, 20, 30 + i] for i in range(6)]
    with torch.no_grad():
        chosen = response_logprobs(scorer, prompts, TOKENS).tolist()
        rejected = response_logprobs(scorer, prompts, TOKENS[::-1]).tolist()
    return [TokenizedPair(*row) for row in zip(prompts, TOKENS, TOKENS[::-1], chosen, rejected, strict=True)]


def run(manifest, settings: TrainConfig) -> tuple[list[dict], torch.nn.Module]:
    torch.manual_seed(0)
    model, _ = load_base(manifest, torch.float32)
    model = model if settings.parameters == "full" else add_adapter(model, settings.lora)
    return train_policy(model, examples(manifest), settings)[0], model


@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "qwen", "gpt2", "gpt_neox"])
def test_loss_starts_at_log_2_and_falls(manifests, architecture, parameters):
    settings = TrainConfig(
        parameters=parameters, lora=Lora(r=4), learning_rate=5e-3, epochs=4, batch_size=6, micro_batch_size=3
    )
    steps, _ = run(manifests[architecture], settings)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert steps[-1]["loss"] < math.log(2) - 0.01
    assert steps[-1]["rewards/accuracies"] > 0.5
    margins = [step["rewards/chosen"] - step["rewards/rejected"] for step in steps]
    assert [step["rewards/margins"] for step in steps] == pytest.approx(margins, abs=1e-5)
    assert len({round(margin, 6) for margin in margins[1:]}) > 1, "margins must not all be 0"


def test_micro_batches_do_not_change_training(manifests):
    settings = {"lora": Lora(r=4), "learning_rate": 1e-3, "epochs": 2, "batch_size": 4}
    one, model_one = run(manifests["llama"], TrainConfig(**settings, micro_batch_size=4))
    three, model_three = run(manifests["llama"], TrainConfig(**settings, micro_batch_size=1))
    assert [s["loss"] for s in one] == pytest.approx([s["loss"] for s in three], abs=1e-5)
    for a, b in zip(model_one.parameters(), model_three.parameters(), strict=True):
        assert a.detach().numpy() == pytest.approx(b.detach().numpy(), abs=1e-5)


@pytest.mark.parametrize("rule", ["constant", "batch"])
@pytest.mark.parametrize("loss", ["aot", "aot_unpaired", "sft"])
def test_micro_batches_do_not_change_losses_of_a_batch(manifests, loss, rule):
    settings = {"loss": loss, "beta_rule": rule, "lora": Lora(r=4), "learning_rate": 1e-3, "epochs": 2, "batch_size": 4}
    one, model_one = run(manifests["llama"], TrainConfig(**settings, micro_batch_size=4))
    for size in (1, 3):
        several, model_several = run(manifests["llama"], TrainConfig(**settings, micro_batch_size=size))
        assert [s["loss"] for s in several] == pytest.approx([s["loss"] for s in one], abs=1e-5)
        for a, b in zip(model_one.parameters(), model_several.parameters(), strict=True):
            assert a.detach().numpy() == pytest.approx(b.detach().numpy(), abs=1e-5)
        needs_pass = loss != "sft" or rule == "batch"
        assert {step["passes"] for step in several} == ({1, 2} if size == 3 else {2}) if needs_pass else {1}
        assert {step["passes"] for step in one} == {1}


@pytest.mark.parametrize("weights", ["wpo", "wpo_sampled"])
def test_pair_weights_do_not_depend_on_micro_batches(manifests, weights):
    """Also holds for β-DPO, which keeps the terms of its first pass."""
    settings = {"pair_weights": weights, "lora": Lora(r=4), "learning_rate": 1e-3, "epochs": 2, "batch_size": 4}
    plain, _ = run(manifests["llama"], TrainConfig(**settings | {"pair_weights": None}))
    for rule in ("constant", "batch"):
        one, three = (
            run(manifests["llama"], TrainConfig(**settings, beta_rule=rule, micro_batch_size=size))[0]
            for size in (4, 1)
        )
        assert [s["loss"] for s in one] == pytest.approx([s["loss"] for s in three], rel=1e-4)
        assert one[0]["loss"] != pytest.approx(plain[0]["loss"], rel=0.01)


def test_adapters_keep_their_dropout(manifests):
    """The base model's dropout is off, so the loss starts at log 2. The adapters' dropout is on if configured."""
    steady, _ = run(manifests["gpt2"], TrainConfig(lora=Lora(r=4), learning_rate=5e-3, epochs=2, batch_size=6))
    dropped, _ = run(
        manifests["gpt2"], TrainConfig(lora=Lora(r=4, dropout=0.5), learning_rate=5e-3, epochs=2, batch_size=6)
    )
    assert dropped[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert dropped[1]["loss"] != pytest.approx(steady[1]["loss"], abs=1e-6)


def test_divergence_raises(manifests):
    with pytest.raises(InputError, match="the loss is not finite at step [1-9].*lower the learning rate"):
        run(manifests["llama"], TrainConfig(parameters="full", learning_rate=1e18, epochs=6, batch_size=3))


@pytest.mark.parametrize(("parameters", "dropout"), [("lora", 0.3), ("lora", 0.0), ("full", 0.0)])
@pytest.mark.parametrize("architecture", ["llama", "qwen", "gpt2", "gpt_neox"])
def test_activation_checkpointing_keeps_gradients(manifests, architecture, parameters, dropout):
    """Gradients are equal bit by bit, including the adapters' dropout. gpt2's own dropout stays off."""
    settings = TrainConfig(
        parameters=parameters, lora=Lora(r=4, dropout=dropout), learning_rate=5e-3, epochs=3, batch_size=3
    )
    found, calls = [], []  # 1 for the first layer, 0 for its attention
    for again in (False, True):
        torch.manual_seed(0)
        model, _ = load_base(manifests[architecture], torch.float32)
        model = model if parameters == "full" else add_adapter(model, settings.lora)
        if again:
            checkpoint_activations(model)
            model_layers(model)[0].register_forward_hook(lambda *_: calls.append(1))
            attention = model_layers(model)[0].get_submodule(ATTENTION[architecture])
            attention.register_forward_hook(lambda *_: calls.append(0))
        steps, _ = train_policy(model, examples(manifests[architecture]), settings)
        found.append(([step["grad_norm"] for step in steps], [p.detach().clone() for p in model.parameters()]))
        if again:
            preparing = 2  # forward passes without gradients
            passes = calls.count(1) - preparing
            assert calls.count(0) == 2 * passes + preparing, "once in the forward and once in the backward pass"
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_rmsprop_reduces_the_loss(manifests):
    steps, _ = run(manifests["llama"], TrainConfig(optimizer="rmsprop", learning_rate=1e-3, epochs=3, batch_size=6))
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_every_pair_is_seen_once_per_epoch():
    batches = list(batch_order(10, TrainConfig(epochs=2, batch_size=4), seed=0))
    assert [len(indices) for _, indices in batches] == [4, 4, 2, 4, 4, 2]
    for epoch in (0, 1):
        assert sorted(i for e, indices in batches if e == epoch for i in indices) == list(range(10))
    assert batches[0][1] != batches[3][1]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [0.5, 1, 0.904508, 0.654508, 0.345492, 0.095492]),
    ],
)
def test_schedule(schedule, expected):
    """Two of six steps are warm-up. The decay would reach 0 one step after the last."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    plan = build_schedule(optimizer, TrainConfig(schedule=schedule, warmup_ratio=1 / 3), 6)
    rates = []
    for _ in range(6):
        rates.append(plan.get_last_lr()[0])
        optimizer.step()
        plan.step()
    assert rates == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_policy_is_restored_from_its_file(manifests, tmp_path, parameters):
    """Unmerged or merged, it scores like the trained model. Its reference scores like the base model."""
    lora = Lora(r=4) if parameters == "lora" else None
    settings = TrainConfig(parameters=parameters, lora=Lora(r=4), learning_rate=5e-3, epochs=3, batch_size=6)
    _, model = run(manifests["llama"], settings)
    tiny.write_policy(tmp_path / "policy.pt", model, manifests["llama"], lora)
    prompts, responses = [[0, 5, 6]] * 2, [[7, 8, 1], [9]]
    with torch.no_grad():
        trained = response_logprobs(prepare_scorer(model.eval()), prompts, responses)
        base, _ = load_policy(manifests["llama"], manifests["llama"], torch.float32, "cpu")
        initial = response_logprobs(prepare_scorer(base), prompts, responses)
        again, _ = load_policy(manifests["llama"], tmp_path / "policy.pt", torch.float32, "cpu")
        merged, _ = load_merged(manifests["llama"], tmp_path / "policy.pt", torch.float32, "cpu")
        for loaded, tolerance in ((again, 1e-5), (merged, 1e-4)):
            logps = response_logprobs(prepare_scorer(loaded), prompts, responses)
            assert logps.tolist() == pytest.approx(trained.tolist(), abs=tolerance)
        reference, as_reference = reference_for(
            again, tmp_path / "policy.pt", manifests["llama"], manifests["llama"], torch.float32, "cpu"
        )
        assert (reference is again) == (lora is not None)
        with as_reference():
            assert response_logprobs(prepare_scorer(reference), prompts, responses).tolist() == initial.tolist()
    assert trained.tolist() != pytest.approx(initial.tolist(), abs=1e-2)


def test_invalid_policy_files_raise(manifests, tmp_path):
    path = tmp_path / "policy.pt"
    for content in (b"", b"garbage"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a readable policy.pt"):
            read_policy(path)
    torch.save({"format": "other"}, path)
    with pytest.raises(InputError, match="not a policy of format"):
        read_policy(path)

    class Poison:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("executed",))

    torch.save({"format": Poison()}, path)
    with pytest.raises(InputError, match="not a readable policy.pt"):
        read_policy(path)
    assert not (tmp_path / "ran").exists()
    model, _ = load_base(manifests["llama"], torch.float32)
    tiny.write_policy(path, model, manifests["llama"], None)
    with pytest.raises(InputError, match="trained on base model"):
        load_policy(manifests["qwen"], path, torch.float32, "cpu")


def test_two_processes_train_to_the_weights_of_one(manifests, tmp_path):
    """Weights, metrics and β state agree up to rounding.

    Covers every β rule, adapters and full training, unsharded and sharded.
    """
    outcome = tmp_path / "two.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "tests/helpers/two_processes.py"), str(manifests["llama"]), str(outcome)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    two, one = torch.load(outcome, weights_only=True), two_processes.outcomes(manifests["llama"])
    assert {name.split()[0] for name in one} == set(BETAS)
    assert {name for name in two if two[name]["sharded"]} == {name for name in two if "fsdp2" in name}
    for name, expected in one.items():
        states = [{k: v for k, v in found[name]["state"].items() if k != "collected"} for found in (one, two)]
        assert states[1] == pytest.approx(states[0], abs=1e-4), name
        for mine, theirs in zip(expected["steps"], two[name]["steps"], strict=True):
            same = {key: value for key, value in mine.items() if key not in ("seconds", "passes")}
            # In bfloat16 the rounding of a product depends on the rows in the same multiplication.
            tolerances = (0.1, 3e-3) if "bf16" in name else (1e-3, 1e-5)
            assert {key: theirs[key] for key in same} == pytest.approx(same, abs=tolerances[0]), name
        for key, weight in expected["weights"].items():
            assert weight.dtype == two[name]["weights"][key].dtype == torch.float32
            assert two[name]["weights"][key].numpy() == pytest.approx(weight.numpy(), abs=tolerances[1]), (name, key)
    betas = {name: [step["beta"] for step in found["steps"]] for name, found in one.items()}
    assert len(set(betas["batch lora 2"])) > 2
    assert len(set(betas["risk lora 2"])) > 2
    assert betas["schedule lora 2"] == [0.1, 0.1, 0.3, 0.3, 0.2, 0.2]


@pytest.mark.parametrize("rule", BETAS)
@pytest.mark.parametrize("loss", [*LOSSES, pytest.param({"dpo": 1.0, "nll": 0.2, "xpo": 0.1}, id="weighted sum")])
def test_any_loss_trains_with_any_rule(manifests, loss, rule):
    """Two epochs: losses are finite, margins change, and the log has the quantiles of margins in order."""
    settings = TrainConfig(
        loss=loss,
        beta_rule=rule,
        beta_schedule=BetaScheduleConfig((0.2,)),
        beta_risk=RiskConfig(warmup=2, beta_min=1e-3),
        lora=Lora(r=2),
        learning_rate=1e-3,
        epochs=2,
        batch_size=3,
        micro_batch_size=2,
    )
    pairs = [dataclasses.replace(p, reward_chosen=1.0, explored=p.rejected) for p in examples(manifests["llama"])]
    torch.manual_seed(0)
    model = add_adapter(load_base(manifests["llama"], torch.float32)[0], settings.lora)
    steps, _ = train_policy(model, pairs, settings)
    assert len(steps) == 4
    last = steps[-1]
    order = [last[f"margins/{name}"] for name in ("min", "p10", "median", "p90", "max")]
    assert order == sorted(order)
    assert last["margins/sd"] > 0
    assert 0 <= last["margins/positive"] <= 1
    assert all(math.isfinite(value) for step in steps for value in step.values())


def test_only_kept_pairs_train(manifests):
    """The gradient of a β-DPO batch equals that of a batch with only the kept pairs and the same β."""
    settings = TrainConfig(beta_rule="batch", lora=Lora(r=4), learning_rate=5e-3, batch_size=6, micro_batch_size=6)
    kept = []
    original = BETAS["batch"].weigh

    def spy(self, *args, **kwargs):
        beta, indices = original(self, *args, **kwargs)
        kept.append((beta, indices))
        return beta, indices

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BETAS["batch"], "weigh", spy)
        steps, model = run(manifests["llama"], settings)
    beta, indices = kept[0]
    assert len(indices) == 4
    assert steps[0]["beta"] == beta
    order = next(batch_order(6, settings, 1))[1]
    torch.manual_seed(0)
    again = add_adapter(load_base(manifests["llama"], torch.float32)[0], settings.lora)
    few = [examples(manifests["llama"])[order[i]] for i in indices]
    alone = dataclasses.replace(settings, beta_rule="constant", beta=beta, batch_size=4, micro_batch_size=4)
    train_policy(again, few, alone)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert a.detach().numpy() == pytest.approx(b.detach().numpy(), abs=1e-5)


def test_beta_rule_continues_from_its_state(manifests):
    """A second round with the state of the first starts at its β, and without it at the configured β."""
    settings = TrainConfig(
        beta_rule="risk", beta_risk=RiskConfig(warmup=2, step=0.1), lora=Lora(r=2), batch_size=2, epochs=2
    )
    model = add_adapter(load_base(manifests["llama"], torch.float32)[0], settings.lora)
    pairs = examples(manifests["llama"])
    _, state = train_policy(model, pairs, settings)
    assert state["beta"] != settings.beta
    for beta_state, expected in [(state, state["beta"]), (None, settings.beta)]:
        steps, _ = train_policy(model, pairs, settings, round_index=2, beta_state=beta_state)
        assert steps[0]["beta"] == expected


def test_gradient_that_is_not_finite_raises_and_writes_nothing(manifests, tmp_path):
    """The loss √|M| is finite at M = 0 in the last step, but its gradient is not."""
    (tmp_path / "my_losses.py").write_text("def root(margin):\n    return margin.abs().sqrt()\n")
    pair = {"prompt_id": "p", "messages": asks("why?"), "reward_chosen": 1.0, "reward_rejected": 0.0}
    scorer = prepare_scorer(load_policy(manifests["llama"], manifests["llama"], torch.float32, "cpu")[0])
    prompt = prompt_ids(load_tokenizer(manifests["llama"].parent), pair["messages"])
    with torch.no_grad():
        logps = response_logprobs(scorer, [prompt] * 2, [TOKENS[1], TOKENS[1]]).tolist()
    for side, logp in zip(("chosen", "rejected"), logps, strict=True):
        pair |= {f"token_ids_{side}": TOKENS[1], f"logp_ref_{side}": logp}
    write_rows(tmp_path / "pairs.jsonl", [pair])
    flags = "--seed 0 --round 1 --dtype float32 --lora.r 4 --loss my_losses.py:root --pairs pairs.jsonl"
    flags += " --output out/policy.pt --metrics out/training.jsonl --speed out/speed.csv --cost out/cost.json"
    command = [sys.executable, str(ROOT / "workflow/scripts/train.py"), *flags.split()]
    command += ["--model", str(manifests["llama"]), "--policy", str(manifests["llama"])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    expected = "error: training diverged: the gradient is not finite at step 0; lower the learning rate"
    assert done.stderr.strip().splitlines()[-1] == expected
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out/policy.pt").exists()
    assert not (tmp_path / "out/training.jsonl").exists()
