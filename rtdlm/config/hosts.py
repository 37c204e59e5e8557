"""How the processes of a run on several hosts find each other and notice that one is gone."""

from dataclasses import dataclass

from rtdlm.config.effect import require, require_finite

MOST_SECONDS = 10**9
"""Thirty years; the system's clocks do not count to much more."""


@dataclass(frozen=True)
class HostsConfig:
    """Patience with the other processes and with the devices."""

    start_seconds: float = 300.0
    """Wait for all processes at the start of a run [seconds]."""
    silent_seconds: int = 60
    """Silence after which a process counts as dead, and all others end [seconds]."""
    step_seconds: float | None = None
    """Longest time that a step may take, or an evaluation or a save after it, the reading of a
    checkpoint before all or the text behind all; then every thread's stack is written and the
    process ends with status 1. 0 waits for ever; None is 1800 where there are several processes and
    0 for one alone [seconds]."""

    def __post_init__(self) -> None:
        require_finite(self, path="hosts.")
        for name, least in (("start_seconds", 1), ("silent_seconds", 5), ("step_seconds", 0)):
            value = getattr(self, name)
            if value is None:
                continue
            require(value >= least, f"hosts.{name}={value} must be at least {least}")
            require(value <= MOST_SECONDS, f"hosts.{name}={value} must be at most {MOST_SECONDS}")

    def step_limit(self, num_processes: int) -> float:
        """`step_seconds` after the default; 0 is none [seconds]."""
        if self.step_seconds is not None:
            return self.step_seconds
        return 1800.0 if num_processes > 1 else 0.0
