"""Tokens to text as they come, up to the first stop string."""

from collections.abc import Sequence

from rtdlm.data import StreamDecoder, Tokenizer


class TextStream:
    """Gives out text that is certain: whole characters, and nothing that a stop string may claim.

    Attributes:
        stopped: a stop string was found; the text before it has been given out, and there is
            no more.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stop = tuple(stop)
        self._held = ""  # The beginning of a stop string, perhaps.
        self.stopped = False

    def feed(self, token: int) -> str:
        """The text that is certain now that `token` is known; may be empty."""
        text = self._up_to_stop(self._held + self._decoder.feed(token))
        certain = len(text) if self.stopped else len(text) - self._open_end(text)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """The text that was held back."""
        text = self._up_to_stop(self._held + self._decoder.finish())
        self._held = ""
        return text

    def _up_to_stop(self, text: str) -> str:
        found = [place for place in map(text.find, self._stop) if place >= 0]
        if not found:
            return text
        self.stopped = True
        return text[: min(found)]

    def _open_end(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        return max(
            (
                size
                for stop in self._stop
                for size in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:size])
            ),
            default=0,
        )
