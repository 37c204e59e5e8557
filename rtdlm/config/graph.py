"""What tokens make of one another as a graph: the section `graph`."""

from dataclasses import dataclass, fields
from typing import Literal

from rtdlm.config.effect import require, require_finite

Selection = Literal["straight_through", "top_k", "dense"]
Messages = Literal["sum", "attention"]


@dataclass(frozen=True)
class GraphConfig:
    """A learned sparse graph over earlier tokens and several hops over it, behind attention."""

    hops: int = 0
    """Rounds of messages, all with the same weights, so that a trained model may be run with more;
    0 has no graph [hops]."""
    every: int | None = None
    """Every layer of this number (the 2nd, 4th, ... for 2) has a graph; None is 2 [layers]."""
    neighbours: int | None = None
    """Tokens that a token reads over edges of one type, more where the last of them score alike;
    None is 8 [tokens]."""
    kinds: int | None = None
    """Edge types, each with a likeness of its own; None is 2 [types]."""
    selection: Selection | None = None
    """How neighbours are chosen: the best, with a gradient for all (`straight_through`, arXiv
    1308.3432), the best alone (`top_k`), or all that there are (`dense`), whatever `neighbours`;
    None is `straight_through`."""
    dim: int | None = None
    """Features of a token in the graph; None is half of `d_model` [features]."""
    key_dim: int | None = None
    """Features by which tokens are compared; None is 32 [features]."""
    messages: Messages | None = None
    """What a hop is: the sum over neighbours through a copy gate (`sum`, arXiv 2110.07732), or a
    transformer block whose attention goes along edges (`attention`, arXiv 2105.14491); None is
    `sum`."""
    heads: int | None = None
    """Heads of that attention, a divisor of `dim`; None is 4, or the most below it that divide
    [heads]."""
    halting: bool | None = None
    """Each token stops when it has come far enough (arXiv 2107.05407); None is True."""
    hop_price: float | None = None
    """Weight of the expected number of hops in the loss, a knob; None is 0 [nats a hop]."""
    route_experts: bool | None = None
    """Where a layer has experts too, the mean of the router's logits of the tokens that a token
    reads is added to its own; None is False."""

    def __post_init__(self) -> None:
        require_finite(self, path="graph.")
        require(self.hops >= 0, f"graph.hops={self.hops} must be 0 (no graph) or more")
        for item in fields(self):
            value = getattr(self, item.name)
            require(
                item.name == "hops" or value is None or self.hops > 0,
                f"graph.{item.name}={value!r} has no effect with graph.hops=0; set graph.hops, for "
                "instance to 2, or remove it",
            )
        for name in ("every", "neighbours", "kinds", "dim", "key_dim", "heads"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"graph.{name}={value} must be at least 1")
        require(
            self.heads is None or self.hears == "attention",
            f"graph.heads={self.heads} has no effect with graph.messages='{self.hears}', which has "
            "no heads; remove it or set graph.messages to 'attention'",
        )
        require(
            self.hop_price is None or self.hop_price >= 0,
            f"graph.hop_price={self.hop_price} must not be negative",
        )
        require(
            self.hop_price is None or self.halts,
            f"graph.hop_price={self.hop_price} has no effect with graph.halting=False: all hops "
            "are taken; remove one",
        )
        require(
            self.neighbours is None or self.chosen_by != "dense",
            f"graph.neighbours={self.neighbours} has no effect with graph.selection='dense', which "
            "reads all; remove one",
        )
        require(
            self.neighbours != 1 or self.chosen_by != "top_k",
            "graph.neighbours=1 with graph.selection='top_k' would teach no edge: the share of a "
            "single neighbour is one whatever its score; use 'straight_through' or more neighbours",
        )

    @property
    def stride(self) -> int:
        """The n of every n-th layer."""
        return 2 if self.every is None else self.every

    @property
    def num_neighbours(self) -> int:
        """Tokens that a token reads over edges of one type, at most."""
        return 8 if self.neighbours is None else self.neighbours

    @property
    def num_kinds(self) -> int:
        """Edge types."""
        return 2 if self.kinds is None else self.kinds

    @property
    def chosen_by(self) -> str:
        """How neighbours are chosen."""
        return "straight_through" if self.selection is None else self.selection

    @property
    def hears(self) -> Messages:
        """What a hop is."""
        return "sum" if self.messages is None else self.messages

    def num_heads(self, width: int) -> int:
        """Of attention along edges, where a token has `width` features in the graph."""
        usual = next(heads for heads in (4, 3, 2, 1) if width % heads == 0)
        return usual if self.heads is None else self.heads

    def head_dim(self, width: int) -> int:
        """Features of each of them."""
        return width // self.num_heads(width)

    @property
    def query_dim(self) -> int:
        """Features by which tokens are compared."""
        return 32 if self.key_dim is None else self.key_dim

    @property
    def halts(self) -> bool:
        """Whether tokens stop on their own."""
        return self.halting is None or self.halting

    @property
    def routes(self) -> bool:
        """Whether experts are chosen with neighbours."""
        return bool(self.route_experts)

    def width(self, d_model: int) -> int:
        """Features of a token in the graph."""
        return max(1, d_model // 2) if self.dim is None else self.dim
