"""Noise and sources of a feedback that do not fit; see `consistency`.

Snakemake reads this at every start, so nothing heavy is imported here.
"""

from prefloop.config.method_consistency import failed


def impossible_noise(where: str, feedback: dict) -> list[str]:
    """Noise where there are no rewards, or in evaluation."""
    noisy, is_judge = feedback["noise"]["kind"] is not None, feedback["kind"] == "judge"
    evaluates = where.startswith("evaluation.")
    return failed(
        [
            (
                noisy and evaluates,
                f"{where}.noise.kind: evaluation has no noise; set it to null, and feedback.noise for labels of "
                "training",
            ),
            (
                noisy and is_judge and not evaluates,
                f"{where}.noise.kind: noise is added to rewards, and a judge gives none; set it to null",
            ),
        ]
    )
