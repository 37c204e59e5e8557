import math
from pathlib import Path

import numpy as np

from rtdlm.monitoring import EvalFinished, History, JsonlSink, StepFinished
from rtdlm.monitoring.history import column, throughput
from tests.monitoring.runs import step, whole_run


def test_a_file_becomes_the_events_that_were_written(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink(whole_run()[0])
    sink.close()
    assert History.read(tmp_path / "metrics.jsonl") == History.of(whole_run()[:1])


def test_events_are_sorted_by_kind() -> None:
    events = whole_run()
    history = History.of(events)
    assert history.starts == (events[0], events[5])
    assert history.steps == (events[1], events[2], events[7], events[10])
    assert history.evals == (events[3], events[8], events[11])
    assert history.checkpoints == (events[4], events[9], events[12])
    assert history.notices == (events[6],)
    assert history.finishes == (events[13],)
    assert history.best_eval is events[8]
    assert History.of([]).best_eval is None


def test_a_column_has_the_steps_that_recorded_it() -> None:
    events = [step(1), step(2, extra=math.nan), step(3), step(4, extra=-0.5)]
    steps, values = column(events, "extra")
    np.testing.assert_array_equal(steps, np.array([2, 4], np.int64), strict=True)
    np.testing.assert_array_equal(values, np.array([math.nan, -0.5]), strict=True)
    steps, values = column([EvalFinished(5, {"loss": 1.5}, True)], "loss")
    assert (steps.tolist(), values.tolist()) == ([5], [1.5])
    assert [len(array) for array in column(events, "absent")] == [0, 0]


def test_throughput_is_between_neighbours() -> None:
    events = [
        StepFinished(1, {}, seconds=10.0, tokens=100),
        StepFinished(2, {}, seconds=12.0, tokens=200),
        StepFinished(4, {}, seconds=16.0, tokens=400),
        StepFinished(5, {}, seconds=16.5, tokens=500),
    ]
    steps, rates = throughput(events)
    assert (steps.tolist(), rates.tolist()) == ([2, 4, 5], [50.0, 50.0, 200.0])
    assert [len(array) for array in throughput(events[:1])] == [0, 0]
    assert [len(array) for array in throughput([])] == [0, 0]
