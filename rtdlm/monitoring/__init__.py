"""What a run tells: an event stream and its sinks.

    with EventStream([progress_sink(), JsonlSink(out / "metrics.jsonl"), ...]) as stream:
        stream.emit(RunStarted(...))
        stream.emit(StepFinished(step=1, metrics={"loss": 9.01}, seconds=0.5, tokens=2048))

Importing this loads neither JAX nor matplotlib.
"""

from rtdlm.monitoring.curves import CurvesSink
from rtdlm.monitoring.events import (
    CheckpointSaved,
    EvalFinished,
    Event,
    EventStream,
    Notice,
    RunFinished,
    RunStarted,
    Sink,
    StepFinished,
)
from rtdlm.monitoring.history import History
from rtdlm.monitoring.jsonl import JsonlSink, plain_json
from rtdlm.monitoring.meter import Meter, Peak, mfu, peak_flops
from rtdlm.monitoring.preparing import PrepareBar
from rtdlm.monitoring.progress import progress_sink
from rtdlm.monitoring.report import ReportSink
from rtdlm.monitoring.tensorboard import TensorBoardSink

__all__ = [
    "CheckpointSaved",
    "CurvesSink",
    "EvalFinished",
    "Event",
    "EventStream",
    "History",
    "JsonlSink",
    "Meter",
    "Notice",
    "Peak",
    "PrepareBar",
    "ReportSink",
    "RunFinished",
    "RunStarted",
    "Sink",
    "StepFinished",
    "TensorBoardSink",
    "mfu",
    "peak_flops",
    "plain_json",
    "progress_sink",
]
