"""Responses that reached the maximum number of tokens before their end."""

MANY = 0.1  # a larger share of truncated responses is worth a warning


def is_truncated(response: dict) -> bool:
    """Whether a response was cut at the maximum number of tokens; one of a data set has no finish_reason."""
    return response.get("finish_reason") == "length"


def many_truncated(truncated: int, responses: int) -> bool:
    """Whether so many responses are truncated that rewards and win rates partly measure where they were cut."""
    return truncated > MANY * responses


def truncation_warning(truncated: int, responses: int, max_new_tokens: int, policy: str, section: str) -> str:
    """What a stage says about many truncated responses; empty if they are few.

    Args:
        truncated: Number of truncated responses.
        responses: Number of responses.
        max_new_tokens: The limit that they reached.
        policy: What sampled them, in words.
        section: Section of the config that has the limit.
    """
    if not many_truncated(truncated, responses):
        return ""
    return (
        f"{truncated} of {responses} responses ({truncated / responses:.0%}) of {policy} reached "
        f"{section}.max_new_tokens ({max_new_tokens}) before their end; raise it, or see feedback.truncation_penalty "
        "and pairs.drop_truncated"
    )
