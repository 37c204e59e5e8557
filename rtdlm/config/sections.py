"""The nested sections of a run's configuration, each named after the room that reads it.

A field's unit stands in square brackets in its docstring; None means "not set: the choice that
governs it decides". Sections validate themselves, so a bad value fails before anything starts.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import ClassVar, Literal

from rtdlm.config.effect import Reader, require, require_effect, require_finite

OptimizerName = Literal["adamw", "muon", "adafactor", "lion", "schedule_free", "sgd"]
ScheduleName = Literal["cosine", "wsd", "linear", "inverse_sqrt", "constant"]
DTypeName = Literal["float32", "bfloat16", "float16"]
RopeScaling = Literal["none", "linear", "ntk", "yarn", "llama3"]
ExpertLayers = Literal["every", "sandwich"]
ComputeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class DataConfig:
    """Where tokens come from and how they become batches."""

    text: tuple[str, ...] = ()
    """Files, directories or globs of text to prepare and train on; `python-library` names the
    Python installation's own library sources and documentation."""
    shards: tuple[str, ...] = ()
    """Directories of prepared shards; with several, each batch mixes them by `weights`."""
    weights: tuple[float, ...] = ()
    """Sampling weight of each directory in `shards` [any positive unit]; empty: by token count."""
    tokenizer: str = "bpe"
    """`byte`, `bpe` (trained on the corpus to `vocab_size`) or the path of a tokenizer.json."""
    held_out_fraction: float = 0.05
    """Share of documents kept for evaluation, chosen by document hash [fraction]."""
    prefetch: int = 2
    """Batches prepared and placed on the devices ahead of the step [batches]."""

    def __post_init__(self) -> None:
        require_finite(self, path="data.")
        require(
            0.0 < self.held_out_fraction < 1.0,
            f"data.held_out_fraction={self.held_out_fraction} is outside (0, 1); "
            "choose for instance 0.05",
        )
        require(self.prefetch >= 1, f"data.prefetch={self.prefetch} must be at least 1")
        require(
            not self.weights or len(self.weights) == len(self.shards),
            f"data.weights has {len(self.weights)} entries for {len(self.shards)} directories in "
            "data.shards; give one weight a directory or none",
        )
        require(
            all(weight > 0 for weight in self.weights),
            f"data.weights={self.weights} must all be positive; leave out a source instead",
        )


@dataclass(frozen=True)
class AttentionConfig:
    """How queries read, and what single kinds of attention need to know."""

    head_dim: int | None = None
    """Features of one head; None is `d_model` over `num_heads` [features]."""
    scale: float | None = None
    """What a query's product with a key is multiplied by; None is 1 / sqrt(head features)."""
    soft_cap: float | None = None
    """Bound scores to (-cap, cap) by cap * tanh(score / cap) (arXiv 2408.00118); None does
    not."""
    window: int | None = None
    """Tokens that a token reads under `attention_type=sliding`, itself among them; None is 256
    [tokens]."""
    global_every: int | None = None
    """Under `attention_type=sliding`, every layer of this number (the 2nd, 4th, ... for 2) reads
    all earlier tokens; None is no layer [layers]."""

    def __post_init__(self) -> None:
        require_finite(self, path="attention.")
        for name in ("head_dim", "scale", "soft_cap"):
            value = getattr(self, name)
            require(value is None or value > 0, f"attention.{name}={value} must be positive")
        require(
            self.window is None or self.window >= 1,
            f"attention.window={self.window} must be at least 1",
        )
        require(
            self.global_every is None or self.global_every >= 2,
            f"attention.global_every={self.global_every} must be at least 2; for only global "
            "layers set attention_type='gqa'",
        )

    @property
    def reach(self) -> int:
        """Tokens that a token reads, itself among them."""
        return 256 if self.window is None else self.window


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
    capacity_factor: float | None = None
    """Slots an expert has over an even share; tokens beyond are dropped; None is 1.25 [ratio]."""
    balance_weight: float | None = None
    """Weight of the load-balancing loss (arXiv 2101.03961, eq. 4); None is 0.01."""
    z_weight: float | None = None
    """Weight of the router z-loss (arXiv 2202.08906, eq. 5); None is 0.001."""

    def __post_init__(self) -> None:
        require_finite(self, path="experts.")
        require(
            self.num_experts == 0 or self.num_experts >= 2,
            f"experts.num_experts={self.num_experts} must be 0 (dense) or at least 2",
        )
        numbers = ("top_k", "capacity_factor", "balance_weight", "z_weight", "every")
        given = {name: getattr(self, name) for name in numbers}
        given["layers"] = None if self.layers == "every" else self.layers
        for name, value in given.items():
            require(
                value is None or self.num_experts > 0,
                f"experts.{name}={value} has no effect with experts.num_experts=0; "
                "set experts.num_experts or remove it",
            )
        for name in numbers:
            value = getattr(self, name)
            require(value is None or value > 0, f"experts.{name}={value} must be positive")
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


@dataclass(frozen=True)
class LossConfig:
    """What is minimised: weighted cross-entropy and its regularisers."""

    z_loss: float = 0.0
    """Weight of the mean squared log-partition (arXiv 2204.02311, section 5); a knob."""
    label_smoothing: float = 0.0
    """Probability mass spread evenly over the vocabulary [fraction]; a knob."""
    chunk_size: int = 32
    """Positions a row whose logits exist at one time [tokens]."""

    def __post_init__(self) -> None:
        require_finite(self, path="loss.")
        require(self.z_loss >= 0, f"loss.z_loss={self.z_loss} must not be negative")
        require(
            0 <= self.label_smoothing < 1,
            f"loss.label_smoothing={self.label_smoothing} is outside [0, 1)",
        )
        require(self.chunk_size >= 1, f"loss.chunk_size={self.chunk_size} must be at least 1")


_ADAMS = ("adamw", "muon", "schedule_free")


@dataclass(frozen=True)
class OptimizerConfig:
    """How parameters move."""

    READERS: ClassVar = (
        Reader("adam_learning_rate", "name", ("muon",)),
        Reader("newton_schulz_steps", "name", ("muon",)),
        Reader("momentum", "name", ("muon", "sgd")),
        Reader("beta1", "name", (*_ADAMS, "lion")),
        Reader("beta2", "name", (*_ADAMS, "lion")),
        Reader("epsilon", "name", _ADAMS),
        Reader("decay_fraction", "schedule", ("wsd",)),
        Reader("final_learning_rate", "schedule", ("cosine", "wsd", "linear")),
    )

    name: OptimizerName = "muon"
    """`muon` updates matrices by path rule and leaves the rest to Adam."""
    learning_rate: float | None = None
    """Peak learning rate; None is 0.02 for `muon`, 0.1 for `sgd`, 0.0003 for `lion` and 0.002 for
    the others [1 a step]."""
    adam_learning_rate: float | None = None
    """Peak learning rate of what `muon` leaves to Adam; None is half of `learning_rate`
    [1 a step]."""
    schedule: ScheduleName = "wsd"
    """Shape of the learning rate over the run; `wsd` is warm-up, stable, decay."""
    warmup_steps: int = 50
    """Linear warm-up [steps]."""
    decay_fraction: float | None = None
    """Share of the run that `wsd` spends decaying; None is 0.4 [fraction]."""
    final_learning_rate: float | None = None
    """Where the schedule ends, as a share of the peak; None is 0 (`cosine`: 0.1) [fraction]."""
    beta1: float | None = None
    """Decay of the first moment; None is 0.9 (with `muon`, of its Adam group)."""
    beta2: float | None = None
    """Decay of the second moment; None is 0.95 (`lion`: 0.99)."""
    momentum: float | None = None
    """Momentum of `muon` matrices and of `sgd`; None is 0.95 (`sgd`: 0.9)."""
    epsilon: float | None = None
    """Added to the root of the second moment; None is 1e-8."""
    newton_schulz_steps: int | None = None
    """Newton-Schulz iterations of `muon`; None is 5."""
    weight_decay: float = 0.1
    """Decoupled weight decay, multiplied by the learning rate; a knob."""
    clip_norm: float = 1.0
    """Largest global gradient norm; a knob; `inf` never clips."""
    weight_decay_rules: dict[str, float] = field(default_factory=dict)
    """Path pattern (regular expression) -> weight-decay multiplier; the first match wins."""
    learning_rate_rules: dict[str, float] = field(default_factory=dict)
    """Path pattern (regular expression) -> learning-rate multiplier; the first match wins."""

    def __post_init__(self) -> None:
        require_finite(self, path="optimizer.", unbounded=("clip_norm",))
        require_effect(self, self.READERS, path="optimizer.")
        self._check_ranges()

    def _check_ranges(self) -> None:
        for name in ("learning_rate", "adam_learning_rate", "epsilon", "newton_schulz_steps"):
            value = getattr(self, name)
            require(value is None or value > 0, f"optimizer.{name}={value} must be positive")
        require(
            self.clip_norm > 0,  # NaN is not
            f"optimizer.clip_norm={self.clip_norm} must be positive; use inf to never clip",
        )
        require(
            self.weight_decay >= 0,
            f"optimizer.weight_decay={self.weight_decay} must not be negative",
        )
        require(
            self.warmup_steps >= 0,
            f"optimizer.warmup_steps={self.warmup_steps} must not be negative",
        )
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, f"optimizer.{name}={value} is outside [0, 1)")
        for name in ("decay_fraction", "final_learning_rate"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, f"optimizer.{name}={value} is outside [0, 1]")

    @property
    def peak(self) -> float:
        """Peak learning rate; with `muon`, that of its matrices."""
        if self.learning_rate is not None:
            return self.learning_rate
        return {"muon": 0.02, "sgd": 0.1, "lion": 3e-4}.get(self.name, 2e-3)

    @property
    def adam_peak(self) -> float:
        """Peak learning rate of what `muon` leaves to Adam."""
        return self.peak / 2 if self.adam_learning_rate is None else self.adam_learning_rate


@dataclass(frozen=True)
class PrecisionConfig:
    """Number formats. Parameters, moments, norms, softmax and loss stay float32."""

    READERS: ClassVar = (
        Reader("initial_loss_scale", "compute", ("float16",)),
        Reader("loss_scale_period", "compute", ("float16",)),
    )

    compute: ComputeName = "auto"
    """Format of activations and matrix products; `auto` is bfloat16 on TPUs, GPUs and processors
    that have units for it and float32 elsewhere."""
    initial_loss_scale: float | None = None
    """Starting loss scale under float16; None is 32768."""
    loss_scale_period: int | None = None
    """Finite steps after which the float16 loss scale doubles; None is 2000 [steps]."""

    def __post_init__(self) -> None:
        require_finite(self, path="precision.")
        require_effect(self, self.READERS, path="precision.")
        for name in ("initial_loss_scale", "loss_scale_period"):
            value = getattr(self, name)
            require(value is None or value > 0, f"precision.{name}={value} must be positive")


@dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged; the product of the axes is the device count."""

    data: int = -1
    """Devices over which batches split and parameters repeat; -1 takes what is left [devices]."""
    fsdp: int = 1
    """Devices over which batches, parameters and optimizer state split [devices]."""
    tensor: int = 1
    """Devices over which heads, hidden features and the vocabulary split [devices]."""

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "tensor"):
            size = getattr(self, name)
            require(
                size >= 1 or (name == "data" and size == -1),
                f"mesh.{name}={size} must be at least 1"
                + (" (or -1 for what is left)" if name == "data" else ""),
            )


@dataclass(frozen=True)
class CheckpointConfig:
    """When runs are saved and what is kept."""

    every_steps: int = 100
    """Steps between checkpoints; the last step is always saved [steps]."""
    keep_last: int = 2
    """Newest checkpoints kept [checkpoints]."""
    keep_every: int = 0
    """Checkpoints at multiples of this are kept for good; 0 keeps none so [steps]."""
    part_bytes: int = 2_000_000_000
    """Largest safetensors file; more parameters are split into parts with an index [bytes]."""

    def __post_init__(self) -> None:
        for name, least in (
            ("every_steps", 1),
            ("keep_last", 1),
            ("keep_every", 0),
            ("part_bytes", 1024),
        ):
            value = getattr(self, name)
            require(value >= least, f"checkpoint.{name}={value} must be at least {least}")


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out evaluation during the run."""

    every_steps: int = 100
    """Steps between evaluations; the last step is always evaluated [steps]."""
    num_batches: int = 8
    """Size of the fixed held-out set; 0 is all held-out text [batches]."""
    patience: int = 0
    """Evaluations without a new best before the run stops early; 0 never stops [evaluations]."""

    def __post_init__(self) -> None:
        for name, least in (("every_steps", 1), ("num_batches", 0), ("patience", 0)):
            value = getattr(self, name)
            require(value >= least, f"evaluation.{name}={value} must be at least {least}")


@dataclass(frozen=True)
class MonitoringConfig:
    """What a run tells while it runs and when it ends."""

    log_every: int = 1
    """Steps between lines of metrics.jsonl [steps]."""
    tensorboard: bool = True
    """Write TensorBoard event files to OUT/tensorboard."""
    sample_tokens: int = 96
    """Length of the sample printed at the end; 0 prints none [tokens]."""

    def __post_init__(self) -> None:
        require(self.log_every >= 1, f"monitoring.log_every={self.log_every} must be at least 1")
        require(
            self.sample_tokens >= 0,
            f"monitoring.sample_tokens={self.sample_tokens} must not be negative",
        )
