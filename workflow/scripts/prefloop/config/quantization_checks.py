"""Checks for settings that 4-bit base weights do not support; see `consistency`."""

from prefloop.config.checks import Check, failed


def impossible_quantization(settings: dict) -> list[str]:
    """Return errors of training settings and engines that do not support quantized base weights."""
    kind, train, engine = settings["policy"]["quantization"], settings["train"], settings["generation"]["engine"]
    if kind is None:
        return []
    name = f"policy.quantization: {kind}"
    checks: list[Check] = [
        (
            train["parameters"] == "full",
            f"{name} keeps base weights fixed, but train.parameters is full; set it to null, or train.parameters to "
            "lora",
        ),
        (
            train["sharding"] != "none",
            f"{name} needs the entire model in every process, but train.sharding is {train['sharding']}; set "
            "train.sharding to none",
        ),
        (
            engine == "vllm",
            f"{name} is not supported by generation.engine vllm; use auto or transformers",
        ),
    ]
    return failed(checks)
