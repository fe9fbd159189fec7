"""Responses that reached the maximum number of tokens before their end."""

MANY = 0.1  # a larger share of truncated responses is worth a warning


def is_truncated(response: dict) -> bool:
    """Whether a response was cut at the maximum number of tokens. Responses of data sets have no finish_reason."""
    return response.get("finish_reason") == "length"


def many_truncated(truncated: int, responses: int) -> bool:
    """Whether so many responses are truncated that the cuts affect rewards and win rates."""
    return truncated > MANY * responses


def truncation_warning(truncated: int, responses: int, max_new_tokens: int, policy: str, section: str) -> str:
    """Return a stage's warning about truncated responses, or an empty text if there are few.

    Args:
        truncated: Number of truncated responses.
        responses: Number of responses.
        max_new_tokens: The limit that they reached.
        policy: Description of the policy that sampled them.
        section: Section of the config that sets the limit.
    """
    if not many_truncated(truncated, responses):
        return ""
    return (
        f"{truncated} of {responses} responses ({truncated / responses:.0%}) of {policy} reached "
        f"{section}.max_new_tokens ({max_new_tokens}) before their end; raise it, or see feedback.truncation_penalty "
        "and pairs.drop_truncated"
    )
