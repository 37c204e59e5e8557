"""Feed-forward layers: what a token does with what it has read."""

from rtdlm.modules.feedforward.swiglu import SwiGLU

__all__ = ["SwiGLU"]
