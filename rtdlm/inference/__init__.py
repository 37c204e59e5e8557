"""Text from a model: sampling, cached decoding, streaming."""

from rtdlm.inference.completion import Completion, FinishReason
from rtdlm.inference.decode import DecodeState
from rtdlm.inference.generate import Chunk, Generator
from rtdlm.inference.load import load_generator
from rtdlm.inference.sampling import Sampler, make_sampler, sample

__all__ = [
    "Chunk",
    "Completion",
    "DecodeState",
    "FinishReason",
    "Generator",
    "Sampler",
    "load_generator",
    "make_sampler",
    "sample",
]
