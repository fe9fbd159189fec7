"""Log-probabilities of pairs equal those of each response alone."""

import pytest
import torch

from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.models.chat import prompt_ids
from prefloop.models.loading import load_scorers
from prefloop.models.pair_logprobs import PAIR_SIDES, score_pairs
from prefloop.models.response_logprobs import response_logprobs

ROWS = [
    {"prompt_id": "a", "token_ids_chosen": [5, 9, 33, 1], "token_ids_rejected": [7, 1]},
    {"prompt_id": "b", "token_ids_chosen": [8], "token_ids_rejected": [40, 41, 42, 43, 44, 1]},
    {"prompt_id": "c", "token_ids_chosen": [50, 51, 1], "token_ids_rejected": [50, 1], "logp_ref_chosen": -99.0},
]


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_each_side_is_scored_by_policy_and_reference(parameters, manifests, trained):
    base, policy, reference = manifests["llama"], trained(parameters), trained(parameters, seed=1)
    scorers, tokenizer = load_scorers(base, policy, reference, torch.float32, "cpu")
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": row["prompt_id"] * 3}]) for row in ROWS]
    meter = CostMeter("mix_pairs", 1)
    scored = score_pairs(ROWS, prompts, scorers, 4, meter)
    assert [row["prompt_id"] for row in scored] == ["a", "b", "c"]
    assert ROWS[2]["logp_ref_chosen"] == -99.0, "the input rows are not changed"
    for row, prompt in zip(scored, prompts, strict=True):
        for side in PAIR_SIDES:
            ids = row[f"token_ids_{side}"]
            logp, logp_ref = scorers.read(lambda s, p=prompt, ids=ids: response_logprobs(s, [p], [ids]))
            assert row[f"logp_{side}"] == pytest.approx(logp.item(), abs=1e-4)
            assert row[f"logp_ref_{side}"] == pytest.approx(logp_ref.item(), abs=1e-4)
            assert logp.item() != pytest.approx(logp_ref.item(), abs=1e-2)
    assert meter.flops == 2 * meter.tokens_in > 0


def test_diverged_policy_raises(manifests):
    base = manifests["llama"]
    scorers, _ = load_scorers(base, base, base, torch.float32, "cpu")
    with torch.no_grad():
        next(scorers.policy.model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="an added pair has no finite log-probability; the policy has diverged"):
        score_pairs(ROWS[:1], [[3, 4]], scorers, 4, CostMeter("mix_pairs", 1))
