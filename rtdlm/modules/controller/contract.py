"""What a module tells a controller that may call it or leave it out."""

from collections.abc import Callable
from typing import Literal, NamedTuple

Unit = Literal["token", "row", "batch"]


class Contract(NamedTuple):
    """One callable module."""

    name: str
    needs: tuple[str, ...]
    """What must be there for it to run."""
    offers: str
    """What it adds where it runs."""
    skipped: str
    """What stands in its place where it does not."""
    unit: Unit
    """The smallest part of a batch that may skip it on its own."""
    cost: Callable[..., float]
    """Floating-point operations a token; its arguments are the registry's."""
