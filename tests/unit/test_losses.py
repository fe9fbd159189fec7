"""Losses against numbers worked by hand, their gradients, and TRL's trainer on one batch."""

import math

import pytest
import torch

from prefloop.losses import LOSSES, dpo, log_ratio_margin
from prefloop.models import load_policy
from prefloop.training import Pair, pair_logps


def test_margin_by_hand():
    values = [torch.tensor([v]) for v in (-10.0, -12.0, -11.0, -11.5)]
    assert log_ratio_margin(*values).item() == pytest.approx(1.5)


def test_dpo_by_hand():
    """β = .1, M = 1.5: −log σ(.15) = log(1 + e^−.15) = .620957."""
    assert dpo(torch.tensor([1.5]), 0.1).item() == pytest.approx(0.620957, abs=1e-6)


def test_dpo_is_log_2_where_policy_and_reference_agree():
    assert dpo(torch.zeros(3), 0.1).tolist() == pytest.approx([math.log(2)] * 3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("margin", [-30.0, -0.7, 0.0, 2.0, 40.0])
def test_gradient_is_the_finite_difference(name, margin):
    x = torch.tensor([margin], dtype=torch.float64, requires_grad=True)
    LOSSES[name](x, 0.3).sum().backward()
    step = 1e-5
    by_difference = (LOSSES[name](x.detach() + step, 0.3) - LOSSES[name](x.detach() - step, 0.3)) / (2 * step)
    assert x.grad.item() == pytest.approx(by_difference.item(), abs=1e-8)


def test_batch_loss_equals_trl(manifests, model_folders, tmp_path):
    """The same token ids, policy and reference give TRL's DPOTrainer the same loss."""
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    torch.manual_seed(3)
    reference, tokenizer = load_policy(manifests["llama"], manifests["llama"], torch.float32, "cpu")
    policy = AutoModelForCausalLM.from_pretrained(model_folders["llama"], dtype=torch.float32)
    for parameter in policy.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    rows = [
        {"prompt": "why is it good? ", "chosen": "the answer is so", "rejected": "no"},
        {"prompt": "a ", "chosen": "bad", "rejected": "a reply that is very much longer than that"},
    ]
    trainer = DPOTrainer(
        model=policy,
        ref_model=AutoModelForCausalLM.from_pretrained(model_folders["llama"], dtype=torch.float32),
        args=DPOConfig(
            output_dir=str(tmp_path),
            beta=0.1,
            per_device_train_batch_size=2,
            use_cpu=True,
            bf16=False,
            max_length=None,
            report_to=[],
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch).item()

    def split(row: int) -> tuple[list[int], list[int]]:
        real, completion = batch["attention_mask"][row].bool(), batch["completion_mask"][row].bool()
        ids = batch["input_ids"][row]
        return ids[real & ~completion].tolist(), ids[real & completion].tolist()

    count = len(batch["input_ids"]) // 2
    pairs = [
        Pair(split(i)[0], split(i)[1], split(i + count)[1], ref_logp_chosen=0, ref_logp_rejected=0)
        for i in range(count)
    ]
    accelerator = Accelerator(cpu=True)
    with torch.no_grad():
        chosen, rejected, _, _ = pair_logps(policy, pairs, 2, accelerator)
        ref_chosen, ref_rejected, _, _ = pair_logps(reference, pairs, 2, accelerator)
    ours = dpo(log_ratio_margin(chosen, rejected, ref_chosen, ref_rejected), 0.1).mean().item()
    assert abs(ours - math.log(2)) > 1e-3, "the policy must differ from its reference for this test to mean anything"
    assert ours == pytest.approx(theirs, abs=1e-5)
