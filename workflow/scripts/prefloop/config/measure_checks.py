"""Checks for contradictory settings of the perplexity of plain text and of the best round.

As in `consistency`, a check fails if its condition is true.
"""

from prefloop.config.checks import failed
from prefloop.config.declarations import defaults
from prefloop.config.evaluation_settings import PerplexitySection, ValidationConfig
from prefloop.config.resolve import gives_rewards, reward_sources, target_measure


def impossible_perplexity(config: dict) -> list[str]:
    """Return errors of perplexity: no text to measure it on, or windows without a token to score."""
    settings = config["evaluation"]["perplexity"]
    without_text = settings["text"] is None
    return failed(
        [
            (
                without_text and "perplexity" in config["figures"],
                "figures: perplexity needs evaluation.perplexity.text; set it to packaged, or to a .txt or .jsonl file",
            ),
            (
                without_text and settings != defaults(PerplexitySection),
                "evaluation.perplexity.text: missing, but other keys of perplexity are set; set it to packaged, or to "
                "a .txt or .jsonl file",
            ),
            (
                settings["context"] >= settings["max_tokens"],
                f"evaluation.perplexity.context: {settings['context']}, but with max_tokens {settings['max_tokens']} "
                "this leaves no token of a window to score; lower it",
            ),
        ]
    )


def impossible_validation(config: dict) -> list[str]:
    """Return errors of the best round: a measure without numbers, or no prompts to choose it."""
    settings, measure = config["evaluation"]["validation"], target_measure(config, "validation")
    source = reward_sources(config).get(measure)
    return failed(
        [
            (
                settings["fraction"] is None and settings != defaults(ValidationConfig),
                "evaluation.validation.fraction: missing, but other keys of validation are set; set it, for example "
                "to 0.3",
            ),
            (
                settings["fraction"] is not None and source is not None and not gives_rewards(source),
                f"evaluation.validation.measure: {measure} is not available, because kind {(source or {}).get('kind')} "
                "gives no rewards; set it to win",
            ),
        ]
    )
