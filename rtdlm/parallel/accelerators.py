"""What accelerators can do, by their makers' data sheets: one table for planning and for MFU.

TPU    cloud.google.com/tpu/docs, the page "System architecture" of each version; bandwidth of one
       interconnect link is a chip's bidirectional total over two directions and its links (4 in a
       2D torus, 6 in a 3D torus), as in jax-ml.github.io/scaling-book/tpus, "TPU specs"
GPU    NVIDIA's data sheets of A100, H100, H200 and DGX B200, without sparsity, SXM form; the
       network is that of a DGX node: 200, 400, 400 and 400 Gbit/s a GPU

A format's peak is that of a product as XLA computes it by default: float32 in one bfloat16 pass on
TPUs and in TF32 on NVIDIA GPUs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

GIB = 2**30


@dataclass(frozen=True)
class Accelerator:
    """One device of a kind; a chip of a TPU."""

    name: str
    """As `--devices` says it, for instance v5e."""
    platform: Literal["tpu", "gpu", "cpu"]
    words: tuple[str, ...]
    """Words of JAX's `device_kind` in lower case."""
    flops: Mapping[str, float]
    """Format of a matrix product -> dense peak [FLOP/s]."""
    memory: float | None
    """HBM [bytes]; None for a processor, whose memory its devices share."""
    memory_bandwidth: float | None
    """Of HBM [bytes/s]."""
    link: float | None
    """A TPU: one link of the torus, one way. A GPU: NVLink, one way [bytes/s]."""
    torus: int = 0
    """Dimensions of the torus; 0 where there is none."""
    neighbours: int = 0
    """GPUs that NVLink joins; beyond them is the network."""
    network: float | None = None
    """Of one GPU, one way [bytes/s]."""


def _tpu(
    name: str, words: tuple[str, ...], tera: float, memory: float, bandwidth: float,
    link: float, torus: int,
) -> Accelerator:  # fmt: skip
    flops = dict.fromkeys(("bfloat16", "float16", "float32"), tera * 1e12)
    return Accelerator(
        name, "tpu", words, flops, memory * GIB, bandwidth * 1e9, link * 1e9, torus=torus
    )


def _gpu(
    name: str, words: tuple[str, ...], half: float, tf32: float, memory: float, bandwidth: float,
    link: float, network: float,
) -> Accelerator:  # fmt: skip
    flops = {"bfloat16": half * 1e12, "float16": half * 1e12, "float32": tf32 * 1e12}
    return Accelerator(
        name, "gpu", words, flops, memory * 1e9, bandwidth * 1e12, link * 1e9, neighbours=8,
        network=network * 1e9,
    )  # fmt: skip


# Memory of a TPU is what its compiler lets a program have, a little less than the nominal figure.
ACCELERATORS: tuple[Accelerator, ...] = (
    _tpu("v4", ("tpu v4",), 275, 31.75, 1228, 50, 3),
    _tpu("v5e", ("tpu v5 lite", "tpu v5e"), 197, 15.75, 819, 50, 2),
    _tpu("v5p", ("tpu v5", "tpu v5p"), 459, 95.74, 2765, 100, 3),
    _tpu("v6e", ("tpu v6 lite", "tpu v6e"), 918, 31.25, 1638, 100, 2),
    _gpu("a100", ("a100",), 312, 156, 80, 2.039, 300, 25),
    _gpu("h100", ("h100",), 989, 494, 80, 3.35, 450, 50),
    _gpu("h200", ("h200", "gh200"), 989, 494, 141, 4.8, 450, 50),
    _gpu("b200", ("b200",), 2250, 1125, 180, 8.0, 900, 50),
    Accelerator("cpu", "cpu", ("cpu",), {}, None, None, None),
)
NAMES = tuple(accelerator.name for accelerator in ACCELERATORS)

# Forms of a listed GPU that multiply slower; bfloat16 [FLOP/s].
OTHER_FORMS: dict[str, float] = {"h100 pcie": 756e12, "h100 nvl": 835e12}


def by_name(name: str) -> Accelerator | None:
    """The accelerator that `--devices` calls `name`; None if there is none."""
    return next((found for found in ACCELERATORS if found.name == name), None)


def by_device_kind(kind: str) -> Accelerator | None:
    """The listed accelerator that JAX's `device_kind` is of; None if it is of none."""
    matches = [
        (len(words), found) for found in ACCELERATORS for words in found.words if _has(kind, words)
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else None


def peak_of(kind: str) -> float | None:
    """Dense bfloat16 peak of one device of a `device_kind` [FLOP/s]; None if it is not listed."""
    for words, flops in OTHER_FORMS.items():
        if _has(kind, words):
            return flops
    found = by_device_kind(kind)
    return None if found is None else found.flops.get("bfloat16")


def _has(kind: str, words: str) -> bool:
    return re.search(rf"\b{words}\b", kind.lower()) is not None
