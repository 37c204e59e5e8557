"""The nested sections of a run, each named after the room that reads it; a model's are in files of
their own.

A field's unit stands in square brackets in its docstring; None means "not set: the choice that
governs it decides". Sections validate themselves, so a bad value fails before anything starts.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rtdlm.config.effect import Reader, require, require_effect, require_finite

OptimizerName = Literal["adamw", "muon", "adafactor", "lion", "schedule_free", "sgd"]
ScheduleName = Literal["cosine", "wsd", "linear", "inverse_sqrt", "constant"]
DTypeName = Literal["float32", "bfloat16", "float16"]
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
    """Peak learning rate of what `muon` leaves to Adam; None is `learning_rate`
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
        return self.peak if self.adam_learning_rate is None else self.adam_learning_rate


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
