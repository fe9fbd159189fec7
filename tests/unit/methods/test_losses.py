"""Losses compared with hand-computed values, finite differences and TRL's trainer."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from prefloop.config.training_settings import TrainConfig
from prefloop.core.errors import SettingError
from prefloop.methods.batch_terms import BATCH_TERMS, compute_batch_terms
from prefloop.methods.loss_options import LossOptions
from prefloop.methods.losses import (
    LOSSES,
    OF_BATCH,
    LossChoice,
    compute_losses,
    dpo,
    log_ratio_margin,
    loss_parameters,
    loss_terms,
    wpo_weights,
)
from prefloop.models.loading import load_policy
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs
from prefloop.training.loop import Batch
from prefloop.training.preference import PreferenceObjective, TokenizedPair

# One pair with 4 chosen and 2 rejected tokens. The log-ratios are −10 + 11 = 1 and −12 + 11.5 = −0.5, so M = 1.5.
# Per token the margin is 1/4 + 0.5/2 = 0.5, and without reference −10/4 + 12/2 = 3.5. The reward gap is 1.5. β = 0.1.
COLUMNS = {
    "logp_chosen": -10.0,
    "logp_rejected": -12.0,
    "logp_ref_chosen": -11.0,
    "logp_ref_rejected": -11.5,
    "n_chosen": 4.0,
    "n_rejected": 2.0,
    "reward_chosen": 2.0,
    "reward_rejected": 0.5,
    "logp_explored": -20.0,
}
OPTIONS = LossOptions(label_smoothing=0.1, rmax=2.0, xpo_alpha=0.01, simpo_gamma=0.5)
BY_HAND = {
    "dpo": 0.620957,  # −log σ(0.15) = log(1 + e^−0.15)
    "dpo_mean": 0.668460,  # −log σ(0.1 · 0.5) = log(1 + e^−0.05)
    "cdpo": 0.635957,  # 0.9 · 0.620957 + 0.1 · log(1 + e^0.15) = 0.1 · 0.770957
    "rdpo": 0.602207,  # (0.9 · 0.620957 − 0.1 · 0.770957) / 0.8
    "ipo": 12.25,  # (1.5 − 5)²
    "ipo_mean": 20.25,  # (0.5 − 5)²
    "slic": 0.85,  # 1 − 0.15
    "rev_kl": 0.628071,  # p = σ(2 · 1.5) = 0.952574: p · 0.620957 + (1 − p) · 0.770957
    "xpo": 0.420957,  # 0.620957 − 0.01 · 20
    "simpo": 0.770957,  # −log σ(0.1 · 3.5 − 0.5) = log(1 + e^0.15)
    "sppo": 36.25,  # (1 − 5)² + (−0.5 + 5)²
    "apo_zero": 0.962523,  # σ(−0.1) + σ(−0.05) = 0.475021 + 0.487503
    "apo_down": 0.987549,  # σ(0.1) + σ(−0.15) = 0.524979 + 0.462570
    "exo": 0.431388,  # 0.537430 · (log 0.537430 − log 0.9) + 0.462570 · (log 0.462570 − log 0.1)
    "nca": 1.350825,  # log(1 + e^−0.1) + ½ log(1 + e^0.1) + ½ log(1 + e^−0.05) = 0.644397 + 0.372198 + 0.334230
    "bco": 1.312856,  # 0.644397 + 0.668460
    "discopop": 0.849338,  # s = σ(0.15/0.05) = 0.952574: 0.047426 · 0.620957 + s · e^−0.15
    "aot": 0.620957,  # dpo, because a single pair is matched with itself
    "aot_unpaired": 0.620957,
    "sft": 2.5,  # 10/4
    "nll": 2.5,  # 10/4
}


def columns(**changes) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in (COLUMNS | changes).items()}


def losses_of(name: LossChoice, terms: dict[str, torch.Tensor], beta: float = 0.1, options: LossOptions = OPTIONS):
    """Return the losses [pairs] of pairs that form a batch."""
    return compute_losses(name, terms | compute_batch_terms(loss_parameters(name), terms), beta, options)


def test_margin_by_hand():
    values = [torch.tensor([v]) for v in (-10.0, -12.0, -11.0, -11.5)]
    assert log_ratio_margin(*values).item() == pytest.approx(1.5)


def test_every_loss_has_a_test():
    assert set(BY_HAND) == set(LOSSES)


@pytest.mark.parametrize(("name", "expected"), BY_HAND.items())
def test_by_hand(name, expected):
    assert losses_of(name, loss_terms(**columns())).tolist() == pytest.approx([expected], abs=1e-6)


# Two pairs with M = 1 and −2. Gaps are 4 and −1 under the policy, and 3 and 1 under the reference. Log-ratios are 2 and
# 0 for the chosen responses, and 1 and 2 for the rejected ones.
TWO_PAIRS = {
    "logp_chosen": [-4.0, -6.0],
    "logp_rejected": [-8.0, -5.0],
    "logp_ref_chosen": [-6.0, -6.0],
    "logp_ref_rejected": [-9.0, -7.0],
    "n_chosen": [2.0, 6.0],
    "n_rejected": [1.0, 1.0],
    "reward_chosen": [1.0, 1.0],
    "reward_rejected": [0.0, 0.0],
}
OF_BATCH_BY_HAND = {
    "aot": [0.644397, 0.798139],  # log(1 + e^−0.1 (4 − 3)), log(1 + e^−0.1 (−1 − 1))
    "aot_unpaired": [0.693147, 0.744397],  # matches 2 with 2, and 0 with 1
    "sft": [1.0, 1.5],  # divided by (2 + 6)/2 tokens
}


@pytest.mark.parametrize(("name", "expected"), OF_BATCH_BY_HAND.items())
def test_losses_of_a_batch_by_hand(name, expected):
    terms = loss_terms(**{column: torch.tensor(values) for column, values in TWO_PAIRS.items()})
    assert losses_of(name, terms).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", OF_BATCH_BY_HAND)
def test_gradient_of_a_sorted_batch_is_the_finite_difference(name):
    """The mean over 7 pairs; a small step does not change their ranks."""
    generator = torch.Generator().manual_seed(0)
    at = {column: -9 * torch.rand(7, generator=generator, dtype=torch.float64) for column in TWO_PAIRS}
    at |= {"n_chosen": torch.arange(1.0, 8.0), "n_rejected": torch.arange(1.0, 8.0)}
    for column in ("logp_chosen", "logp_rejected"):
        given = at | {column: at[column].clone().requires_grad_()}
        total = losses_of(name, loss_terms(**given)).sum() + 0 * given[column].sum()
        (gradient,) = torch.autograd.grad(total, given[column])
        for pair in range(7):
            step = torch.zeros(7, dtype=torch.float64)
            step[pair] = 1e-5
            above, below = (
                losses_of(name, loss_terms(**at | {column: at[column] + sign * step})).sum().item() for sign in (1, -1)
            )
            assert gradient[pair].item() == pytest.approx((above - below) / 2e-5, abs=1e-6)


def test_weighted_sum_by_hand():
    terms = loss_terms(**columns())
    found = losses_of({"dpo": 1.0, "nll": 0.2, "aot": 0.5}, terms)
    assert found.tolist() == pytest.approx([1.5 * BY_HAND["dpo"] + 0.2 * 2.5], abs=1e-6)
    assert loss_parameters({"dpo": 1.0, "nll": 0.2}) == {"margin", "beta", "mean_logp_chosen"}
    with pytest.raises(SettingError, match="loss: 'nnll' is not one of"):
        losses_of({"dpo": 1.0, "nnll": 0.2}, terms)


def test_loss_of_a_batch_without_its_terms_raises():
    with pytest.raises(SettingError, match="aot needs matched_reference_gap"):
        compute_losses("aot", loss_terms(**columns()), 0.1, OPTIONS)


def test_dpo_is_log_2_where_policy_and_reference_agree():
    assert dpo(torch.zeros(3), 0.1).tolist() == pytest.approx([math.log(2)] * 3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shift", [-40.0, -3.0, 0.7, 60.0])
def test_gradient_is_the_finite_difference(name, shift):
    """Covers both log-probabilities of the policy, and that of the explored response if the loss uses it."""
    step = 1e-5
    for column in ["logp_chosen", "logp_rejected", "logp_explored"]:
        given = columns(logp_chosen=COLUMNS["logp_chosen"] + shift)
        given[column].requires_grad_()
        if column == "logp_explored" and "logp_explored" not in loss_parameters(name):
            continue
        loss = losses_of(name, loss_terms(**given), 0.3).sum()
        (gradient,) = torch.autograd.grad(loss, given[column]) if loss.requires_grad else [torch.zeros(1)]
        at = {k: v.detach() for k, v in given.items()}
        above, below = (losses_of(name, loss_terms(**at | {column: at[column] + d}), 0.3).item() for d in (step, -step))
        assert gradient.item() == pytest.approx((above - below) / (2 * step), abs=1e-6)


# TRL's names of our losses. Its ipo is our ipo_mean. It no longer has cdpo and never had rev_kl or nll. It has separate
# trainers for simpo and xpo.
IN_TRL = {
    "dpo": "sigmoid",
    "rdpo": "robust",
    "ipo_mean": "ipo",
    "slic": "hinge",
    "sppo": "sppo_hard",
    "apo_zero": "apo_zero",
    "dpo_mean": "sigmoid_norm",
    "apo_down": "apo_down",
    "exo": "exo_pair",
    "nca": "nca_pair",
    "bco": "bco_pair",
    "discopop": "discopop",
    "aot": "aot",
    "aot_unpaired": "aot_unpaired",
    "sft": "sft",
}


def test_losses_that_need_the_batch_are_listed():
    assert {name for name in LOSSES if loss_parameters(name) & set(BATCH_TERMS)} == set(OF_BATCH)


def test_wpo_weights_by_hand():
    """Tokens with 1/2 and 1/8 have the geometric mean 1/4. A token with 1/2 and Σ_v π_v² = 1/3 has weight 3/2."""
    chosen, rejected = torch.tensor([math.log(1 / 16) / 2]), torch.tensor([math.log(1 / 2)])
    assert wpo_weights(chosen, rejected).tolist() == pytest.approx([1 / 8])
    aligned = wpo_weights(chosen, rejected, torch.tensor([math.log(1 / 4)]), torch.tensor([math.log(1 / 3)]))
    assert aligned.tolist() == pytest.approx([3 / 2])
    assert not wpo_weights(chosen.requires_grad_(), rejected).requires_grad


def test_every_loss_of_trl_is_here():
    from trl.trainer import dpo_trainer

    words = set(re.findall(r'loss_type == "(\w+)"', Path(dpo_trainer.__file__).read_text(encoding="utf-8")))
    assert len(words) > 10
    assert words == set(IN_TRL.values())


SUM = {"dpo": 1.0, "sft": 0.2, "aot": 0.5}


WEIGHTED_IN_TRL = [(name, theirs, "wpo_sampled") for name, theirs in IN_TRL.items() if name not in OF_BATCH]


@pytest.mark.parametrize(
    ("name", "theirs_name", "weights"),
    [
        *((name, theirs, None) for name, theirs in IN_TRL.items()),
        *WEIGHTED_IN_TRL,
        pytest.param(SUM, [IN_TRL[word] for word in SUM], None, id="weighted sum"),
        pytest.param({"dpo": 1.0, "ipo_mean": 0.2}, ["sigmoid", "ipo"], "wpo_sampled", id="weighted sum of WPO"),
        *(pytest.param(name, IN_TRL[name], 0.3, id=f"LD-{name}") for name in ("dpo", "rdpo", "slic")),
        pytest.param("dpo", "sigmoid", 0.0, id="LD-dpo of shared lengths"),
    ],
)
def test_batch_loss_equals_trl(manifests, model_folders, tmp_path, name, theirs_name, weights):
    """TRL's DPOTrainer gives the same loss for the same token ids, policy and reference. A number is LD-DPO's α."""
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    alpha = weights if isinstance(weights, float) else None
    weights = None if alpha is not None else weights
    torch.manual_seed(3)
    reference, tokenizer = load_policy(manifests["llama"], manifests["llama"], torch.float32, "cpu")
    policy = AutoModelForCausalLM.from_pretrained(model_folders["llama"], dtype=torch.float32)
    for parameter in policy.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    rows = [
        {"prompt": "why is it good? ", "chosen": "the answer is so", "rejected": "no"},
        {"prompt": "a ", "chosen": "bad", "rejected": "a reply that is very much longer than that"},
        {"prompt": "which one? ", "chosen": "the second is better", "rejected": "the first"},
    ]
    trainer = DPOTrainer(
        model=policy,
        ref_model=AutoModelForCausalLM.from_pretrained(model_folders["llama"], dtype=torch.float32),
        args=DPOConfig(
            output_dir=str(tmp_path),
            beta=0.1,
            loss_type=theirs_name,
            use_weighting=weights == "wpo_sampled",
            ld_alpha=alpha,
            loss_weights=list(name.values()) if isinstance(name, dict) else None,
            label_smoothing=0.1 if name in ("rdpo", "exo") else 0.0,
            per_device_train_batch_size=3,
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
    pairs = [TokenizedPair(split(i)[0], split(i)[1], split(i + count)[1], 0.0, 0.0) for i in range(count)]

    settings, whole = TrainConfig(loss=name, pair_weights=weights, ld_alpha=alpha, label_smoothing=0.1), [*range(count)]

    def objective_of(model: torch.nn.Module) -> PreferenceObjective:
        return PreferenceObjective(prepare_scorer(model), pairs, settings, Accelerator(cpu=True))

    with torch.no_grad():
        initial = objective_of(reference).terms_of(whole)
        for pair, chosen, rejected in zip(pairs, initial["logp_chosen"], initial["logp_rejected"], strict=True):
            pair.logp_ref_chosen, pair.logp_ref_rejected = chosen.item(), rejected.item()
        objective = objective_of(policy)
        objective.begin_step(Batch(0, 0, whole, [whole]), np.random.default_rng(0))
        losses, found = objective.losses(whole)
    ours = losses.mean().item()
    assert found["margin"].abs().min() > 1e-3, "the policy must differ from its reference for this test"
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)


def test_explored_response_is_scored_once(manifests):
    """If y_ref is in the pair, xpo reuses its log-probability. Otherwise one more response is scored."""
    from accelerate import Accelerator

    model, _ = load_policy(manifests["llama"], manifests["llama"], torch.float32, "cpu")
    pairs = [
        TokenizedPair([0, 5], [7, 8, 1], [9, 1], 0.0, 0.0, explored=[9, 1]),
        TokenizedPair([0, 6], [7, 1], [9, 9], 0.0, 0.0, explored=[10, 11, 12, 1]),
    ]
    scorer, shapes = prepare_scorer(model), []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    with torch.no_grad():
        found = PreferenceObjective(scorer, pairs, TrainConfig(loss="xpo"), Accelerator(cpu=True)).terms_of([0, 1])
        handle.remove()
        alone = [response_logprobs(scorer, [p.prompt], [p.explored]).item() for p in pairs]
    assert shapes == [(1, 2 + 2 + 1 + 2 + 1 + 1 + 3)], "each prompt once, and each response without its last token"
    assert found["logp_explored"].tolist() == pytest.approx(alone, abs=1e-4)
