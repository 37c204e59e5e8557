"""Tasks that only a memory can do: rows of equal segments, drawn by NumPy from a seed.

Attention stays inside a segment; what is asked in one stands in an earlier one, and the answer is
never shown again, so that a model without memory can only guess. In training every later segment
asks, since queries in the last one alone do not start the learning; a test asks in the last alone.

    recall    pairs of a key and a value in segment 0, then noise; a key asks for its value
    rule      examples of one of several hidden maps in segment 0; other inputs ask for their images
    sessions  the same in two sessions, between which tiers of memory may be cleared
    passkey   five digits somewhere in real text; asked for at the end (arXiv 2305.16300)
    turns     lessons of one table of a cue after another; each entry is asked, then told

Axes: B batch, T time, P pairs, Q queries of a segment, X inputs of a map, R maps, N a text.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

TELLS = b" The pass key is #"
TOLD = b"#. Keep it in mind. "
ASKS = b" Once more, the pass key is #"
"""What stands before and behind a key where it is told, and before it where it is asked for."""
LESSON_START = 1
"""Tokens of a lesson before its first pair: the cue."""


class Asked(NamedTuple):
    """Rows of one session."""

    ids_BT: np.ndarray
    """int32."""
    labels_BT: np.ndarray
    """int32; the answer where something is asked, else the token that follows."""
    weights_BT: np.ndarray
    """float32; what counts in training."""
    asked_BT: np.ndarray
    """bool; the queries that are scored."""


Sessions = tuple[Asked, ...]
"""Rows whose memory goes from one to the next."""


class Task(Protocol):
    """What a study trains on and tests."""

    @property
    def segment(self) -> int:
        """Tokens of a segment."""

    @property
    def vocab_size(self) -> int:
        """All tokens."""

    def draw(
        self, random: np.random.Generator, *, rows: int, segments: int, training: bool
    ) -> Sessions:
        """Fresh rows of so many segments a session; `training` asks all along."""


class Recall(NamedTuple):
    """Associative recall (arXiv 2312.04927) across segments; keys, then values, then noise."""

    segment: int = 64
    pairs: int = 8
    keys: int = 48
    values: int = 48
    noise: int = 32
    queries: int = 14
    """In a segment that asks."""

    @property
    def vocab_size(self) -> int:
        """All tokens."""
        return self.keys + self.values + self.noise

    @property
    def chance(self) -> float:
        """Share of right answers of who knows nothing."""
        return 1 / self.values

    def draw(
        self, random: np.random.Generator, *, rows: int, segments: int, training: bool
    ) -> Sessions:
        """Pairs in segment 0; see `Task`."""
        page = _Page(random, self, rows, segments)
        for row in range(rows):
            # Places are drawn two tokens at a time, so that no pair covers another.
            key_P = random.choice(self.keys, size=self.pairs, replace=False)
            value_P = self.keys + random.integers(self.values, size=self.pairs)
            page.tell(row, 0, key_P, value_P, among=self.segment)
            for segment in _asking(segments, training):
                chosen_Q = random.integers(self.pairs, size=self.queries)
                page.ask(row, segment, key_P[chosen_Q], value_P[chosen_Q])
        return (page.asked(),)


class Rule(NamedTuple):
    """One of `maps` hidden maps of inputs on outputs; of each input all images differ.

    Map r sends x to base[(x + offset_r) mod X], a permutation; tokens are inputs, outputs, noise.
    """

    segment: int = 64
    inputs: int = 16
    maps: int = 4
    examples: int = 3
    noise: int = 32
    queries: int = 14
    sessions: int = 1
    """Two: examples in the first, and the test's queries in the second."""
    hidden: int = 0
    """Seed of the maps, which are the same in all rows of a study."""

    @property
    def vocab_size(self) -> int:
        """All tokens."""
        return 2 * self.inputs + self.noise

    @property
    def chance(self) -> float:
        """Share of right answers of who knows all maps and not which one it is."""
        return 1 / self.maps

    @property
    def images(self) -> np.ndarray:
        """Token of each image; `[R, X]`."""
        random = np.random.default_rng(self.hidden)
        base_X = random.permutation(self.inputs)
        offset_R = random.choice(self.inputs, size=self.maps, replace=False)
        return self.inputs + base_X[(np.arange(self.inputs) + offset_R[:, None]) % self.inputs]

    def draw(
        self, random: np.random.Generator, *, rows: int, segments: int, training: bool
    ) -> Sessions:
        """Examples in segment 0, which in training asks behind them; see `Task`."""
        pages = [_Page(random, self, rows, segments) for _ in range(self.sessions)]
        for row in range(rows):
            image_X = self.images[random.integers(self.maps)]
            order_X = random.permutation(self.inputs)
            shown, others = order_X[: self.examples], order_X[self.examples :]
            half = self.segment // 2
            pages[0].tell(row, 0, shown, image_X[shown], among=half)
            for number, page in enumerate(pages):
                last = number == self.sessions - 1
                first = 0 if number > 0 or training else 1
                for segment in range(first, segments):
                    if not training and not (last and segment == segments - 1):
                        continue
                    start = half if number == 0 and segment == 0 else 0
                    # Half a segment has half the queries.
                    count = self.queries * (self.segment - start) // self.segment
                    x_Q = random.choice(others, size=count)
                    page.ask(row, segment, x_Q, image_X[x_Q], start=start)
        return tuple(page.asked() for page in pages)


class Passkey(NamedTuple):
    """Digits hidden in a text of ASCII characters, whose bytes are the tokens.

    The question repeats the words before the digits, which are then answered one after the other;
    each is asked with those before it in view, as greedy decoding has them if they were right.
    """

    text_N: np.ndarray
    """uint8; long enough for a row."""
    segment: int = 128
    digits: int = 5
    asking: int = 6
    """Segments that ask in training, at most."""

    @property
    def vocab_size(self) -> int:
        """All of ASCII."""
        return 128

    @property
    def chance(self) -> float:
        """Share of keys that are guessed."""
        return 10.0**-self.digits

    def draw(
        self, random: np.random.Generator, *, rows: int, segments: int, training: bool
    ) -> Sessions:
        """The key anywhere before the last segment, each segment that asks at its end."""
        assert segments >= 2, segments
        length = segments * self.segment
        said = len(TELLS) + self.digits + len(TOLD)
        ids = np.empty((rows, length + 1), np.int32)
        asked_BT = np.zeros((rows, length), bool)
        for row in range(rows):
            start = random.integers(len(self.text_N) - length)
            ids[row] = self.text_N[start : start + length + 1]
            key = bytes(b"0123456789"[d] for d in random.integers(10, size=self.digits))
            place = int(random.integers(length - self.segment - said + 1))
            _write(ids[row], place, TELLS + key + TOLD)
            # The segment after the one in which the key ends is the first that does not see it.
            later = np.arange((place + said - 1) // self.segment + 1, segments)
            if training:
                chosen = random.permutation(later[:-1])[: self.asking - 1]
                later = np.append(chosen, segments - 1)
            else:
                later = later[-1:]
            for segment in later:
                end = int(segment + 1) * self.segment
                _write(ids[row], end - len(key) - len(ASKS), ASKS + key)
                asked_BT[row, end - len(key) - 1 : end - 1] = True
        return (_as_asked(ids, asked_BT),)


class Turns(NamedTuple):
    """Lessons of random tables: a segment is a cue and, in any order, every input with its image.

    An input is asked before its image is told, and stands in a segment once, so that what is not
    known from before can only be guessed. Tokens are cues, inputs, outputs, noise.
    """

    segment: int = 32
    inputs: int = 8
    outputs: int = 16
    noise: int = 8
    cues: int = 8

    @property
    def vocab_size(self) -> int:
        """All tokens."""
        return self.cues + self.inputs + self.outputs + self.noise

    @property
    def chance(self) -> float:
        """Share of right answers of who knows nothing."""
        return 1 / self.outputs

    def tables(self, random: np.random.Generator, *, count: int) -> np.ndarray:
        """Images `[count, X]` as outputs, with replacement: what is told excludes nothing else."""
        return random.integers(self.outputs, size=(count, self.inputs))

    def lesson(
        self, random: np.random.Generator, *, rows: int, cue: int, table_X: np.ndarray
    ) -> Asked:
        """One segment a row, all of one table."""
        return self._lessons(random, np.full((rows, 1), cue), table_X[None, None].repeat(rows, 0))

    def draw(
        self, random: np.random.Generator, *, rows: int, segments: int, training: bool
    ) -> Sessions:
        """Rows of lessons in which a few tables, new in every row, come and go under their cues.

        All is asked in training; in a test, what a row's last segment asks of a table that an
        earlier one had.
        """
        few = min(3, self.cues)
        cue_BS = np.empty((rows, segments), np.int64)
        table_BSX = np.empty((rows, segments, self.inputs), np.int64)
        for row in range(rows):
            cues, tables = (
                random.choice(self.cues, few, replace=False),
                self.tables(random, count=few),
            )
            order_S = random.integers(few, size=segments)
            order_S[-1] = random.choice(order_S[:-1]) if segments > 1 else order_S[-1]
            cue_BS[row], table_BSX[row] = cues[order_S], tables[order_S]
        found = self._lessons(random, cue_BS, table_BSX)
        if not training:
            found.asked_BT[:, : -self.segment] = False
            found.weights_BT[:, : -self.segment] = 0.0
        return (found,)

    def _lessons(
        self, random: np.random.Generator, cue_BS: np.ndarray, table_BSX: np.ndarray
    ) -> Asked:
        rows, segments = cue_BS.shape
        first_noise = self.vocab_size - self.noise
        ids = random.integers(
            first_noise, self.vocab_size, size=(rows, segments * self.segment + 1), dtype=np.int32
        )
        asked_BT = np.zeros((rows, segments * self.segment), bool)
        for row in range(rows):
            for segment in range(segments):
                start = segment * self.segment
                x_X = random.permutation(self.inputs)
                places_X = start + LESSON_START + 2 * np.arange(self.inputs)
                ids[row, start] = cue_BS[row, segment]
                ids[row, places_X] = self.cues + x_X
                told = table_BSX[row, segment][x_X]
                ids[row, places_X + 1] = self.cues + self.inputs + told
                asked_BT[row, places_X] = True
        return _as_asked(ids, asked_BT)


class Text(NamedTuple):
    """Plain text in rows of segments: every token counts and is asked."""

    ids_N: np.ndarray
    vocab_size: int
    segment: int = 256

    def draw(
        self, random: np.random.Generator, *, rows: int, segments: int, training: bool
    ) -> Sessions:
        """Rows from anywhere in the text."""
        del training
        length = segments * self.segment
        start_B = random.integers(len(self.ids_N) - length, size=rows)
        return (self._rows(start_B, length),)

    def whole(self, *, rows: int, segments: int) -> Iterator[Sessions]:
        """The text from its start in rows that do not overlap; less than `rows` at its end go."""
        length = segments * self.segment
        starts = np.arange(0, len(self.ids_N) - length, length)
        for first in range(0, len(starts) - rows + 1, rows):
            yield (self._rows(starts[first : first + rows], length),)

    def _rows(self, start_B: np.ndarray, length: int) -> Asked:
        ids = self.ids_N[start_B[:, None] + np.arange(length + 1)]
        return _as_asked(ids.astype(np.int32), np.ones((len(ids), length), bool))


class _Page:
    """Noise in which pairs are told and inputs asked for."""

    def __init__(
        self, random: np.random.Generator, task: Recall | Rule, rows: int, segments: int
    ) -> None:
        self._random, self._segment = random, task.segment
        shape = (rows, segments * task.segment)
        first_noise = task.vocab_size - task.noise
        self._ids_BT = random.integers(first_noise, task.vocab_size, size=shape, dtype=np.int32)
        # A label that counts nowhere is the noise itself.
        self._labels_BT = self._ids_BT.copy()
        self._asked_BT = np.zeros(shape, bool)

    def tell(
        self, row: int, segment: int, left_P: np.ndarray, right_P: np.ndarray, *, among: int
    ) -> None:
        """Writes pairs into the first `among` tokens of a segment."""
        place_P = segment * self._segment + self._places(len(left_P), among)
        self._ids_BT[row, place_P], self._ids_BT[row, place_P + 1] = left_P, right_P

    def ask(
        self, row: int, segment: int, left_Q: np.ndarray, right_Q: np.ndarray, *, start: int = 0
    ) -> None:
        """Writes the left of pairs, noise behind each, from token `start` of a segment on."""
        among = self._segment - start
        place_Q = segment * self._segment + start + self._places(len(left_Q), among)
        self._ids_BT[row, place_Q], self._labels_BT[row, place_Q] = left_Q, right_Q
        self._asked_BT[row, place_Q] = True

    def asked(self) -> Asked:
        """What was written."""
        weights_BT = self._asked_BT.astype(np.float32)
        return Asked(self._ids_BT, self._labels_BT, weights_BT, self._asked_BT)

    def _places(self, count: int, among: int) -> np.ndarray:
        return 2 * self._random.choice(among // 2, size=count, replace=False)


def _asking(segments: int, training: bool) -> range:
    """The segments that ask."""
    return range(1 if training else segments - 1, segments)


def _as_asked(ids: np.ndarray, asked_BT: np.ndarray) -> Asked:
    """Rows with one token more than asked for; the labels are the tokens that follow."""
    return Asked(ids[:, :-1], ids[:, 1:], asked_BT.astype(np.float32), asked_BT)


def _write(ids_T: np.ndarray, place: int, text: bytes) -> None:
    ids_T[place : place + len(text)] = np.frombuffer(text, np.uint8)
