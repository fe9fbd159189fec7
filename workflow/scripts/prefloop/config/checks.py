"""Checks of settings: what `consistency` and its parts share."""

from collections.abc import Iterable

Check = tuple[bool, str]  # whether it fails, and the message


def failed(checks: Iterable[Check]) -> list[str]:
    """Return the messages of the checks that fail."""
    return [message for fails, message in checks if fails]
