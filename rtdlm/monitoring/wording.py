"""Numbers as people read them."""

import math
from collections.abc import Sequence


def short(count: float) -> str:
    """A count in three digits: 950 -> "950", 12345 -> "12.3k", 1.5e9 -> "1.50B"."""
    return _scale(count, ("", "k", "M", "B", "T"))


def flop(work: float) -> str:
    """Floating-point operations in three digits: 6e7 -> "60.0 MFLOP", 2.75e14 -> "275 TFLOP"."""
    return f"{_scale(work, (' ', ' k', ' M', ' G', ' T', ' P', ' E'))}FLOP"


def clock(seconds: float) -> str:
    """Time on a clock: 42 -> "0:42", 3661 -> "1:01:01"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(fraction: float) -> str:
    """A share: 0.3125 -> "31.2 %"."""
    return f"{100 * fraction:.1f} %"


def label(name: str) -> str:
    """The name of a field as words: "gradient_norm" -> "gradient norm"."""
    return name.replace("_", " ")


def _scale(value: float, units: Sequence[str]) -> str:
    if not math.isfinite(value):
        return f"{value}{units[0]}"
    power = 0
    while abs(value) >= 999.5 and power + 1 < len(units):
        value, power = value / 1000, power + 1
    digits = 0 if abs(value) >= 99.95 or power == 0 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{digits}f}{units[power]}"
