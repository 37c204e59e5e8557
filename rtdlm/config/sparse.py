"""What each token uses a part of: the sections `experts` and `depths`."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

from rtdlm.config.effect import Reader, require, require_effect, require_finite

ExpertLayers = Literal["every", "sandwich"]
ExpertDispatch = Literal["capacity", "dropless"]
ExpertScores = Literal["softmax", "sigmoid"]


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
        require(
            self.bias_rate is None or self.choices < self.num_experts,
            f"experts.bias_rate={self.bias_rate} has no effect with experts.top_k={self.choices} "
            f"and experts.num_experts={self.num_experts}: every token uses all; choose fewer",
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
