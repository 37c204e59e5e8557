"""Windows over the stream of a split: rows of T inputs with next-token labels.

The ids x of a split are one stream of N tokens, read as a ring: x[N] is x[0]. Window w of a pass
that is shifted by s covers the inputs

    x[s + w T], ..., x[s + min((w + 1) T, N) - 1]        for w = 0, ..., ceil(N / T) - 1

and the label of each is the token after it. So each pass reads every token exactly once as an
input and exactly once as a label, whatever the shift; the last window is short unless T divides N,
and is filled up with padding. The stream starts with the boundary of two documents, so where the
ring closes the label is right too: the last document ends.

Axes: R rows, T positions.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from rtdlm.data.batch import Batch
from rtdlm.data.packing import pack
from rtdlm.data.shards import Tensor, check_ids

# Streams up to this size are read whole when they are opened, to find a bad id before training.
_CHECKED_TOKENS = 1 << 25


class TokenStream:
    """The shards of a split as one ring of ids.

    Attributes:
        num_tokens: length of the ring [tokens].
    """

    def __init__(self, tensors: Sequence[Tensor], *, vocab_size: int) -> None:
        self._tensors = list(tensors)
        self._ends = list(accumulate(tensor.shape[0] for tensor in tensors))
        self._vocab_size = vocab_size
        self.num_tokens = self._ends[-1] if self._ends else 0
        if self.num_tokens <= _CHECKED_TOKENS:
            for tensor in self._tensors:
                self._check(tensor, tensor.map(), 0)

    def read(self, start: int, count: int) -> np.ndarray:
        """`count` ids from `start` on, around the ring; int32 [count].

        Raises:
            UserError: an id is not below the vocabulary.
        """
        parts = []
        while count > 0:
            start %= self.num_tokens
            shard = bisect_right(self._ends, start)
            tensor = self._tensors[shard]
            offset = start - (self._ends[shard] - tensor.shape[0])
            part = tensor.map()[offset : offset + count]
            self._check(tensor, part, offset)
            parts.append(part)
            start += len(part)
            count -= len(part)
        return np.concatenate(parts).astype(np.int32)

    def _check(self, tensor: Tensor, ids: np.ndarray, offset: int) -> None:
        check_ids(ids, tensor, self._vocab_size, offset)


class StreamWindows:
    """The windows of one stream.

    Attributes:
        num_windows: in a pass.
        num_tokens: labels in a pass [tokens].
        num_shifts: boundaries can be moved by 0, ..., num_shifts - 1 [tokens].
    """

    def __init__(self, stream: TokenStream, *, seq_len: int, document_id: int) -> None:
        self._stream = stream
        self._seq_len = seq_len
        self._document_id = document_id
        self.num_tokens = stream.num_tokens
        self.num_windows = -(-stream.num_tokens // seq_len)
        self.num_shifts = seq_len

    def rows(self, windows: np.ndarray, *, shift: int) -> Batch:
        """The rows of `windows` [R] in a pass shifted by `shift`."""
        starts = windows * self._seq_len
        ids = [self._stream.read(int(start) + shift, self._seq_len + 1) for start in starts]
        lengths = np.minimum(self._seq_len, self.num_tokens - starts)
        return pack(np.stack(ids), lengths=lengths, document_id=self._document_id)

    def goes_on(self, windows: np.ndarray, *, shift: int) -> np.ndarray:
        """Bool [R]: the row begins inside the document that the window before ends with."""
        starts = windows * self._seq_len + shift
        first = np.array([self._stream.read(int(start), 1)[0] for start in starts])
        return (windows > 0) & (first != self._document_id)
