"""How tokens read each other: the sections `attention` and `rope`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from rtdlm.config.effect import Reader, require, require_effect, require_finite

RopeScaling = Literal["none", "linear", "ntk", "yarn", "llama3"]
SparseForm = Literal["native", "topk"]


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
