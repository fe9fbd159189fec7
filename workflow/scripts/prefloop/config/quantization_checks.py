"""Checks for settings that 4-bit base weights do not support; see `consistency`."""

Check = tuple[bool, str]  # whether it fails, and the message


def impossible_quantization(settings: dict) -> list[str]:
    """Return errors of training settings and engines that do not support quantized base weights."""
    kind, train, engine = settings["policy"]["quantization"], settings["train"], settings["generation"]["engine"]
    if kind is None:
        return []
    name = f"policy.quantization: {kind}"
    checks: list[Check] = [
        (
            train["parameters"] == "full",
            f"{name} keeps base weights fixed, and train.parameters is full; set the one to null or the other to lora",
        ),
        (
            train["sharding"] != "none",
            f"{name} keeps the whole model in every process, and train.sharding is {train['sharding']}; set it to none",
        ),
        (
            engine == "vllm",
            f"{name} is not what vLLM samples from, and generation.engine is vllm; use auto or transformers",
        ),
    ]
    return [message for fails, message in checks if fails]
