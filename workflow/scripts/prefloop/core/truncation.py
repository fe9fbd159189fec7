"""Responses that reached the maximum number of tokens before their end."""

MANY = 0.5  # a larger share of truncated responses is worth a warning


def is_truncated(response: dict) -> bool:
    """Whether a response was cut at the maximum number of tokens; one of a data set has no finish_reason."""
    return response.get("finish_reason") == "length"


def many_truncated(truncated: int, responses: int) -> bool:
    """Whether so many responses are truncated that feedback and training see mostly beginnings."""
    return truncated > MANY * responses


def truncation_warning(truncated: int, responses: int, max_new_tokens: int) -> str:
    """What a stage says about many truncated responses; empty if they are few."""
    if not many_truncated(truncated, responses):
        return ""
    return (
        f"{truncated} of {responses} responses reached max_new_tokens ({max_new_tokens}) before their end; raise it, "
        "or see feedback.truncation_penalty and pairs.drop_truncated"
    )
