"""Import the policy of another run as the initial policy of this experiment."""

import shutil
from pathlib import Path
from typing import Literal

from _program import run
from prefloop.core.files import atomic_write
from prefloop.core.progress import Summary
from prefloop.models.options import Lora
from prefloop.models.policies import read_policy
from prefloop.models.start_policies import check_start


def main(
    *,
    policy: Path,
    model: Path,
    output: Path,
    lora: Lora,
    parameters: Literal["lora", "full"] = "lora",
) -> Summary:
    """Check that this experiment can continue the policy, and copy it.

    With a copy, the experiment does not depend on later changes in the other run's folder.

    Args:
        policy: The policy.pt of the other run.
        model: Manifest of the base model.
        output: Output path for the copy.
        lora: The adapters that the methods train.
        parameters: What the methods train.
    """
    content = read_policy(policy)
    check_start(content, policy, model, parameters, lora)
    with atomic_write(output, durable=True) as partial:
        shutil.copyfile(policy, partial)
    return Summary(f"round {content['round']}, seed {content['seed']}: {policy} -> {output}")


run(main)
