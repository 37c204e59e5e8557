"""The nested sections of a model, each named after the room that reads it; see `sections`."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

from rtdlm.config.effect import Reader, require, require_effect, require_finite

RopeScaling = Literal["none", "linear", "ntk", "yarn", "llama3"]
SparseForm = Literal["native", "topk"]
ExpertLayers = Literal["every", "sandwich"]
ExpertDispatch = Literal["capacity", "dropless"]
ExpertScores = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class AttentionConfig:
    """How queries read, and what single kinds of attention need to know."""

    READERS: ClassVar = (
        Reader("block", "sparse_form", ("native",)),
        Reader("global_tokens", "sparse_form", ("topk",)),
    )

    head_dim: int | None = None
    """Features of one head; None is `d_model` over `num_heads` [features]."""
    scale: float | None = None
    """What a query's product with a key is multiplied by; None is 1 / sqrt(head features)."""
    soft_cap: float | None = None
    """Bound scores to (-cap, cap) by cap * tanh(score / cap) (arXiv 2408.00118); None does
    not."""
    window: int | None = None
    """Tokens that a token reads under `attention_type=sliding`, and in any case under `sparse`,
    itself among them; None is 256 [tokens]."""
    sinks: int | None = None
    """First tokens of a document that all of it reads under `attention_type=sliding` (arXiv
    2309.17453), beside the window; None is 0, usual are 4 [tokens]."""
    global_every: int | None = None
    """Under `attention_type=sliding` and `sparse`, every layer of this number (the 2nd, 4th, ...
    for 2) reads all earlier tokens; None is no layer [layers]."""
    sparse_form: SparseForm = "native"
    """What `attention_type=sparse` reads beyond the window: `native` means of blocks and a few
    whole blocks (arXiv 2502.11089), `topk` the document's first tokens and the single keys of
    highest score, at the cost of scoring all."""
    block: int | None = None
    """Tokens of a block under `sparse_form=native`; None is 64, or `window` if that is less
    [tokens]."""
    chosen: int | None = None
    """What a query chooses to read beyond the window under `attention_type=sparse`; None is 4
    blocks, or 64 keys under `sparse_form=topk` [blocks or keys]."""
    global_tokens: int | None = None
    """First tokens of a document that all of its tokens read under `sparse_form=topk`; None is 4
    [tokens]."""

    def __post_init__(self) -> None:
        require_finite(self, path="attention.")
        self._check_sparse()
        for name in ("head_dim", "scale", "soft_cap"):
            value = getattr(self, name)
            require(value is None or value > 0, f"attention.{name}={value} must be positive")
        for name in ("window", "block", "chosen"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"attention.{name}={value} must be at least 1")
        require(
            self.sinks is None or self.sinks >= 1,
            f"attention.sinks={self.sinks} must be at least 1; to have none remove it",
        )
        require(
            self.global_every is None or self.global_every >= 2,
            f"attention.global_every={self.global_every} must be at least 2; for only global "
            "layers set attention_type='gqa'",
        )

    def _check_sparse(self) -> None:
        require_effect(self, self.READERS, path="attention.")
        require(
            self.global_tokens is None or self.global_tokens >= 0,
            f"attention.global_tokens={self.global_tokens} must be at least 0",
        )
        require(
            self.block is None or self.block <= self.reach,
            f"attention.block={self.block} exceeds attention.window={self.reach}: tokens between "
            "the window and the last whole block would be out of reach; choose a smaller block",
        )

    @property
    def reach(self) -> int:
        """Tokens that a token reads in any case, itself among them."""
        return 256 if self.window is None else self.window

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return min(64, self.reach) if self.block is None else self.block

    @property
    def choices(self) -> int:
        """Blocks, or single keys, that a query chooses."""
        usual = 64 if self.sparse_form == "topk" else 4
        return usual if self.chosen is None else self.chosen

    @property
    def num_global(self) -> int:
        """First tokens of a document that all of its tokens read."""
        return 4 if self.global_tokens is None else self.global_tokens

    @property
    def num_sinks(self) -> int:
        """First tokens of a document that all of it reads."""
        return 0 if self.sinks is None else self.sinks


@dataclass(frozen=True)
class RopeConfig:
    """How rotary frequencies are changed to read rows longer than those trained on."""

    READERS: ClassVar = (
        Reader("factor", "scaling", ("linear", "ntk", "yarn", "llama3")),
        Reader("original_length", "scaling", ("yarn", "llama3")),
        Reader("low_frequency", "scaling", ("llama3",)),
        Reader("high_frequency", "scaling", ("llama3",)),
        Reader("fast_turns", "scaling", ("yarn",)),
        Reader("slow_turns", "scaling", ("yarn",)),
        Reader("attention_factor", "scaling", ("yarn",)),
    )

    scaling: RopeScaling = "none"
    """`linear` divides positions (arXiv 2306.15595); `ntk` raises the base, so that the fastest
    plane stays and the slowest is divided; `yarn` divides slow planes only and sharpens attention
    (arXiv 2309.00071); `llama3` is Llama 3.1's form of that (arXiv 2407.21783)."""
    factor: float | None = None
    """How many times longer rows may become [ratio]."""
    original_length: int | None = None
    """Length that the frequencies were trained on [tokens]."""
    low_frequency: float | None = None
    """`llama3`: planes that turn less often than this over `original_length` are divided; None is
    1 [turns]."""
    high_frequency: float | None = None
    """`llama3`: planes that turn more often than this stay; None is 4 [turns]."""
    fast_turns: float | None = None
    """`yarn`: planes that turn more often than this over `original_length` stay; None is 32
    [turns]."""
    slow_turns: float | None = None
    """`yarn`: planes that turn less often than this are divided; None is 1 [turns]."""
    attention_factor: float | None = None
    """`yarn`: multiplies queries and keys alike; None is 0.1 ln(factor) + 1 [ratio]."""

    def __post_init__(self) -> None:
        require_finite(self, path="rope.")
        require_effect(self, self.READERS, path="rope.")
        for reader in self.READERS:
            name, value = reader.field, getattr(self, reader.field)
            require(value is None or value > 0, f"rope.{name}={value} must be positive")
            needed = name in ("factor", "original_length") and self.scaling in reader.values
            require(
                value is not None or not needed,
                f"rope.scaling={self.scaling!r} needs rope.{name}; set it",
            )
        require(
            self.factor is None or self.factor >= 1,
            f"rope.factor={self.factor} must be at least 1: it says how many times longer rows get",
        )
        for low, high in (("low_frequency", "high_frequency"), ("slow_turns", "fast_turns")):
            less, more = self.value(low), self.value(high)
            require(less < more, f"rope.{low}={less} must be below rope.{high}={more}")

    def value(self, name: str) -> float:
        """A number of turns after its default has had its say."""
        value: float | None = getattr(self, name)
        return _TURNS[name] if value is None else value


_TURNS = {"low_frequency": 1.0, "high_frequency": 4.0, "fast_turns": 32.0, "slow_turns": 1.0}


@dataclass(frozen=True)
class ExpertsConfig:
    """Sparse feed-forward experts in place of the dense feed-forward layer."""

    READERS: ClassVar = (Reader("capacity_factor", "dispatch", ("capacity",)),)

    num_experts: int = 0
    """Experts a layer; 0 is the dense form [experts]."""
    layers: ExpertLayers = "every"
    """Layers that have experts, the others being dense: every n-th, or all but the first and the
    last (`sandwich`)."""
    every: int | None = None
    """The n of `layers=every`: the n-th, the 2n-th and so on have experts; None is 1, which is all
    [layers]."""
    top_k: int | None = None
    """Experts that each token uses; None is 2 [experts]."""
    scores: ExpertScores = "softmax"
    """What makes scores of a router's logits; `sigmoid` scores every expert by itself, and those of
    the chosen are rescaled to sum to one (arXiv 2412.19437)."""
    dispatch: ExpertDispatch = "capacity"
    """How tokens come to their experts: in queues of bounded length, whose rest is dropped, or
    sorted into tiles, of which there are always enough (`dropless`)."""
    capacity_factor: float | None = None
    """Slots an expert has over an even share; tokens beyond are dropped; None is 1.25 [ratio]."""
    shared: int | None = None
    """Experts that every token uses beside those it chooses (arXiv 2401.06066); None is none
    [experts]."""
    balance_weight: float | None = None
    """Weight of the load-balancing loss (arXiv 2101.03961, eq. 4); None is 0.01, or 0 with
    `bias_rate`."""
    bias_rate: float | None = None
    """Balance by a bias on the scores that only choices see, moved by this much a step towards an
    even load (arXiv 2408.15664, where it is 0.001); None has no such bias [score a step]."""
    z_weight: float | None = None
    """Weight of the router z-loss (arXiv 2202.08906, eq. 5); None is 0.001."""
    temperature: float | None = None
    """What a router's logits are divided by; None is 1 [ratio]."""
    jitter: float | None = None
    """In training what a router reads is multiplied by random factors in 1 -+ this (arXiv
    2101.03961, appendix C, where it is 0.01); None does not [fraction]."""
    dropout: float | None = None
    """Share of an expert's hidden features that training drops (arXiv 2101.03961, section 2.4);
    None drops none [fraction]."""

    def __post_init__(self) -> None:
        require_finite(self, path="experts.")
        require(
            self.num_experts == 0 or self.num_experts >= 2,
            f"experts.num_experts={self.num_experts} must be 0 (dense) or at least 2",
        )
        numbers = (
            *("top_k", "capacity_factor", "balance_weight", "z_weight", "every", "shared"),
            *("bias_rate", "temperature", "jitter", "dropout"),
        )
        given = {name: getattr(self, name) for name in numbers}
        for name, usual in (("layers", "every"), ("scores", "softmax"), ("dispatch", "capacity")):
            given[name] = None if getattr(self, name) == usual else getattr(self, name)
        for name, value in given.items():
            require(
                value is None or self.num_experts > 0,
                f"experts.{name}={value} has no effect with experts.num_experts=0; "
                "set experts.num_experts or remove it",
            )
        for name in numbers:
            value = getattr(self, name)
            require(value is None or value > 0, f"experts.{name}={value} must be positive")
        for name in ("jitter", "dropout"):
            value = getattr(self, name)
            require(value is None or value < 1, f"experts.{name}={value} must be below 1")
        require_effect(self, self.READERS, path="experts.")
        require(
            self.every is None or self.layers != "sandwich",
            f"experts.every={self.every} has no effect with experts.layers='sandwich'; remove one",
        )
        require(
            self.num_experts == 0 or self.choices <= self.num_experts,
            f"experts.top_k={self.choices} exceeds experts.num_experts={self.num_experts}",
        )

    @property
    def stride(self) -> int:
        """The n of every n-th layer."""
        return 1 if self.every is None else self.every

    @property
    def choices(self) -> int:
        """Experts that each token uses."""
        return 2 if self.top_k is None else self.top_k

    @property
    def balance(self) -> float:
        """Weight of the load-balancing loss after `bias_rate` has had its say."""
        if self.balance_weight is not None:
            return self.balance_weight
        return 0.01 if self.bias_rate is None else 0.0

    @property
    def random(self) -> bool:
        """Whether training draws random numbers."""
        return self.jitter is not None or self.dropout is not None

    def capacity(self, length: int) -> int:
        """Places an expert has for a row of `length` tokens; `length` is always enough."""
        factor = 1.25 if self.capacity_factor is None else self.capacity_factor
        return min(length, ceil(factor * self.choices * length / self.num_experts))


@dataclass(frozen=True)
class DepthsConfig:
    """Layers that work on a share of each row's tokens (arXiv 2404.02258)."""

    capacity: float | None = None
    """Share of a row's tokens that such a layer works on in training; None has no such layers
    [fraction]."""
    every: int | None = None
    """Every layer of this number (the 2nd, 4th, ... for 2) is one; None is 2 [layers]."""
    predictor_weight: float | None = None
    """Weight of the loss of the predictor that chooses tokens outside of training; it moves nothing
    else; None is 0.1."""

    def __post_init__(self) -> None:
        require_finite(self, path="depths.")
        require(
            self.capacity is None or 0 < self.capacity < 1,
            f"depths.capacity={self.capacity} is outside (0, 1); usual is 0.125",
        )
        for name in ("every", "predictor_weight"):
            value = getattr(self, name)
            require(
                value is None or self.capacity is not None,
                f"depths.{name}={value} has no effect without depths.capacity; set it, usually "
                "to 0.125",
            )
            require(value is None or value > 0, f"depths.{name}={value} must be positive")

    @property
    def stride(self) -> int:
        """The n of every n-th layer."""
        return 2 if self.every is None else self.every

    def tokens(self, length: int) -> int:
        """Tokens that are chosen of a row of `length` in training, at least one."""
        assert self.capacity is not None
        return min(length, ceil(self.capacity * length))


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
