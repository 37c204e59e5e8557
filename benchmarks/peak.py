"""The machine's matrix-product peak, and how near to it a step comes.

    peak = the faster of PyTorch's and JAX's best 2048 x 2048 x 2048 product
    MFU  = (tokens / second) * (FLOP / token) / peak                      arXiv 2204.02311
    FLOP / token = 3 * 2 * (matrix weights + output table + 2 L D T)

Three times the forward pass, for forward and backward; attention reads all T keys of a row, as the
dense kernels of both sides compute them. What a side computes again counts for nothing.
On one core both are by CPU time, so that a busy machine does not look like a slow program.
"""

from collections.abc import Sequence

from benchmarks.child import Answer
from benchmarks.runner import Case, run_case, tell, threads_named
from rtdlm.evaluation.results import Result

FORMULA = (
    "MFU = tokens/s * FLOP/token / peak; FLOP/token = 6 (matrix weights + output table + 2 L D T); "
    "peak = best 2048^3 product of PyTorch and JAX in the named format on the same cores"
)
SIDES = ("benchmarks.sides.peer_matmul", "benchmarks.sides.our_matmul")


def measure_peaks(
    threads: Sequence[int], *, precisions: Sequence[str], size: int, repeats: int
) -> dict[tuple[int, str], float]:
    """Peak by (threads, precision), the best of all repeats and libraries [FLOP/s]."""
    peaks: dict[tuple[int, str], float] = {}
    for count in threads:
        for precision in precisions:
            tell(f"matrix product, {precision}, {threads_named(count)}")
            spec = {"size": size, "repeats": repeats, "precision": precision}
            answers = [run_case(Case(side, spec, count)) for side in SIDES]
            peaks[count, precision] = max(answer["flops"] for answer in answers)
    return peaks


def peak_results(peaks: dict[tuple[int, str], float]) -> list[Result]:
    """The peaks as results."""
    return [
        Result(f"matrix product peak/{threads_named(count)}, {precision}", flops / 1e9, "GFLOP/s")
        for (count, precision), flops in peaks.items()
    ]


def mfu(answer: Answer, *, tokens: int, flops_per_token: int, peak: float, clock: str) -> float:
    """Share of `peak` that one step's useful arithmetic is [percent]; `clock` is cpu or wall."""
    return 100 * tokens * flops_per_token / answer[clock] / peak
