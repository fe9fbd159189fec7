"""Checks for metrics and losses that need other feedback or other settings; see `consistency`."""

from prefloop.config.checks import failed
from prefloop.core.registry import chosen_words, registry_words

NEEDS_ENSEMBLE = registry_words("methods.pair_metrics.NEEDS_ENSEMBLE")
OF_MARGIN = ("dpo", "cdpo", "rdpo", "ipo", "slic")  # losses of the margin of whole responses, which ld_alpha changes


def impossible_metrics(settings: dict) -> list[str]:
    """Return errors of metrics that compare the members of an ensemble if the feedback is not an ensemble."""
    kind = settings["feedback"]["kind"]
    chosen = {f"{section}.metric": settings[section]["metric"] for section in ("pairs", "bandit")}
    chosen["pairs.first_metric"] = settings["pairs"]["first_metric"]
    return [
        f"{key}: {metric} compares the members of an ensemble, but feedback.kind is {kind}; choose another metric or "
        "kind ensemble"
        for key, metric in chosen.items()
        if metric in NEEDS_ENSEMBLE and kind != "ensemble"
    ]


def impossible_split(settings: dict) -> list[str]:
    """Return errors of losses, weights and added pairs that cannot be combined with `train.ld_alpha`."""
    train, pairs = settings["train"], settings["pairs"]
    if train["ld_alpha"] is None:
        return []
    others = [loss for loss in chosen_words(train["loss"]) if loss not in OF_MARGIN]
    checks = [
        (
            bool(others),
            f"train.ld_alpha: needs losses of the margin ({', '.join(OF_MARGIN)}), but loss is "
            f"{''.join(others[:1])}; set it to null or choose one of these",
        ),
        (
            train["pair_weights"] is not None,
            f"train.ld_alpha: pair_weights {train['pair_weights']} uses entire responses; set one of them to null",
        ),
        (
            pairs["replay"]["share"] > 0 or pairs["offline_share"] > 0,
            "train.ld_alpha: pairs.replay and pairs.offline_share add pairs without the numbers that it needs; set "
            "their shares to 0, or ld_alpha to null",
        ),
    ]
    return failed(checks)
