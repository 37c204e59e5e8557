"""What a model knows by heart beside its products: the section `knowledge`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from rtdlm.config.effect import Reader, require, require_effect

KnowledgeKind = Literal["none", "product_key", "ngram"]
_ANY = ("product_key", "ngram")
_LARGEST_ROW = 2**31 - 1


@dataclass(frozen=True)
class KnowledgeConfig:
    """Large trained tables beside the feed-forward layer, of which a token reads a few rows."""

    READERS: ClassVar = (
        Reader("every", "kind", _ANY),
        Reader("rows", "kind", _ANY),
        Reader("heads", "kind", _ANY),
        Reader("dim", "kind", _ANY),
        Reader("top_k", "kind", ("product_key",)),
        Reader("key_dim", "kind", ("product_key",)),
        Reader("orders", "kind", ("ngram",)),
    )

    kind: KnowledgeKind = "none"
    """What chooses a token's rows: a search among products of keys (`product_key`, arXiv
    2412.09764) or a hash of its last tokens (`ngram`, arXiv 2601.07372)."""
    every: int | None = None
    """Every layer of this number (the 2nd, 4th, ... for 2) has such a memory; None is 2
    [layers]."""
    rows: int | None = None
    """Keys of each half, whose pairs are the values, or rows of each table of n-grams; None is 128,
    which makes 16384 values, or 32768 [rows]."""
    heads: int | None = None
    """Searches a token makes, or tables of each order, each with a hash of its own; None is 4
    [heads]."""
    dim: int | None = None
    """Width of a value, None is `d_model`, or of a row of n-grams, None is 32 [features]."""
    top_k: int | None = None
    """Values that each search finds; None is 32, or `rows` if they are fewer [values]."""
    key_dim: int | None = None
    """Width of a query, half of it for each half; None is 64 [features]."""
    orders: tuple[int, ...] | None = None
    """Lengths of the token sequences that are looked up; None is `[2, 3]` [tokens]."""

    def __post_init__(self) -> None:
        require_effect(self, self.READERS, path="knowledge.")
        for name in ("every", "rows", "heads", "dim", "top_k", "key_dim"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"knowledge.{name}={value} must be at least 1")
        if self.kind == "product_key":
            self._check_product_key()
        if self.kind == "ngram":
            self._check_ngram()

    def _check_product_key(self) -> None:
        require(
            2 <= self.choices <= self.table_rows,
            f"knowledge.top_k={self.choices} is outside 2 to knowledge.rows={self.table_rows}: the "
            "share of a single value is one whatever its score, which would teach no query",
        )
        require(
            self.query_dim % 2 == 0,
            f"knowledge.key_dim={self.query_dim} is odd; a query has two halves, so use an even "
            "number",
        )
        self._check_rows(self.num_values)

    def _check_ngram(self) -> None:
        orders = self.lengths
        require(
            0 < len(orders) == len(set(orders)) and min(orders) >= 2,
            f"knowledge.orders={orders} must be different numbers of at least 2, and at least one; "
            "one token is what the embedding looks up",
        )
        self._check_rows(self.num_tables * self.table_rows)

    def _check_rows(self, total: int) -> None:
        require(
            total <= _LARGEST_ROW,
            f"knowledge.rows={self.table_rows} makes {total} rows a layer, beyond {_LARGEST_ROW}, "
            "the largest number of 32 bits; use fewer",
        )

    @property
    def stride(self) -> int:
        """The n of every n-th layer."""
        return 2 if self.every is None else self.every

    @property
    def table_rows(self) -> int:
        """Keys of one half, or rows of one table."""
        if self.rows is not None:
            return self.rows
        return 128 if self.kind == "product_key" else 32768

    @property
    def num_heads(self) -> int:
        """Searches a token makes, or tables of each order."""
        return 4 if self.heads is None else self.heads

    @property
    def num_values(self) -> int:
        """Pairs of keys, each with a value."""
        return self.table_rows**2

    @property
    def choices(self) -> int:
        """Values that each search finds."""
        return min(32, self.table_rows) if self.top_k is None else self.top_k

    @property
    def query_dim(self) -> int:
        """Features of one head's query, both halves."""
        return 64 if self.key_dim is None else self.key_dim

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the token sequences that are looked up; none unless `kind` is `ngram`."""
        if self.kind != "ngram":
            return ()
        return (2, 3) if self.orders is None else self.orders

    @property
    def num_tables(self) -> int:
        """Tables of n-grams in a layer."""
        return len(self.lengths) * self.num_heads

    def width(self, d_model: int) -> int:
        """Features of a row that is read."""
        if self.dim is not None:
            return self.dim
        return d_model if self.kind == "product_key" else 32
