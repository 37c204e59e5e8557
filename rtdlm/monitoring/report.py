"""report.md: one page on a run, written from metrics.jsonl when a session ends.

What came out, the curves, what was run, how fast, what is saved, a sample, and how to go on.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rtdlm.disk import replace_file
from rtdlm.monitoring import curves
from rtdlm.monitoring.events import Event, RunFinished, RunStarted
from rtdlm.monitoring.history import History, column
from rtdlm.monitoring.meter import mfu
from rtdlm.monitoring.wording import clock, flop, label, percent, short

FILE_NAME = "report.md"
MAX_NOTICES = 20

Rows = Iterable[tuple[str, str]]


class ReportSink:
    """Writes the page on RunFinished. Stands after the JSONL sink, whose file it reads.

    Args:
        metrics: the run's metrics.jsonl.
        page: where to; the curves are expected beside it.
        out: the run's output directory as the user wrote it, for the commands on the page.
    """

    def __init__(self, metrics: Path, page: Path, *, out: str) -> None:
        self._metrics, self._page, self._out = metrics, page, out

    def __call__(self, event: Event) -> None:
        """Writes on RunFinished. Raises StorageError when the disk refuses."""
        if isinstance(event, RunFinished):
            text = render(History.read(self._metrics), out=self._out)
            replace_file(self._page, text.encode())

    def close(self) -> None:
        """Nothing is open."""


def render(history: History, *, out: str) -> str:
    """The page on a run that has started and finished, as Markdown."""
    start, finish = history.starts[-1], history.finishes[-1]
    sections = [
        f"# Run report: {out}",
        f"Step {finish.step:,}: {finish.reason}.",
        f"![Training curves]({curves.FILE_NAME})",
        "## Results",
        _table("result", "value", _results(history, finish)),
        "## What was run",
        _fence(start.command),
        _table("setting", "value", _settings(start)),
        "## Speed",
        _speed(history, start),
        "## Checkpoints",
        _checkpoints(history),
        *_notices(history),
        *_sample(finish),
        "## How to go on",
        _fence(_commands(start, out)),
    ]
    return "\n\n".join(sections) + "\n"


def _results(history: History, finish: RunFinished) -> Rows:
    best, last = history.best_eval, history.evals[-1:]
    # At step 0: what a run that started from a model is held against.
    told = (item for item in history.evals if item is best or item in last or item.step == 0)
    for event in told:
        note = ", the best" if event is best else ""
        for name, value in event.metrics.items():
            yield f"held-out {label(name)} at step {event.step:,}{note}", f"{value:.4f}"
    _, losses = column(history.steps, "loss")
    if len(losses):
        yield "training loss, first and last", f"{losses[0]:.4f} → {losses[-1]:.4f}"
    for name, value in finish.summary.items():
        yield label(name), f"{value:,.6g}"


def _settings(start: RunStarted) -> Rows:
    if start.started_from is not None:
        yield "started from", f"`{start.started_from}`"
    for name, value in start.config.items():
        yield label(name), _plain(value)
    for name, count in start.parameters.items():
        yield f"parameters, {label(name)}", f"{count:,} ({short(count)})"
    yield "tokens in a step", f"{start.tokens_per_step:,}"
    yield "devices", start.devices


def _speed(history: History, start: RunStarted) -> str:
    if not history.steps:
        return "No step was done."
    last = history.steps[-1]
    rate = last.tokens / last.seconds
    utilisation = mfu(
        tokens_per_second=rate, flops_per_token=start.flops_per_token, peak_flops=start.peak_flops
    )
    formula = (
        f"{short(rate)} tokens/s × {flop(start.flops_per_token)}/token ÷ "
        f"{flop(start.peak_flops)}/s = **{percent(utilisation)}**"
    )
    return (
        f"{last.tokens:,} tokens in {clock(last.seconds)} of training: "
        f"**{short(rate)} tokens/s** over {_sessions(history)}.\n\n"
        f"Model FLOPs utilisation = tokens/s × FLOP/token ÷ peak = {formula}.\n"
        f"Peak: {start.peak_source}."
    )


def _sessions(history: History) -> str:
    resumed = [f"{start.resumed_from:,}" for start in history.starts if start.resumed_from]
    if not resumed:
        return "one session"
    plural = "s" if len(resumed) > 1 else ""
    return f"{len(resumed) + 1} sessions (resumed from step{plural} {', '.join(resumed)})"


def _checkpoints(history: History) -> str:
    if not history.checkpoints:
        return "None was saved."
    last = history.checkpoints[-1]
    best = next((item for item in reversed(history.checkpoints) if item.best), None)
    rows = [("newest", f"`{last.path}`")]
    if best:
        rows.append(("best held-out loss", f"`{best.path}`"))
    return _table("checkpoint", "path", rows)


def _notices(history: History) -> list[str]:
    rows = [(f"{item.step:,}", f"{item.level}: {item.message}") for item in history.notices]
    if not rows:
        return []
    shown = rows[-MAX_NOTICES:]
    rest = f"The last {len(shown)} of {len(rows)}.\n\n" if len(shown) < len(rows) else ""
    return ["## Notices", rest + _table("step", "notice", shown)]


def _sample(finish: RunFinished) -> list[str]:
    return [] if finish.sample is None else ["## Sample", _fence(finish.sample)]


def _commands(start: RunStarted, out: str) -> str:
    out = shlex.quote(out)
    resume = start.command if "--resume" in start.command.split() else f"{start.command} --resume"
    return "\n".join(
        [
            resume,
            f"python -m rtdlm.evaluate --checkpoint {out}",
            f'python -m rtdlm.generate --checkpoint {out} --prompt "Once upon a time"',
        ]
    )


def _table(left: str, right: str, rows: Rows) -> str:
    lines = [f"| {left} | {right} |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _fence(text: str) -> str:
    """`text` in a code fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
