"""docs/images/attention.png: time and memory of kinds of attention by the length of the row."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rtdlm.evaluation.results import Result
from rtdlm.monitoring.curves import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "docs/images/attention.png"
PRECISION = "float32"
MARKS = "osD^vPX*"

Curves = dict[str, dict[int, float]]
"""Kind -> tokens of a row -> value."""


def curves(results: Sequence[Result], what: str) -> Curves:
    """`what` (`CPU`, `memory`) of every kind that has it at two lengths or more."""
    name = re.compile(rf"T (\d+), {PRECISION}, 1 thread/([^/]+)/{what}")
    found: Curves = {}
    for result in results:
        if match := name.fullmatch(result.name):
            found.setdefault(match[2], {})[int(match[1])] = result.value
    return {kind: values for kind, values in found.items() if len(values) > 1}


def draw_attention(results: Sequence[Result]) -> bytes:
    """The picture as PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.8, 3.4), dpi=150, layout="constrained")
        time, memory = figure.subplots(1, 2)
        _panel(time, curves(results, "CPU"), "Forward and backward, one core [CPU ms]")
        _panel(memory, curves(results, "memory"), "Working memory [MiB]")
        figure.legend(*time.get_legend_handles_labels(), loc="outside right center", fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _panel(axes: "Axes", found: Curves, title: str) -> None:
    for mark, (kind, values) in zip(MARKS, found.items(), strict=False):
        lengths = sorted(values)
        axes.plot(
            lengths, [values[length] for length in lengths], label=kind, marker=mark, markersize=4
        )
    lengths = sorted({length for values in found.values() for length in values})
    axes.set(title=title, xlabel="tokens of a row", xscale="log", yscale="log")
    axes.set_xticks(lengths, [f"{length // 1024}k" for length in lengths], minor=False)
    axes.minorticks_off()
