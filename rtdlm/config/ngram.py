"""What is looked up beside tokens: the section `ngram`."""

from dataclasses import dataclass

from rtdlm.config.effect import require


@dataclass(frozen=True)
class NgramConfig:
    """Hashed tables over the last tokens of a document (arXiv 2601.07372)."""

    orders: tuple[int, ...] = ()
    """Lengths of the token sequences that are looked up, such as `[2, 3]`; empty is none
    [tokens]."""
    buckets: int | None = None
    """Rows of each order's table; sequences that hash alike share a row, and none do where all
    possible sequences fit; None is 32768 [rows]."""
    dim: int | None = None
    """Width of a row, projected to `d_model`; None is `d_model` without a projection
    [features]."""

    def __post_init__(self) -> None:
        for name in ("buckets", "dim"):
            value = getattr(self, name)
            require(
                bool(self.orders) or value is None,
                f"ngram.{name}={value} has no effect with ngram.orders=(); set ngram.orders, for "
                "instance to [2, 3], or remove it",
            )
        require(
            all(order >= 2 for order in self.orders) and len(set(self.orders)) == len(self.orders),
            f"ngram.orders={self.orders} must be different numbers of at least 2; one token is "
            "what the embedding looks up",
        )
        for name in ("buckets", "dim"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"ngram.{name}={value} must be at least 1")

    @property
    def rows(self) -> int:
        """Rows of one order's table."""
        return 32768 if self.buckets is None else self.buckets
