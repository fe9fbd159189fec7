"""Move the reference towards the policy, as an exponential moving average (`reference.kind: ema`)."""

from pathlib import Path

import torch

from _program import run
from prefloop.core.files import write_tensors
from prefloop.core.progress import Summary
from prefloop.models.loading import load_base
from prefloop.models.policies import average_policies, is_trained, read_policy


def main(*, model: Path, reference: Path, policy: Path, output: Path, decay: float) -> Summary:
    """Write decay · reference + (1 − decay) · policy.

    Args:
        model: Manifest of the base model.
        reference: The previous round's reference: a policy.pt, or the base model's manifest.
        policy: The policy that the previous round trained.
        output: Output path for the new reference, as a policy.pt.
        decay: Weight of the old reference.
    """
    new, old, initial = read_policy(policy), None, None
    if is_trained(reference):
        old = read_policy(reference)
    elif new["adapter"] is None:
        initial = load_base(model, torch.float32)[0].state_dict()
    write_tensors(output, average_policies(old, new, decay, initial))
    return Summary(f"{decay:g} of the old reference, {1 - decay:g} of {policy}")


run(main)
