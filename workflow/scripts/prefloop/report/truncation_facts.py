"""Warnings about truncated responses: the policies, the shares, and the setting to change."""

from prefloop.config.experiment import Experiment
from prefloop.core.truncation import many_truncated
from prefloop.evaluation.results import truncated_generations, truncated_samples


def truncation_facts(experiment: Experiment, evaluated: bool = True) -> list[str]:
    """A sentence for evaluation and one for training, if more than a tenth of a policy's responses is truncated.

    For evaluation, only samples of the initial policy and of every method's last round count. For training, all
    responses count.

    Args:
        experiment: The runs.
        evaluated: Whether there are evaluation samples.
    """
    samples = truncated_samples(experiment) if evaluated else {}
    ends = {
        experiment.label(method): counts
        for (method, round_index), counts in samples.items()
        if round_index in (0, experiment.rounds)
    }
    trained = {experiment.label(method): counts for method, counts in truncated_generations(experiment).items()}
    sentences = {
        "Truncated evaluation samples: {}; raise evaluation.max_new_tokens.": ends,
        "Truncated responses in training: {}; raise generation.max_new_tokens.": trained,
    }
    shares = {sentence: shares_of_many(counts) for sentence, counts in sentences.items()}
    return [sentence.format(listed) for sentence, listed in shares.items() if listed]


def shares_of_many(counts: dict[str, tuple[int, int]]) -> str:
    """`initial 40 %, dota 62 %`: the policies with many truncated responses; counts are (truncated, responses)."""
    return ", ".join(
        f"{name} {100 * truncated / responses:.0f} %"
        for name, (truncated, responses) in counts.items()
        if many_truncated(truncated, responses)
    )
