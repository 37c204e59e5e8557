import re
from pathlib import Path
from typing import Any

import pytest

from rtdlm.monitoring import (
    EvalFinished,
    History,
    JsonlSink,
    Notice,
    ReportSink,
    RunFinished,
)
from rtdlm.monitoring.report import render
from tests.monitoring.runs import COMMAND, started, step, whole_run

PAGE = f"""\
# Run report: runs/tiny

Step 4: all 4 steps done.

![Training curves](curves.png)

## Results

| result | value |
|---|---|
| held-out loss at step 3, the best | 6.5000 |
| held-out top1 accuracy at step 3, the best | 0.2500 |
| held-out loss at step 4 | 6.7500 |
| held-out top1 accuracy at step 4 | 0.1875 |
| training loss, first and last | 8.0000 → 5.0000 |
| wall seconds | 12.5 |

## What was run

```text
{COMMAND}
```

| setting | value |
|---|---|
| preset | tiny |
| optimizer | muon |
| batch | rows 8, tokens 2,048 |
| parameters, total | 10,236,160 (10.2M) |
| parameters, non embedding | 6,041,856 (6.04M) |
| tokens in a step | 2,048 |
| devices | 2 x cpu |

## Speed

8,192 tokens in 0:08 of training: **1.02k tokens/s** over 2 sessions (resumed from step 2).

Model FLOPs utilisation = tokens/s × FLOP/token ÷ peak = \
1.02k tokens/s × 60.0 MFLOP/token ÷ 120 GFLOP/s = **51.2 %**.
Peak: measured.

## Checkpoints

| checkpoint | path |
|---|---|
| newest | `runs/tiny/checkpoints/step_00000004` |
| best held-out loss | `runs/tiny/checkpoints/step_00000003` |

## Notices

| step | notice |
|---|---|
| 3 | warning: a gradient of step 3 was not finite \\| it was skipped |

## Sample

````text
To be
```or```
not
````

## How to go on

```text
{COMMAND} --resume
python -m rtdlm.evaluate --checkpoint runs/tiny
python -m rtdlm.generate --checkpoint runs/tiny --prompt "Once upon a time"
```
"""


def test_the_page_of_a_whole_run() -> None:
    assert render(History.of(whole_run()), out="runs/tiny") == PAGE


def test_the_sink_writes_the_page_at_the_end(tmp_path: Path) -> None:
    metrics, page = tmp_path / "metrics.jsonl", tmp_path / "report.md"
    jsonl, sink = JsonlSink(metrics), ReportSink(metrics, page, out="runs/tiny")
    for event in whole_run():
        assert not page.exists()
        jsonl(event)
        sink(event)
    jsonl.close()
    sink.close()
    assert page.read_text() == PAGE


def bare(*events: Any, out: str = "out", **changes: Any) -> str:
    history = History.of([started(**changes), *events, RunFinished(2, "stopped by SIGTERM")])
    return render(history, out=out)


def test_a_run_that_did_nothing_has_a_page() -> None:
    page = bare()
    assert "Step 2: stopped by SIGTERM.\n" in page
    assert "## Results\n\n| result | value |\n|---|---|\n\n## What was run" in page
    assert "No step was done." in page
    assert "None was saved." in page
    assert "## Notices" not in page
    assert "## Sample" not in page


def test_a_run_that_started_from_a_model_is_held_against_it() -> None:
    events = [
        EvalFinished(number, {"loss": 4.0 + number}, is_best=number == 1) for number in (0, 1, 2, 3)
    ]
    page = bare(*events, started_from="runs/base at step 7")
    assert "| setting | value |\n|---|---|\n| started from | `runs/base at step 7` |\n" in page
    assert re.findall(r"held-out loss at step (\d)(, the best)? \| ([\d.]+)", page) == [
        ("0", "", "4.0000"), ("1", ", the best", "5.0000"), ("3", "", "7.0000"),
    ]  # fmt: skip


def test_commands_can_be_pasted() -> None:
    page = bare(command="python -m rtdlm.train --resume --out 'my run'", out="my run")
    assert page.endswith(
        "```text\npython -m rtdlm.train --resume --out 'my run'\n"
        "python -m rtdlm.evaluate --checkpoint 'my run'\n"
        "python -m rtdlm.generate --checkpoint 'my run' --prompt \"Once upon a time\"\n```\n"
    )


@pytest.mark.parametrize(
    ("resumed", "words"),
    [
        ([], "over one session."),
        ([10], "over 2 sessions (resumed from step 10)."),
        ([10, 1500], "over 3 sessions (resumed from steps 10, 1,500)."),
    ],
)
def test_sessions_are_counted(resumed: list[int], words: str) -> None:
    assert words in bare(*(started(resumed_from=number) for number in resumed), step(1))


def test_only_the_last_notices_are_shown() -> None:
    page = bare(*(Notice(number, "info", f"notice {number}") for number in range(1, 26)))
    assert "## Notices\n\nThe last 20 of 25.\n\n| step | notice |\n|---|---|\n| 6 | info" in page
    assert "| 25 | info: notice 25 |" in page
