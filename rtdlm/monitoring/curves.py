"""curves.png: the whole run in one picture, drawn from metrics.jsonl.

Loss in training (each step faint, a moving average over it) and held out; below it the learning
rate, the gradient norm and the throughput, as far as they were recorded.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtdlm.disk import replace_file
from rtdlm.monitoring.events import Event, RunFinished
from rtdlm.monitoring.history import History, column, throughput
from rtdlm.monitoring.wording import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE_NAME = "curves.png"

BLUE, ORANGE, GREEN, VIOLET, GREY = "#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#718096"
AVERAGED_SHARE = 1 / 50
# Any, because matplotlib's own annotation names every key.
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}


class CurvesSink:
    """Draws the picture when the run ends. Stands after the JSONL sink, whose file it reads."""

    def __init__(self, metrics: Path, picture: Path) -> None:
        self._metrics, self._picture = metrics, picture

    def __call__(self, event: Event) -> None:
        """Draws on RunFinished. Raises StorageError when the disk refuses."""
        if isinstance(event, RunFinished):
            replace_file(self._picture, draw(History.read(self._metrics)))

    def close(self) -> None:
        """Nothing is open."""


def draw(history: History) -> bytes:
    """The picture of a run as PNG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure = _figure(history)
        FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def moving_average(values: np.ndarray, *, width: int) -> np.ndarray:
    """Mean over `width` neighbours (fewer at the ends), leaving out what is not finite.

    Args:
        values: [N] floats.
        width: an odd number.

    Returns:
        [N] floats; NaN where no neighbour is finite.
    """
    finite = np.isfinite(values)
    window = np.ones(width)
    total = np.convolve(np.where(finite, values, 0.0), window)
    count = np.convolve(finite.astype(float), window)
    inner = slice(width // 2, width // 2 + len(values))
    return np.divide(
        total[inner], count[inner], out=np.full(len(values), np.nan), where=count[inner] > 0.5
    )


def _figure(history: History) -> "Figure":
    from matplotlib.figure import Figure

    below = _panels_below(history)
    heights = (5, 3) if below else (5,)
    figure = Figure(figsize=(10, 0.8 * sum(heights)), dpi=130, layout="constrained")
    grid = figure.add_gridspec(len(heights), max(1, len(below)), height_ratios=heights)
    _draw_loss(figure.add_subplot(grid[0, :]), history)
    for index, (title, color, steps, values) in enumerate(below):
        axes = figure.add_subplot(grid[1, index])
        axes.plot(steps, values, color=color, linewidth=0.9)
        axes.set_title(title)
        axes.set_ylim(0, _top(values))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        _finish_axes(axes, history)
    return figure


def _panels_below(history: History) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    panels = [
        ("learning rate [1 a step]", GREEN, *column(history.steps, "learning_rate")),
        ("gradient norm", VIOLET, *column(history.steps, "gradient_norm")),
        ("throughput [tokens/s]", GREY, *throughput(history.steps)),
    ]
    return [panel for panel in panels if len(panel[2])]


def _draw_loss(axes: "Axes", history: History) -> None:
    steps, loss = column(history.steps, "loss")
    width = 2 * int(len(steps) * AVERAGED_SHARE / 2) + 1
    if width > 1:
        smooth = moving_average(loss, width=width)
        axes.plot(steps, loss, color=BLUE, alpha=0.3, linewidth=0.8, label="training, raw")
        axes.plot(steps, smooth, color=BLUE, label="training, smoothed")
    else:
        axes.plot(steps, loss, color=BLUE, label="training")
    _draw_held_out(axes, history)
    axes.set_title(_title(history))
    axes.set_ylabel("cross-entropy [nats a token]")
    _finish_axes(axes, history)
    axes.legend(loc="upper right", labelcolor=GREY)


def _draw_held_out(axes: "Axes", history: History) -> None:
    steps, loss = column(history.evals, "loss")
    if not len(steps):
        return
    axes.plot(steps, loss, color=ORANGE, marker="o", markersize=3.5, label="held out")
    if best := history.best_eval:
        axes.annotate(
            f"{best.metrics['loss']:.3f}",
            (best.step, best.metrics["loss"]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="right",
            color=ORANGE,
        )


def _title(history: History) -> str:
    last = history.steps[-1].step if history.steps else 0
    if not history.starts:
        return f"loss over {last:,} steps"
    start = history.starts[-1]
    return (
        f"{short(start.parameters['total'])} parameters, {last:,} steps of "
        f"{start.tokens_per_step:,} tokens, on {start.devices}"
    )


def _finish_axes(axes: "Axes", history: History) -> None:
    """Labels the steps and marks where the run was resumed."""
    axes.set_xlabel("step")
    axes.margins(x=0.01)
    resumed = [start.resumed_from for start in history.starts if start.resumed_from]
    for index, step in enumerate(resumed):
        label = "resumed" if index == 0 else None
        axes.axvline(step, color=GREY, linewidth=0.7, linestyle=":", label=label)


def _top(values: np.ndarray) -> float:
    """Where an axis from 0 should end so that a few outliers do not flatten the rest."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 1.0
    return float(1.08 * min(finite.max(), 3 * np.percentile(finite, 95))) or 1.0
