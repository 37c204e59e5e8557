"""The tuned peer: its best learning rate, batch and schedule, from a small grid.

First learning rate x batch size, each with a cosine over two thirds of the rows that the standard
recipe reads; then, for the two best of these, the schedule's form and length; then, for the best of
all, PyTorch's compiler and bfloat16. A recipe is as good as the CPU seconds in which it first
reaches the target loss; of recipes that do not reach it, the one that comes nearest is better. All
runs are kept in `tuned.json`, so that the choice can be seen.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.child import Answer
from benchmarks.runner import Case, has_compiler, run_all
from rtdlm.config.errors import UserError
from rtdlm.disk import replace_file

Options = dict[str, Any]

TUNED = Path(__file__).with_name("tuned.json")
SIDE = "benchmarks.peer.side:train"
LEARNING_RATES = (2e-3, 4e-3, 8e-3)
BATCH_SIZES = (3, 6, 12)
ROWS = 16_000
SCHEDULES = (("cosine", 0.1), ("linear", 0.0))
LENGTHS = (12_000, 16_000, 20_000)
MEANS: tuple[Options, ...] = ({"compiled": True}, {"bfloat16": True})
SEED = 1234
"""Not one that the benchmark is run with: tuning on the seeds of the test would flatter."""


class Run(NamedTuple):
    """A way to train and how it fared."""

    options: Options
    """Of the peer's side: `recipe`, and what of `MEANS` it uses."""
    answer: Answer

    @property
    def rank(self) -> tuple[bool, float]:
        """Smaller is better."""
        answer = self.answer
        return not answer["reached"], answer["cpu_seconds" if answer["reached"] else "loss"]


def search(text: Path, target: float, *, shape: Options, smoke: bool, at_once: int) -> list[Run]:
    """All runs of both rounds, the best first."""
    rates: Sequence[float] = LEARNING_RATES
    sizes: Sequence[int] = BATCH_SIZES
    lengths: Sequence[int] = LENGTHS
    rows = ROWS
    if smoke:
        rates, sizes, rows, lengths = (1e-3,), (6,), 24, (24,)
    first = [recipe(lr, size, rows, "cosine", 0.1) for lr in rates for size in sizes]
    trial = _Trial(text, target, shape, at_once)
    trial.run([{"recipe": each} for each in first])
    second = [
        recipe(tried["learning_rate"], tried["batch_size"], rows, schedule, final)
        for tried in (run.options["recipe"] for run in trial.ranked()[:2])
        for schedule, final in SCHEDULES
        for rows in lengths
    ]
    trial.run([{"recipe": each} for each in second if each not in first])
    best = trial.ranked()[0].options
    means = [how for how in MEANS if "compiled" not in how or (not smoke and has_compiler())]
    trial.run([best | how for how in means])
    return trial.ranked()


def recipe(rate: float, batch_size: int, rows: int, schedule: str, final: float) -> Options:
    """Fields of a `Recipe` that reads `rows` rows and ends at `final` of its peak rate."""
    return {
        "learning_rate": rate,
        "final_learning_rate": final * rate,
        "batch_size": batch_size,
        "schedule": schedule,
        "steps": rows // batch_size,
        "warmup_steps": min(100, rows // batch_size // 10),
    }


def save(runs: Sequence[Run], target: float, path: Path = TUNED) -> None:
    """Writes the grid, the best first."""
    kept = ("reached", "loss", "steps", "cpu_seconds")
    rows = [run.options | {key: run.answer[key] for key in kept} for run in runs]
    tree = {
        "date": datetime.now(UTC).date().isoformat(),
        "target": target,
        "best": runs[0].options,
        "runs": rows,
    }
    replace_file(path, (json.dumps(tree, indent=1) + "\n").encode())


def tuned_options(path: Path = TUNED) -> Options:
    """The best of the kept grid, as options of the peer's side.

    Raises:
        UserError: no grid was searched yet.
    """
    if not path.is_file():
        raise UserError(
            "the tuned peer's recipe is not known yet; search for it with "
            "`python -m benchmarks time-to-loss --grid`"
        )
    best: Options = json.loads(path.read_text(encoding="utf-8"))["best"]
    return best


class _Trial:
    """All runs so far."""

    def __init__(self, text: Path, target: float, shape: Options, at_once: int) -> None:
        self._text, self._target, self._shape = text, target, shape
        self._at_once = at_once
        self._runs: list[Run] = []

    def run(self, candidates: Sequence[Options]) -> None:
        """Trains with each of the candidates."""
        cases = [
            Case(
                "benchmarks.sides.time_to_loss",
                {
                    "side": SIDE,
                    "text": str(self._text),
                    "seed": SEED,
                    "target": self._target,
                    "options": {**options, "shape": self._shape, "every": _every(options)},
                },
            )
            for options in candidates
        ]
        answers = run_all(cases, at_once=self._at_once)
        self._runs += [Run(*pair) for pair in zip(candidates, answers, strict=True)]

    def ranked(self) -> list[Run]:
        """The best first."""
        return sorted(self._runs, key=lambda run: run.rank)


def _every(options: Options) -> int:
    """Steps between evaluations, which take longer than the training between them."""
    return max(25, options["recipe"]["steps"] // 40)
