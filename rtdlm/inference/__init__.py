"""Text from a model: sampling, cached and speculative decoding, streaming."""

from rtdlm.inference.completion import Completion, FinishReason
from rtdlm.inference.decode import DecodeState
from rtdlm.inference.draft import DraftModel, EarlyExit
from rtdlm.inference.generate import Chunk, Generator
from rtdlm.inference.load import Drafting, load_generator
from rtdlm.inference.sampling import Sampler, make_sampler, sample

__all__ = [
    "Chunk",
    "Completion",
    "DecodeState",
    "DraftModel",
    "Drafting",
    "EarlyExit",
    "FinishReason",
    "Generator",
    "Sampler",
    "load_generator",
    "make_sampler",
    "sample",
]
