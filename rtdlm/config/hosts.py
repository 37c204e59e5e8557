"""How the processes of a run on several hosts find each other and notice that one is gone."""

from dataclasses import dataclass

from rtdlm.config.effect import require, require_finite


@dataclass(frozen=True)
class HostsConfig:
    """Patience with the other processes and with the devices."""

    start_seconds: float = 300.0
    """Wait for all processes at the start of a run [seconds]."""
    silent_seconds: int = 60
    """Silence after which a process counts as dead, and all others end [seconds]."""
    step_seconds: float = 1800.0
    """Longest time from one finished step to the next, with what is evaluated and saved in
    between; then every thread's stack is written and the process ends with status 1. 0 waits for
    ever [seconds]."""

    def __post_init__(self) -> None:
        require_finite(self, path="hosts.")
        for name, least in (("start_seconds", 1), ("silent_seconds", 5), ("step_seconds", 0)):
            value = getattr(self, name)
            require(value >= least, f"hosts.{name}={value} must be at least {least}")
