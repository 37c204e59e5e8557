"""Text from ids that arrive one by one, never half a character."""

from rtdlm.data.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
# A character has at most four bytes, so at most three of a text's last bytes can still become one.
_MAX_OPEN = 3


class StreamDecoder:
    """Decodes a stream of ids; what `feed` and `finish` return joins to `decode` of all ids.

    (With a sentencepiece-style byte-fallback vocabulary that holds only for valid UTF-8: there a
    bad byte takes the good ones before it along, and those have been given out already.)
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []  # Ids that are still needed: the last given out, the open.
        self._given = 0  # Characters of the window's text that were given out.

    def feed(self, token_id: int) -> str:
        """The text that is certain now that `token_id` is known; may be empty."""
        self._window.append(int(token_id))
        text = self._tokenizer.decode(self._window)
        open_end = len(text) - len(text.rstrip(_REPLACEMENT))
        certain = len(text) - min(open_end, _MAX_OPEN)
        new = text[self._given : certain]
        self._given = max(self._given, certain)
        if open_end == 0:
            self._shorten()
        return new

    def finish(self) -> str:
        """The text that was held back, with U+FFFD for what never became a character."""
        new = self._tokenizer.decode(self._window)[self._given :]
        self._window, self._given = [], 0
        return new

    def _shorten(self) -> None:
        """Keeps one token that has text, so that a decoder that trims its start trims the same."""
        last = self._tokenizer.decode(self._window[-1:])
        if last:
            self._window, self._given = self._window[-1:], len(last)
