"""Strings that end a response. Like the EOS token, they are part of its tokens but not of its text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class StopStrings:
    """Ends a response with the token that completes one of several strings."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", strings: Sequence[str]) -> None:
        self.tokenizer, self.strings = tokenizer, tuple(strings)
        # A token has at least one byte. One more token, because some tokenizers drop the space of the first token.
        self.window = 1 + max((len(string.encode()) for string in self.strings), default=0)

    def found_in(self, text: str) -> bool:
        """Whether a text contains a stop string."""
        return any(string in text for string in self.strings)

    def completed(self, ids: list[int]) -> bool:
        """Whether the last token of a response completes a stop string."""
        return bool(self.strings) and self.found_in(str(self.tokenizer.decode(ids[-self.window :])))

    def cut_ids(self, ids: list[int]) -> list[int]:
        """The response up to the token that completes the first stop string."""
        if not self.found_in(str(self.tokenizer.decode(ids))):
            return ids
        return next((ids[:end] for end in range(1, len(ids)) if self.completed(ids[:end])), ids)

    def cut_text(self, text: str) -> str:
        """The text up to the first stop string."""
        return text[: min((text.find(string) for string in self.strings if string in text), default=len(text))]
