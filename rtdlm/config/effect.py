"""Refuses options that would have no effect.

An option that is silently ignored is worse than none: the run that was asked for is not the run
that happens. Fields that only some choices read default to None, and a section calls
`require_effect` for its table of them in `__post_init__`.
"""

from collections.abc import Collection, Sequence
from dataclasses import fields
from math import isfinite
from operator import attrgetter
from typing import Any, NamedTuple

from rtdlm.config.errors import UserError


class Reader(NamedTuple):
    """`field` has an effect only while `governor` has one of `values`.

    The field may be in a section below, with a dotted name.
    """

    field: str
    governor: str
    values: Collection[Any]


def require_effect(section: Any, readers: Sequence[Reader], *, path: str) -> None:
    """Raises UserError for a field that is set while nothing would read it.

    Args:
        section: the config section that holds fields and governors.
        readers: who reads what; a field that is None was left alone.
        path: dotted prefix of the section, for the message ("optimizer.", or "" at the top).
    """
    for field, governor, values in readers:
        value, chosen = attrgetter(field)(section), getattr(section, governor)
        if value is not None and chosen not in values:
            wanted = " or ".join(repr(reader) for reader in values)
            raise UserError(
                f"{path}{field}={value!r} has no effect with {path}{governor}={chosen!r}: only "
                f"{wanted} reads it; remove {path}{field} or change {path}{governor}"
            )


def require_finite(section: Any, *, path: str, unbounded: Collection[str] = ()) -> None:
    """Raises UserError for a number that is infinite or none at all, except in `unbounded`."""
    for item in fields(section):
        value = getattr(section, item.name)
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, float) and not isfinite(number) and item.name not in unbounded:
                raise UserError(f"{path}{item.name}={value} is not finite; use a plain number")


def require(condition: bool, message: str) -> None:
    """Raises UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)
