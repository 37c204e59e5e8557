"""Tasks that only a memory can do: rows of equal segments, drawn by NumPy from a seed.

Attention stays inside a segment; what is asked in one stands in an earlier one, and the answer is
never shown again, so that a model without memory can only guess. In training every later segment
asks, since queries in the last one alone do not start the learning; a test asks in the last alone.

    recall    pairs of a key and a value in segment 0, then noise; a key asks for its value
    rule      examples of one of several hidden maps in segment 0; other inputs ask for their images
    sessions  the same in two sessions, between which tiers of memory may be cleared
    passkey   five digits somewhere in real text; asked for at the end (arXiv 2305.16300)
    turns     lessons of tasks, one behind another; images are asked, then the map is named

Axes: B batch, T time, P pairs, Q queries of a segment, X inputs of a map, R maps, N a text.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

TELLS = b" The pass key is #"
TOLD = b"#. Keep it in mind. "
ASKS = b" Once more, the pass key is #"
"""What stands before and behind a key where it is told, and before it where it is asked for."""


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
        """The key anywhere before the last segment; who asks does so at its segment's end.

        In training anywhere in its segment: who learns that what stands late is a question does not
        keep a key that is told late. And half of training's keys are told across a segment's end:
        else what is learned is to read a key off the words behind it, which a segment's end cuts
        off, and keys in a segment's last ten places are missed.
        """
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
            if training and segments > 2 and random.random() < 0.5:
                ends = self.segment * np.arange(1, segments - 1)
                place = int(random.choice(ends) - random.integers(1, said))
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
                if training:
                    end -= int(random.integers(self.segment - len(key) - len(ASKS) + 1))
                _write(ids[row], end - len(key) - len(ASKS), ASKS + key)
                asked_BT[row, end - len(key) - 1 : end - 1] = True
        return (_as_asked(ids, asked_BT),)


class Turns(NamedTuple):
    """Lessons of tasks: a cue stands for one of several maps, and which one is to be remembered.

    Map m sends x to base[(x + m) mod X]. A lesson, one segment, first asks for images under the map
    of its cue, then names the map, then asks for more. Every input stands behind the cue. What is
    asked before the map is named can be known from earlier lessons alone. Tokens are cues, inputs,
    images, names.
    """

    inputs: int = 8
    """As many as maps."""
    before: int = 3
    """Questions of a lesson before the map is named."""
    behind: int = 2
    cues: int = 8
    hidden: int = 0
    """Seed of the base, which is the same in all rows of a study."""

    @property
    def segment(self) -> int:
        """Tokens of a lesson: two for each question, and for the name."""
        return 2 * (self.before + 1 + self.behind)

    @property
    def vocab_size(self) -> int:
        """All tokens."""
        return self.cues + 3 * self.inputs

    @property
    def chance(self) -> float:
        """Share of right answers of who knows nothing; that cues of a row differ tells a little."""
        return 1 / self.inputs

    def maps(self, random: np.random.Generator, *, count: int) -> np.ndarray:
        """So many different ones, by number."""
        return random.choice(self.inputs, size=count, replace=False)

    def lesson(self, random: np.random.Generator, *, rows: int, cue: int, number: int) -> Asked:
        """One segment a row, all of one cue and its map."""
        return self._lessons(random, np.full((rows, 1), cue), np.full((rows, 1), number))

    def draw(
        self, random: np.random.Generator, *, rows: int, segments: int, training: bool
    ) -> Sessions:
        """Rows of lessons in which cues, whose maps are drawn anew for every row, come and go.

        At least two lessons are of one cue on average. All ask in training; in a test the last of
        a row does, of a cue that was there before.
        """
        few = min(self.cues, self.inputs, max(1, segments // 2))
        cue_BS = np.empty((rows, segments), np.int64)
        map_BS = np.empty((rows, segments), np.int64)
        for row in range(rows):
            order_S = random.integers(few, size=segments)
            order_S[-1] = random.choice(order_S[:-1]) if segments > 1 else order_S[-1]
            cue_BS[row] = random.choice(self.cues, few, replace=False)[order_S]
            map_BS[row] = self.maps(random, count=few)[order_S]
        found = self._lessons(random, cue_BS, map_BS)
        if not training:
            found.asked_BT[:, : -self.segment] = False
            found.weights_BT[:, : -self.segment] = 0.0
        return (found,)

    def _lessons(
        self, random: np.random.Generator, cue_BS: np.ndarray, map_BS: np.ndarray
    ) -> Asked:
        base_X = np.random.default_rng(self.hidden).permutation(self.inputs)
        places = self.before + 1 + self.behind
        x_BSP = random.integers(self.inputs, size=(*cue_BS.shape, places))
        second_BSP = self.cues + x_BSP
        second_BSP[..., self.before] = self.cues + 2 * self.inputs + map_BS
        ids_BSP2 = np.stack([cue_BS[..., None].repeat(places, -1), second_BSP], axis=-1)
        image_BSP = self.cues + self.inputs + base_X[(x_BSP + map_BS[..., None]) % self.inputs]
        labels_BSP2 = np.stack([second_BSP, image_BSP], axis=-1)
        counts_BSP2 = np.zeros(ids_BSP2.shape, bool)
        counts_BSP2[..., 1] = True
        counts_BSP2[..., self.before, :] = False
        asked_BSP2 = counts_BSP2.copy()
        asked_BSP2[..., self.before :, :] = False
        ids, labels, counts, asked = (
            x.reshape(len(cue_BS), -1) for x in (ids_BSP2, labels_BSP2, counts_BSP2, asked_BSP2)
        )
        return Asked(
            ids.astype(np.int32), labels.astype(np.int32), counts.astype(np.float32), asked
        )


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
        return (self.rows(start_B, length),)

    def whole(self, *, rows: int, segments: int) -> Iterator[Sessions]:
        """The text from its start in rows that do not overlap; less than `rows` at its end go."""
        length = segments * self.segment
        starts = np.arange(0, len(self.ids_N) - length, length)
        for first in range(0, len(starts) - rows + 1, rows):
            yield (self.rows(starts[first : first + rows], length),)

    def rows(self, start_B: np.ndarray, length: int) -> Asked:
        """Rows of so many tokens from these places."""
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
