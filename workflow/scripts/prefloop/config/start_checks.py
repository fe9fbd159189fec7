"""Checks for settings that do not allow a start from another run's policy; see `consistency`.

The policy itself is checked when it is read; see `models.start_policies`.
"""

from prefloop.config.resolve import of_method


def impossible_start(config: dict) -> list[str]:
    """Return errors of a start policy: fine-tuning is enabled, or the methods cannot all continue the policy."""
    start, methods = config["policy"]["start"], config["compare"]
    if start is None:
        return []
    problems = []
    if config["sft"]["enabled"]:
        problems.append(
            f"policy.start: {start}, but sft.enabled trains another base model; set sft.enabled: false, and if the "
            "policy's run had sft, set policy.model to the folder sft/model of that run"
        )
    trained = {method: trained_weights_of(of_method(config, method)["train"]) for method in methods}
    for method in methods[1:]:
        if trained[method] != trained[methods[0]]:
            problems.append(
                f"policy.start: all methods continue {start}, but {methods[0]} and {method} have different "
                "train.parameters or train.lora; give them the same"
            )
            break
    return problems


def trained_weights_of(train: dict) -> list:
    """Return the settings that determine which weights a policy.pt has."""
    return [train["parameters"], train["lora"] if train["parameters"] == "lora" else None]
