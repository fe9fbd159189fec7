"""Move the reference towards the policy: the exponential moving average that `reference.kind: ema` asks for."""

from pathlib import Path

import torch

from _program import run
from prefloop.models import load_base
from prefloop.policies import average, is_trained, read_policy
from prefloop.progress import Summary
from prefloop.rows import write_tensors


def main(*, model: Path, reference: Path, policy: Path, output: Path, decay: float) -> Summary:
    """Write decay · reference + (1 − decay) · policy.

    Args:
        model: Manifest of the base model.
        reference: The reference of the round before: a policy.pt, or the base model's manifest.
        policy: The policy that the round before has trained.
        output: Where the new reference goes, as a policy.pt.
        decay: Share of the old reference that stays.
    """
    saved, old, initial = read_policy(policy), None, None
    if is_trained(reference):
        old = read_policy(reference)
    elif saved["adapter"] is None:
        initial = load_base(model, torch.float32)[0].state_dict()
    write_tensors(output, average(old, saved, decay, initial))
    return Summary(f"{decay:g} of the old reference, {1 - decay:g} of {policy}")


run(main)
