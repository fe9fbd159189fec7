"""Checks for contradictory settings of acquisition; see `consistency`."""

from prefloop.config.checks import failed


def labels_per_prompt(settings: dict) -> int:
    """Return how many responses of each prompt get a label."""
    acquisition = settings["acquisition"]
    return settings["generation"]["n"] if acquisition["rule"] == "all" else acquisition["labels"]


def impossible_acquisition(settings: dict) -> list[str]:
    """Return errors of acquisition settings that leave no choice between responses."""
    acquisition, generation = settings["acquisition"], settings["generation"]
    if acquisition["rule"] == "all":
        return []
    sampled, labels = generation["sampler"] != "dataset", acquisition["labels"]
    responses = generation["n"] if sampled else 2
    checks = [
        (
            settings["feedback"]["kind"] == "dataset",
            "acquisition.rule: feedback.kind dataset labels both responses, so there is nothing to choose; set it to "
            "all",
        ),
        (
            acquisition["pool"] > 1 and settings["bandit"]["allocation"] == "all",
            f"acquisition.pool: {acquisition['pool']} times the budget, but bandit.allocation all has no budget; "
            "set it to 1, or choose another allocation",
        ),
        (
            labels > responses or (labels == responses and acquisition["pool"] == 1),
            f"acquisition.labels: {labels}, but a prompt has {responses} responses, so there is nothing to choose; "
            "lower it, raise generation.n, or set acquisition.rule: all",
        ),
    ]
    return failed(checks)
