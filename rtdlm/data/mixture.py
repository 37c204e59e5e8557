"""Which source each row comes from, when sources have weights.

Rows follow a pattern of `PERIOD` rows over and over. In each period source s has exactly

    n_s = round(PERIOD * w_s / sum(w)),   by largest remainder, at least 1

rows, spread evenly: its i-th row stands at place (i + 1/2) / n_s of the period. Row r of the run is
therefore row `r // PERIOD * n_s + rank` of its source, which is found without counting up from 0.
"""

from collections.abc import Sequence

import numpy as np

from rtdlm.config.errors import UserError

PERIOD = 4096


class Mixture:
    """A deterministic interleaving of sources by weight.

    Attributes:
        counts: int64 [sources], rows of each source in a period.
        period: rows of a period; 1 for a single source.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.period = PERIOD if len(weights) > 1 else 1
        self.counts = _apportion(np.asarray(weights, np.float64), self.period)
        sources = np.repeat(np.arange(len(weights)), self.counts)
        rank = np.concatenate([np.arange(count) for count in self.counts])
        order = np.lexsort((sources, (rank + 0.5) / self.counts[sources]))
        self._source, self._rank = sources[order], rank[order]

    def assign(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each row of the run [n], and its number among that source's rows [n]."""
        period, place = np.divmod(rows, self.period)
        source = self._source[place]
        return source, period * self.counts[source] + self._rank[place]


def _apportion(weights: np.ndarray, total: int) -> np.ndarray:
    """Integers in proportion to `weights` that sum to `total`, each at least 1."""
    if len(weights) > total:
        raise UserError(f"{len(weights)} weighted sources are more than {total}; join some")
    share = weights / weights.sum() * total
    counts = np.floor(share).astype(np.int64)
    largest_remainders = np.argsort(counts - share, kind="stable")
    counts[largest_remainders[: total - counts.sum()]] += 1
    for source in np.flatnonzero(counts == 0):
        counts[source] += 1
        counts[counts.argmax()] -= 1
    return counts
