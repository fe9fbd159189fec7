# Which policies an evaluation compares.
from prefloop.experiment import CHOSEN


def model_under(wildcards):
    """What an evaluated policy is a change of: the fetched model or, once fine-tuned, that."""
    return FETCHED if wildcards.policy == "base" else BASE


def policy_evaluated(wildcards):
    """An evaluated policy: what training wrote, or a model that no preference was trained into."""
    if wildcards.policy in ("base", "initial"):
        return model_under(wildcards)
    return f"<results>/{wildcards.policy}/policy.pt"


def opponent_samples(wildcards):
    """Whom a policy is compared with: the initial policy, or a method at the same seed and round."""
    if wildcards.opponent == CHOSEN:
        return []
    _, _, run = wildcards.policy.partition("/")
    opponent = f"{wildcards.opponent}/{run}" if run else wildcards.opponent
    opponent = "initial" if wildcards.opponent == "initial" else opponent
    return f"<results>/{opponent}/evaluation/temperature-{wildcards.temperature}/samples.jsonl"
