import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from rtdlm.monitoring import Event, Notice, RunFinished, StepFinished, progress_sink
from rtdlm.monitoring.progress import ProgressBar, ProgressLines, fit
from tests.monitoring.runs import started, step, whole_run


def every(seconds: float) -> Iterator[float]:
    """A clock that moves on by `seconds` when it is read."""
    now = 0.0
    while True:
        yield now
        now += seconds


def lines_of(events: list[Event], *, seconds: float, least: float = 10.0) -> list[str]:
    output = io.StringIO()
    clock = every(seconds)
    sink = ProgressLines(Console(file=output, width=40), every=least, now=lambda: next(clock))
    for event in events:
        sink(event)
    sink.close()
    return output.getvalue().splitlines()


def test_a_log_of_a_whole_run() -> None:
    assert lines_of(whole_run(), seconds=10.0) == [
        "10.2M parameters on 2 x cpu, 4 steps of 2,048 tokens",
        "step 1/4   loss 8.000",
        "step 2/4   loss 7.000   0:20 left",
        "step 2/4   held-out loss 7.2500 (best)",
        "step 2/4   saved runs/tiny/checkpoints/step_00000002",
        "10.2M parameters on 2 x cpu, 4 steps of 2,048 tokens, resumed from step 2",
        "a gradient of step 3 was not finite | it was skipped",
        "step 3/4   loss 6.000   held-out 7.250   0:30 left",
        "step 3/4   held-out loss 6.5000 (best)",
        "step 3/4   saved runs/tiny/checkpoints/step_00000003",
        "step 4/4   loss 5.000   held-out 6.500",
        "step 4/4   held-out loss 6.7500",
        "step 4/4   saved runs/tiny/checkpoints/step_00000004",
        "step 4: all 4 steps done; wall seconds 12.5",
        "sample " + "─" * 33,
        "To be",
        "```or```",
        "not",
    ]


def test_a_run_says_which_model_it_started_from() -> None:
    origin = {"started_from": "runs/base at step 7"}
    told = lines_of([started(**origin), started(**origin, resumed_from=2)], seconds=1.0)
    first = "10.2M parameters on 2 x cpu, 4 steps of 2,048 tokens, started from runs/base at step 7"
    assert told == [first, f"{first}, resumed from step 2"]


def test_train_lines_are_some_time_apart_and_the_last_is_always_there() -> None:
    events = [started(total_steps=9), *(step(number) for number in range(1, 10))]
    assert lines_of(events, seconds=4.0) == [
        "10.2M parameters on 2 x cpu, 9 steps of 2,048 tokens",
        "step 1/9   loss 8.000",
        "step 4/9   loss 5.000   0:20 left",
        "step 7/9   loss 2.000   0:08 left",
        "step 9/9   loss 0.000",
    ]


def test_all_numbers_and_a_budget_in_time() -> None:
    metrics = {"loss": 2.34567, "tokens_per_second": 12_345.0, "mfu": 0.3125, "other": 1.0}
    events: list[Event] = [
        started(total_steps=None, max_seconds=240.0),
        StepFinished(7, metrics, seconds=60.0, tokens=1),
        StepFinished(8, metrics, seconds=80.0, tokens=1),
    ]
    assert lines_of(events, seconds=30.0) == [
        "10.2M parameters on 2 x cpu, 4:00 in steps of 2,048 tokens",
        "step 7   loss 2.346   12.3k tokens/s   MFU 31.2 %",
        "step 8   loss 2.346   12.3k tokens/s   MFU 31.2 %   4:00 left",
    ]


def test_markup_in_texts_is_only_text() -> None:
    events: list[Event] = [
        started(),
        Notice(1, "error", "[red]x[/red] [/]"),
        RunFinished(1, "done", {}, "[bold]x[/]"),
    ]
    printed = lines_of(events, seconds=1.0)
    assert printed[1] == "[red]x[/red] [/]"
    assert printed[-1] == "[bold]x[/]"


def terminal(events: list[Event], *, width: int) -> Console:
    """A recording of what a terminal of `width` columns shows."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, record=True)
    clock = every(10.0)
    bar = ProgressBar(console, now=lambda: next(clock))
    for event in events:
        bar(event)
    bar.close()
    return console


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_the_bar_fits_the_terminal(width: int) -> None:
    metrics = {"loss": 2.5, "tokens_per_second": 12_345.0, "mfu": 0.3125}
    steps = [StepFinished(n, metrics, seconds=1.0 * n, tokens=n) for n in (1, 2)]
    console = terminal([started(), *steps], width=width)
    shown = console.export_text().splitlines()
    bar, status = shown[-2:]
    assert bar.endswith(" 2/4 0:20 left")
    assert len(bar.rstrip()) == min(width, 100)
    assert bar.count("━") + bar.count("╸") + bar.count("╺") == min(width, 100) - 14
    parts = ["loss 2.500", "12.3k tokens/s", "MFU 31.2 %"]
    assert status.rstrip() == "   ".join(parts[: 2 if width == 30 else 3])


def test_the_bar_leaves_notices_and_results_on_the_screen() -> None:
    shown = terminal(whole_run(), width=80).export_text()
    assert "10.2M parameters on 2 x cpu, 4 steps of 2,048 tokens" in shown
    assert "a gradient of step 3 was not finite | it was skipped" in shown
    assert "step 4: all 4 steps done; wall seconds 12.5" in shown
    assert shown.endswith("To be\n```or```\nnot\n")


def test_the_terminal_decides() -> None:
    assert isinstance(progress_sink(Console(file=io.StringIO())), ProgressLines)
    assert isinstance(progress_sink(Console(file=io.StringIO(), force_terminal=True)), ProgressBar)


@pytest.mark.parametrize(
    ("width", "line"),
    [(0, ""), (3, ""), (4, "abcd"), (8, "abcd"), (9, "abcd   ef"), (20, "abcd   ef   ghi")],
)
def test_only_whole_parts_are_shown(width: int, line: str) -> None:
    assert fit(["abcd", "ef", "ghi"], width=width) == line
