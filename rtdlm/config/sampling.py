"""How text is drawn from a model: temperature, filters, when to stop. Not part of a run's config.

    SamplingConfig.from_preset("creative", max_tokens=100, seed=3)
    SamplingConfig(temperature=0.0)                                   # greedy

Without options it is the model's own distribution. Filters apply in the order of the fields below.
"""

import math
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from rtdlm.config.effect import require
from rtdlm.config.errors import UserError

FILTERS = ("top_k", "top_p", "min_p")
"""What only drawing reads: greedy decoding has no use for it."""

SAMPLING_PRESETS: dict[str, dict[str, Any]] = {
    # All but the tail that the model itself finds hopeless, and a push away from loops.
    "creative": {"temperature": 1.0, "min_p": 0.05, "repetition_penalty": 1.1},
    # The usual place between dull and wild (arXiv 1904.09751).
    "balanced": {"temperature": 0.8, "top_p": 0.95},
    # Near the likeliest text, with room to leave a loop.
    "precise": {"temperature": 0.3, "top_p": 0.9},
    # The likeliest token each time.
    "deterministic": {"temperature": 0.0},
}


@dataclass(frozen=True)
class SamplingConfig:
    """How the tokens of one request are chosen and when it ends."""

    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens that the prompt or the output
    holds already (CTRL, arXiv 1909.05858); 1 leaves them, above 1 avoids repetition."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token, 1 is the model's own distribution."""
    top_k: int | None = None
    """Keep the k likeliest tokens, and those level with the last of them [tokens]."""
    top_p: float | None = None
    """Of those keep the likeliest that together have at least this probability
    (arXiv 1904.09751) [fraction]."""
    min_p: float | None = None
    """Of those keep what has at least this share of the likeliest token's probability
    (arXiv 2407.01082) [fraction]."""
    max_tokens: int = 256
    """Longest output; it also ends where the model's `max_seq_len` is full [tokens]."""
    stop: tuple[str, ...] = ()
    """Texts that end the output; it is trimmed before the first of them."""
    seed: int = 0
    """The same seed and prompt give the same text."""

    def __post_init__(self) -> None:
        temperature = self.temperature
        require(
            temperature >= 0 and math.isfinite(temperature),
            f"temperature={temperature} must be 0 (greedy) or a positive number",
        )
        require(
            self.top_k is None or self.top_k >= 1,
            f"top_k={self.top_k} must be at least 1; leave it out to keep all tokens",
        )
        for name in ("top_p", "min_p"):
            share = getattr(self, name)
            require(
                share is None or 0 < share <= 1,
                f"{name}={share} is outside (0, 1]; leave it out to keep all tokens",
            )
        for name in FILTERS:
            value = getattr(self, name)
            require(
                value is None or temperature > 0,
                f"{name}={value} has no effect with temperature=0, which takes the likeliest "
                f"token; remove {name} or raise temperature",
            )
        self._check_output()

    def _check_output(self) -> None:
        require(
            self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty),
            f"repetition_penalty={self.repetition_penalty} must be positive; 1 penalises nothing",
        )
        require(self.max_tokens >= 1, f"max_tokens={self.max_tokens} must be at least 1")
        require(
            isinstance(self.stop, tuple) and all(self.stop),
            f"stop={self.stop!r} must be a tuple of texts, none of them empty",
        )
        require(
            -(2**63) <= self.seed < 2**63,
            f"seed={self.seed} does not fit 64 bits; choose one between -2**63 and 2**63 - 1",
        )

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "SamplingConfig":
        """The preset `name` with `overrides` on top.

        A filter of the preset's goes when `temperature=0` is laid over it; one in `overrides`
        beside `temperature=0` is refused.

        Raises:
            UserError: unknown preset or option, or a value out of range or without effect.
        """
        _require_known(name, SAMPLING_PRESETS, "sampling preset", "presets")
        for option in overrides:
            _require_known(option, [field.name for field in fields(cls)], "option", "options")
        tree = dict(SAMPLING_PRESETS[name])
        if overrides.get("temperature") == 0:
            tree = {key: value for key, value in tree.items() if key not in FILTERS}
        return cls(**(tree | overrides))


def _require_known(name: str, known: Any, kind: str, plural: str) -> None:
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"unknown {kind} {name!r}; {hint}{plural} are {', '.join(known)}")
