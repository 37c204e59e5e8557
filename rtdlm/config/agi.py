"""`AGIConfig`: everything that describes one run, and nothing else does.

    AGIConfig.from_preset("tiny", num_layers=6)
    AGIConfig.from_preset("small", optimizer={"name": "adamw"})

Everyday names are flat; the rest lives in a section named after the room that reads it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from rtdlm.config.attention import AttentionConfig, RopeConfig
from rtdlm.config.checks import SCORED, check_together
from rtdlm.config.controller import ControllerConfig, Strategy
from rtdlm.config.effect import Reader, require_effect, require_finite
from rtdlm.config.graph import GraphConfig
from rtdlm.config.hosts import HostsConfig
from rtdlm.config.knowledge import KnowledgeConfig
from rtdlm.config.memory import MemoryConfig
from rtdlm.config.mesh import MeshConfig, MeshStrategy, mesh_strategy
from rtdlm.config.ngram import NgramConfig
from rtdlm.config.quantum import QuantumConfig
from rtdlm.config.sections import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    MonitoringConfig,
    OptimizerConfig,
    PrecisionConfig,
)
from rtdlm.config.sparse import DepthsConfig, ExpertsConfig
from rtdlm.config.warmup import WarmupConfig

AttentionType = Literal[
    "mha", "gqa", "mqa", "ring", "sliding", "sparse", "linear", "delta", "spiking"
]  # fmt: skip
PositionEncoding = Literal["rope", "learned", "alibi", "none"]
FeedForward = Literal["swiglu", "geglu", "relu2", "gelu", "gelu_tanh"]
Norm = Literal["rms", "rms_centred", "layer"]
Biases = Literal["none", "qkv", "all"]
ConvPlace = Literal["input", "attention", "queries", "keys", "values", "feedforward"]
RematPolicy = Literal["none", "full", "dots", "named"]


@dataclass(frozen=True)
class AGIConfig:
    """One run of RT-DLM: its model, data, optimizer, devices and budget."""

    READERS: ClassVar = (
        Reader(
            "num_kv_heads",
            "attention_type",
            ("gqa", "ring", "sliding", "sparse", "linear", "spiking"),
        ),
        Reader("attention.scale", "attention_type", SCORED),
        Reader("attention.soft_cap", "attention_type", SCORED),
        Reader("attention.window", "attention_type", ("sliding", "sparse")),
        Reader("attention.sinks", "attention_type", ("sliding",)),
        Reader("attention.global_every", "attention_type", ("sliding", "sparse")),
        Reader("attention.block", "attention_type", ("sparse",)),
        Reader("attention.chosen", "attention_type", ("sparse",)),
        Reader("attention.global_tokens", "attention_type", ("sparse",)),
        Reader("rope_base", "position_encoding", ("rope",)),
    )

    vocab_size: int = 8192
    """Rows of the embedding table; at least the tokenizer's size [tokens]."""
    max_seq_len: int = 256
    """Tokens in a training row [tokens]."""
    d_model: int = 256
    """Width of the residual stream [features]."""
    num_layers: int = 4
    """Decoder blocks [layers]."""
    num_heads: int = 4
    """Query heads; `d_model` splits evenly over them unless `attention.head_dim` is set
    [heads]."""
    num_kv_heads: int | None = None
    """Key and value heads, except under `mha`, `mqa` and `delta`, which have their own number; None
    is half of `num_heads` [heads]."""
    d_ff: int = 1536
    """Hidden width of the feed-forward layer, or of one expert [features]."""
    feedforward: FeedForward = "swiglu"
    """`swiglu` and `geglu` gate one of two products (arXiv 2002.05202), `relu2` squares a ReLU
    (arXiv 2109.08668), `gelu` is exact and `gelu_tanh` GPT-2's approximation of it (arXiv
    1606.08415); experts are `swiglu`."""
    norm: Norm = "rms"
    """Norm before each layer and after the last: `rms` (arXiv 1910.07467), `rms_centred`, whose
    parameter is its scale less one (arXiv 2403.08295), or `layer`, which also subtracts the mean
    (arXiv 1607.06450)."""
    norm_epsilon: float | None = None
    """Added to the mean square before its root; None is 1e-6, for `norm=layer` 1e-5."""
    norm_outputs: bool = False
    """Normalise what attention and feed-forward write, too (arXiv 2408.00118)."""
    biases: Biases = "none"
    """Vectors added by projections: none, those of queries, keys and values, or all in attention,
    the feed-forward layer and `norm=layer`."""
    attention_type: AttentionType = "gqa"
    """`mha` has a key-value head a query head, `gqa` shares them in groups, `mqa` has one;
    `ring` is `gqa` with the tokens of a row split over `mesh.context` devices (arXiv 2310.01889);
    `sliding` is `gqa` that reads the last `attention.window` tokens, linear in `max_seq_len`;
    `sparse` reads beyond that window what each token chooses, see `attention.sparse_form`;
    `linear` (arXiv 2006.16236) and `delta` (the gated delta rule, arXiv 2412.06464) keep a state
    that does not grow in place of keys and values; `spiking` reads the tokens at which a learned
    threshold is passed, and computes no others."""
    position_encoding: PositionEncoding = "rope"
    """`rope` rotates queries and keys by position; `learned` adds a vector a position, and has
    none beyond `max_seq_len`; `alibi` lowers the score of a key by its distance, each head at its
    own rate (arXiv 2108.12409); `none` leaves order to the causal mask."""
    rope_base: float | None = None
    """Longest wavelength of `rope`, over 2 pi; None is 10000 [tokens]."""
    qk_norm: bool = True
    """Normalise queries and keys a head (arXiv 2302.05442)."""
    tie_embeddings: bool = False
    """Use the embedding table as the output projection."""
    embedding_std: float | None = None
    """Initial standard deviation of the embedding table (a tied one is the output projection
    too) and of learned positions; None is 1 / sqrt(d_model)."""
    embedding_scale: float | None = None
    """Multiplies embeddings where they are looked up, in Gemma by sqrt(d_model); None does not."""
    embedding_norm: bool = False
    """Normalise what enters the first layer."""
    zero_init_outputs: bool = False
    """Start every layer's output projection at zero, so that a fresh block passes its input on."""
    value_residual: bool = False
    """Mix the first layer's values into those of every layer, with learned weights a layer that
    start at one half each (arXiv 2410.17897)."""
    value_embeddings: bool = False
    """Add to every layer's values a vector of the token's own, from one table for all layers,
    with learned weights a layer that start at one."""
    residual_gates: bool = False
    """Start every block with g x + h x0, x0 being what entered the first; g and h are learned a
    layer and start at 1 and 0."""
    short_conv: int = 0
    """Width of the short causal convolutions over the tokens of a document, x + conv(x), one
    kernel a feature, zero at the start (arXiv 2212.14052); 0 is none [tokens]."""
    short_conv_places: tuple[ConvPlace, ...] | None = None
    """Where they stand: on the embedding (`input`), on the normalised input of `attention` and
    `feedforward`, on `queries`, `keys` and `values`; None is `attention` and `feedforward`."""
    quantum_layers: int = 0
    """Last layers that have a simulated quantum circuit behind attention, see `quantum`; 0 has none
    of it in the program [layers]."""
    use_compute_controller: bool = False
    """Run the last layers as a core with shared weights, as many times as a learned policy gives
    each token, see `controller`."""
    controller_strategy: Strategy | None = None
    """How much compute inference may take: `fast`, `balanced` or `thorough`, which always takes
    all of it; None is `balanced`."""
    logit_soft_cap: float | None = None
    """Bound logits to (-cap, cap) by cap * tanh(logits / cap); None does not."""
    dropout_rate: float = 0.0
    """Share of block outputs set to zero in training [fraction]."""
    remat: RematPolicy = "none"
    """What the backward pass recomputes: nothing, all of a block, all but its matrix products
    (`dots`), or all but its named outputs (`named`)."""
    layer_unroll: int | None = None
    """Layers compiled in a row inside the loop over layers; None unrolls stacks of up to 6, which
    runs faster and compiles slower [layers]."""

    distributed_training: bool = False
    """Split batches over all devices: short for `mesh.strategy=data`."""
    tensor_parallel: bool = False
    """Split every layer over all devices: short for `mesh.strategy=tensor`, and together with
    `distributed_training` for `combined`."""
    seed: int = 0
    """Seed of initialisation, data order and dropout."""
    batch_size: int = 8
    """Rows in one optimizer step, over all devices [rows]."""
    accumulate_steps: int = 1
    """Micro-batches a step's batch is split into [micro-batches]."""
    num_steps: int | None = None
    """Budget in optimizer steps [steps]."""
    num_epochs: float | None = None
    """Budget in passes over the training tokens [epochs]."""
    num_tokens: int | None = None
    """Budget in training tokens [tokens]."""
    max_seconds: float | None = None
    """Budget in wall time; the learning rate then follows the clock [seconds]."""

    data: DataConfig = field(default_factory=DataConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    rope: RopeConfig = field(default_factory=RopeConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    depths: DepthsConfig = field(default_factory=DepthsConfig)
    ngram: NgramConfig = field(default_factory=NgramConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    knowledge: KnowledgeConfig = field(default_factory=KnowledgeConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    quantum: QuantumConfig = field(default_factory=QuantumConfig)
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)

    def __post_init__(self) -> None:
        require_finite(self, path="")
        require_effect(self, self.READERS, path="")
        check_together(self)

    @property
    def conv_places(self) -> tuple[str, ...]:
        """Where short convolutions stand, after `short_conv_places` has had its say."""
        if not self.short_conv:
            return ()
        places = self.short_conv_places
        return ("attention", "feedforward") if places is None else places

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        own = self.attention.head_dim
        return self.d_model // self.num_heads if own is None else own

    @property
    def kv_heads(self) -> int:
        """Key and value heads after `attention_type` has had its say."""
        if self.attention_type in ("mha", "delta"):
            return self.num_heads
        if self.attention_type == "mqa":
            return 1
        return self.num_kv_heads if self.num_kv_heads is not None else max(1, self.num_heads // 2)

    @property
    def memory_heads(self) -> int:
        """Heads of memory after `memory.heads` has had its say."""
        return self.num_heads if self.memory.heads is None else self.memory.heads

    @property
    def ngram_reach(self) -> int:
        """Earlier tokens that n-grams read, at the input and in layers; 0 without any."""
        return max((*self.ngram.orders, *self.knowledge.lengths), default=1) - 1

    @property
    def reach(self) -> int:
        """Earlier tokens that convolutions and n-grams read; 0 without any."""
        return max(self.short_conv - 1, self.ngram_reach)

    @property
    def core_layers(self) -> int:
        """Last layers that the controller's core is made of."""
        return self.controller.layers if self.use_compute_controller else 0

    @property
    def stacked_layers(self) -> int:
        """Layers before that core."""
        return self.num_layers - self.core_layers

    @property
    def called(self) -> tuple[str, ...]:
        """Modules that tokens call in that core."""
        return self.controller.called if self.use_compute_controller else ()

    @property
    def strategy(self) -> str:
        """How much compute inference may take."""
        return "balanced" if self.controller_strategy is None else self.controller_strategy

    @property
    def least_rows(self) -> int:
        """Rows of the smallest micro-batch, at the start of a warm-up if there is one."""
        first = self.warmup.batch_size
        return (self.batch_size if first is None else first) // self.accumulate_steps

    @property
    def mesh_strategy(self) -> MeshStrategy | None:
        """What is split over devices, after the two switches have had their say."""
        return mesh_strategy(self)

    @property
    def unroll(self) -> int:
        """Layers compiled in a row, after `layer_unroll` has had its say."""
        if self.layer_unroll is not None:
            return self.layer_unroll
        return self.num_layers if self.num_layers <= 6 else 1

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "AGIConfig":
        """The preset `name` with `overrides` on top; a section takes a mapping of its fields."""
        from rtdlm.config.build import build_config

        return build_config(preset=name, overrides=overrides)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "AGIConfig":
        """A config from a nested mapping as `to_dict` gives it; missing keys take defaults."""
        from rtdlm.config.build import build_config

        return build_config(preset=None, overrides=tree)

    def replace(self, **overrides: Any) -> "AGIConfig":
        """This config with `overrides` on top; a section takes a mapping of its changed fields."""
        from rtdlm.config.build import build_config

        return build_config(base=self, overrides=overrides)

    def to_dict(self) -> dict[str, Any]:
        """All fields as a nested dictionary of plain values."""
        return asdict(self)
