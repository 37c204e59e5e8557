"""When a run ends, and how far along it is.

Steps, tokens and epochs are all counts of steps in the end; wall time is not, so progress is
either a share of the steps or a share of the seconds, and the learning rate follows it.
"""

from dataclasses import dataclass
from math import ceil

from rtdlm.config import AGIConfig, UserError
from rtdlm.data import Warmup

DEFAULT_EPOCHS = 1.0


@dataclass(frozen=True)
class Budget:
    """Exactly one of the two is set."""

    num_steps: int | None
    max_seconds: float | None

    @classmethod
    def from_config(cls, config: AGIConfig, *, tokens_per_epoch: int) -> "Budget":
        """The budget that `config` sets, one epoch if it sets none.

        Args:
            config: at most one of `num_steps`, `num_epochs`, `num_tokens`, `max_seconds` is set.
            tokens_per_epoch: training tokens there are, to turn epochs into steps.
        """
        if config.max_seconds is not None:
            return cls(None, config.max_seconds)
        if config.num_steps is not None:
            return cls(config.num_steps, None)
        tokens = config.num_tokens
        if tokens is None:
            epochs = DEFAULT_EPOCHS if config.num_epochs is None else config.num_epochs
            tokens = ceil(epochs * tokens_per_epoch)
        return cls(Warmup(config).steps_for(tokens), None)

    def fraction(self, *, step: int, seconds: float) -> float:
        """Share of the budget that is spent before step `step`, in [0, 1]."""
        if self.num_steps is not None:
            return min(1.0, step / self.num_steps)
        assert self.max_seconds is not None
        return min(1.0, seconds / self.max_seconds)

    def spent(self, *, step: int, seconds: float) -> bool:
        """Whether nothing is left after `step` steps and `seconds` seconds."""
        return self.fraction(step=step, seconds=seconds) >= 1.0

    def require_left(self, *, step: int, seconds: float) -> None:
        """Raises UserError when a resumed run has nothing to do."""
        if self.spent(step=step, seconds=seconds):
            total = f"{self.num_steps} steps" if self.num_steps else f"{self.max_seconds} seconds"
            raise UserError(
                f"the run already stands at step {step} and its budget of {total} is spent; "
                "raise --steps (or --epochs, --tokens, --seconds) to go on"
            )
