import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rtdlm.monitoring import CurvesSink, EvalFinished, History, JsonlSink, StepFinished
from rtdlm.monitoring import curves as curves_module
from rtdlm.monitoring.curves import _figure, _top, draw, moving_average
from tests.monitoring.runs import started, step, whole_run


def long_run() -> list[Any]:
    """200 steps with a gradient norm, resumed once, evaluated twice."""
    steps = [step(number, loss=9.0 - number / 40, gradient_norm=1.0) for number in range(1, 201)]
    return [
        started(total_steps=200),
        *steps[:100],
        EvalFinished(100, {"loss": 6.0}, is_best=True),
        started(total_steps=200, resumed_from=100),
        *steps[100:],
        EvalFinished(200, {"loss": 4.5}, is_best=True),
    ]


def lines_of(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def test_the_loss_is_drawn_raw_smoothed_and_held_out() -> None:
    figure = _figure(History.of(long_run()))
    loss = lines_of(figure.axes[0])
    steps = list(range(1, 201))
    raw = [9.0 - number / 40 for number in steps]
    assert loss["training, raw"] == (steps, raw)
    assert loss["training, smoothed"][0] == steps
    # Five around each step: the mean of a straight line is the line, away from its ends.
    np.testing.assert_allclose(loss["training, smoothed"][1][2:-2], raw[2:-2], rtol=1e-12)
    assert loss["held out"] == ([100, 200], [6.0, 4.5])
    assert loss["resumed"][0] == [100, 100]
    assert [text.get_text() for text in figure.axes[0].texts] == ["4.500"]
    assert figure.axes[0].get_ylabel() == "cross-entropy [nats a token]"


def test_every_panel_has_its_title_and_unit() -> None:
    with mpl.rc_context(curves_module.STYLE):
        figure = _figure(History.of(long_run()))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "10.2M parameters, 200 steps of 2,048 tokens, on 2 x cpu",
        "learning rate [1 a step]",
        "gradient norm",
        "throughput [tokens/s]",
    ]
    assert {axes.get_xlabel() for axes in figure.axes} == {"step"}
    (throughput,) = [line for line in figure.axes[3].get_lines() if len(line.get_xdata()) > 2]
    assert list(throughput.get_ydata()) == [1024.0] * 199


@pytest.mark.parametrize(
    ("events", "panels"),
    [
        ([], 1),
        ([started()], 1),
        ([started(), StepFinished(1, {"loss": 2.0}, seconds=1.0, tokens=8)], 1),
        ([started(), step(1)], 2),
        ([started(), step(1), step(2)], 3),
        ([started(), step(1, loss=math.nan), step(2, loss=math.inf)], 3),
        (whole_run(), 3),
        (long_run(), 4),
    ],
)
def test_only_what_was_recorded_has_a_panel(events: list[Any], panels: int) -> None:
    figure: Figure = _figure(History.of(events))
    assert len(figure.axes) == panels


def test_the_average_is_over_what_is_finite() -> None:
    values = np.array([1.0, math.nan, 4.0, 7.0, math.inf, math.nan, math.nan])
    expected = [
        np.mean([v for v in values[max(0, i - 1) : i + 2] if np.isfinite(v)] or [math.nan])
        for i in range(len(values))
    ]
    np.testing.assert_allclose(moving_average(values, width=3), expected)
    np.testing.assert_array_equal(moving_average(values[:1], width=1), [1.0])


def test_a_few_outliers_do_not_flatten_the_rest() -> None:
    values = np.ones(100)
    assert _top(values) == pytest.approx(1.08)
    values[50] = 1000.0
    assert _top(values) == pytest.approx(3.24)
    values[51] = math.nan
    assert _top(values) == pytest.approx(3.24)
    assert _top(np.zeros(3)) == _top(np.array([])) == _top(np.array([math.nan])) == 1.0


def test_the_sink_draws_the_file_of_all_sessions(tmp_path: Path) -> None:
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
    jsonl, sink = JsonlSink(metrics), CurvesSink(metrics, picture)
    for event in whole_run():
        assert not picture.exists()
        jsonl(event)
        sink(event)
    jsonl.close()
    sink.close()
    assert picture.read_bytes() == draw(History.of(whole_run()))
    with Image.open(picture) as image:
        assert (image.format, image.size) == ("PNG", (1300, 832))
        # White paper with ink of the curves' colours on it.
        colors = {color: count for count, color in image.convert("RGB").getcolors(1 << 20)}
    blue, orange = (
        tuple(int(name[i : i + 2], 16) for i in (1, 3, 5))
        for name in (curves_module.BLUE, curves_module.ORANGE)
    )
    assert colors[(255, 255, 255)] > 0.8 * 1300 * 832
    assert min(colors[blue], colors[orange]) > 200
