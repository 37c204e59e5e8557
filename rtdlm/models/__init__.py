"""Composition only: block -> stack -> decoder -> `TMSModel`."""

from rtdlm.models.tms import TMSModel

__all__ = ["TMSModel"]
