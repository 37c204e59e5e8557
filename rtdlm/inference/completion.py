"""What comes of one prompt: tokens as they are sampled, text as it becomes certain, an end."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from rtdlm.inference.decode import NO_TOKEN
from rtdlm.inference.text import TextStream

FinishReason = Literal["stop", "length", "document"]


class Completion(NamedTuple):
    """What followed one prompt."""

    text: str
    tokens: tuple[int, ...]
    """The sampled ids. After a stop string the last of them spell what `text` was trimmed of; the
    document token is left out."""
    finish_reason: FinishReason
    """`stop`: a stop string; `document`: the model ended the document; `length`: `max_tokens`, or
    the model's context is full."""
    prompt_tokens: int
    """Length of the prompt with its document token [tokens]."""
    calls: int
    """Times that the model was called for the tokens; less than them with a draft."""

    @property
    def sampled(self) -> int:
        """Tokens that were sampled, the document token among them."""
        return len(self.tokens) + (self.finish_reason == "document")


class Row:
    """One prompt of a batch while it is continued.

    Attributes:
        prompt: its tokens, with what begins it.
        left: tokens that may still be sampled.
        completion: the result, once the row has ended.
    """

    def __init__(
        self, prompt: np.ndarray, *, left: int, stream: TextStream, end_ids: tuple[int, ...]
    ) -> None:
        self.prompt = prompt
        self.left = left
        self.completion: Completion | None = None
        self._stream = stream
        self._end_ids = end_ids
        self._tokens: list[int] = []
        self._text = ""
        self._calls = 0

    def take(self, calls: Sequence[Sequence[int]]) -> str:
        """Appends the tokens of each call of the model; returns the text that they make certain."""
        given = len(self._text)
        for tokens in calls:
            if tokens[0] == NO_TOKEN or self.completion is not None:
                break
            self._calls += 1
            for token in tokens:
                if token == NO_TOKEN or self.completion is not None:
                    break
                self._append(token)
        return self._text[given:]

    def _append(self, token: int) -> None:
        self.left -= 1
        ended = token in self._end_ids
        if not ended:
            self._tokens.append(token)
            self._text += self._stream.feed(token)
        if (ended or not self.left) and not self._stream.stopped:
            self._text += self._stream.finish()
        if self._stream.stopped:
            self._complete("stop")
        elif ended:
            self._complete("document")
        elif not self.left:
            self._complete("length")

    def _complete(self, reason: FinishReason) -> None:
        self.left = 0
        self.completion = Completion(
            self._text, tuple(self._tokens), reason, len(self.prompt), self._calls
        )
