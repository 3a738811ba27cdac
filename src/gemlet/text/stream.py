"""Token ids to text as they come: whole characters, and nothing that a stop string takes back."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from gemlet.errors import InvalidRequestError
from gemlet.text.tokenizer import Tokenizer


class TextStream:
    """The text of a growing list of token ids, in pieces that together equal `tokenizer.decode` of them all.

    With stop strings, text ends before the one that is complete first, counted in characters whatever the
    token boundaries (of two that end together, the longer); `stopped` then names it. Text that may still
    become a stop string is held back. The cost of a token does not grow with the text before it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
            raise InvalidRequestError("stop strings must be a list of texts that are not empty")
        self.stopped: str | None = None
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._searches = [_Search(text) for text in stop]
        self._held = ""

    def push(self, token_id: int) -> str:
        """The text that one more token makes certain; often empty, always after a stop."""
        return self._advance(self._decoder.decode(self._tokenizer.piece(token_id)))

    def finish(self) -> str:
        """The rest of the text, when no more tokens come."""
        text = self._advance(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _advance(self, text: str) -> str:
        if self.stopped is not None:
            return ""
        start, self._held = len(self._held), self._held + text
        for end, character in enumerate(text, start + 1):
            complete = [search.text for search in self._searches if search.advance(character)]
            if complete:
                self.stopped = max(complete, key=len)
                certain, self._held = self._held[: end - len(self.stopped)], ""
                return certain
        doubtful = max((search.matched for search in self._searches), default=0)
        keep = len(self._held) - doubtful
        certain, self._held = self._held[:keep], self._held[keep:]
        return certain


class _Search:
    """Looks for one text in characters that come one by one (Knuth, Morris and Pratt's automaton)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        """How many of the last characters are a beginning of `text`."""
        self._shorter = [0]  # for each length matched, the next shorter beginning that also ends there
        for character in text[1:]:
            length = self._extend(self._shorter[-1], character)
            self._shorter.append(length)

    def advance(self, character: str) -> bool:
        """Whether the text is complete with this character."""
        self.matched = self._extend(self.matched, character)
        return self.matched == len(self.text)

    def _extend(self, length: int, character: str) -> int:
        while length and self.text[length] != character:
            length = self._shorter[length - 1]
        return length + 1 if self.text[length] == character else 0
