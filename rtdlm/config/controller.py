"""How much compute each token is given: the section `controller`."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from rtdlm.config.effect import require, require_finite

Strategy = Literal["fast", "balanced", "thorough"]
CalledModule = Literal["knowledge", "quantum"]


@dataclass(frozen=True)
class StrategyConfig:
    """A budget for inference."""

    budget: float
    """Mean share of the steps that may be taken; 1 takes all, without asking [fraction]."""


FAST_CONFIG = StrategyConfig(budget=0.35)
BALANCED_CONFIG = StrategyConfig(budget=0.6)
THOROUGH_CONFIG = StrategyConfig(budget=1.0)
STRATEGIES: dict[str, StrategyConfig] = {
    "fast": FAST_CONFIG,
    "balanced": BALANCED_CONFIG,
    "thorough": THOROUGH_CONFIG,
}


@dataclass(frozen=True)
class ControllerConfig:
    """The core that is run again and again, and what decides how often."""

    core_layers: int | None = None
    """Last layers of the model that are run in every step; None is 1 [layers]."""
    max_steps: int | None = None
    """Steps at most; None is 4 [steps]."""
    price: float | None = None
    """What a step must save in loss to be taken, at inference; None is the price at which the
    strategy's budget was met when the run ended [nats a step]."""
    lowest_price: float | None = None
    """Training shows prices from this, log-uniform; None is 0.003 [nats a step]."""
    highest_price: float | None = None
    """To this; None is 1 [nats a step]."""
    even_share: float | None = None
    """Share of the loss that is spread over all exits alike, so that every one is trained; None is
    0.5 [fraction]."""
    ponder_weight: float | None = None
    """Weight of the divergence of exits from even ones, a knob; None is 0.003 [nats a nat]."""
    calls: tuple[CalledModule, ...] | None = None
    """Modules that stand in the core, not in the layers before it, and that a step runs for the
    tokens that call them; None is none."""

    def __post_init__(self) -> None:
        require_finite(self, path="controller.")
        for name in ("core_layers", "max_steps"):
            value, least = getattr(self, name), 2 if name == "max_steps" else 1
            require(
                value is None or value >= least,
                f"controller.{name}={value} must be at least {least}",
            )
        for name in ("price", "lowest_price", "highest_price"):
            value = getattr(self, name)
            require(
                value is None or value > 0, f"controller.{name}={value} must be positive [nats]"
            )
        low, high = self.prices
        require(
            low < high,
            f"controller.lowest_price={low} must be below controller.highest_price={high}",
        )
        require(
            self.even_share is None or 0 < self.even_share <= 1,
            f"controller.even_share={self.even_share} is outside (0, 1]: exits without any share "
            "of the loss would not be trained",
        )
        require(
            self.ponder_weight is None or self.ponder_weight > 0,
            f"controller.ponder_weight={self.ponder_weight} must be positive: without it exits "
            "close that are not taken at first",
        )
        known = get_args(CalledModule)
        require(
            self.calls is None or (set(self.calls) <= set(known) and _differ(self.calls)),
            f"controller.calls={list(self.called)} must be different ones of {list(known)}, at "
            "least one; remove it for none",
        )

    @property
    def layers(self) -> int:
        """Layers of the core."""
        return 1 if self.core_layers is None else self.core_layers

    @property
    def steps(self) -> int:
        """Steps at most."""
        return 4 if self.max_steps is None else self.max_steps

    @property
    def prices(self) -> tuple[float, float]:
        """The range that training shows [nats a step]."""
        low = 0.003 if self.lowest_price is None else self.lowest_price
        return low, 1.0 if self.highest_price is None else self.highest_price

    @property
    def even(self) -> float:
        """Share of the loss that is spread over all exits alike."""
        return 0.5 if self.even_share is None else self.even_share

    @property
    def ponder(self) -> float:
        """Weight of the divergence of exits from even ones."""
        return 0.003 if self.ponder_weight is None else self.ponder_weight

    @property
    def called(self) -> tuple[CalledModule, ...]:
        """Modules that tokens call in the core, in the order of the policy's choices."""
        return self.calls or ()

    @property
    def fields_set(self) -> dict[str, object]:
        """What is not left alone."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def _differ(calls: tuple[str, ...]) -> bool:
    return 0 < len(calls) == len(set(calls))
