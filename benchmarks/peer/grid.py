"""The tuned peer: its best learning rate, batch and schedule, from a small grid.

First learning rate x batch size, each with a cosine over half the rows that the standard recipe
reads; then, for the two best of these, the schedule's form and length. A recipe is as good as the
CPU seconds in which it first reaches the target loss; of recipes that do not reach it, the one that
comes nearest is better. All runs are kept in `tuned.json`, so that the choice can be seen.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.child import Answer
from benchmarks.runner import Case, run_all
from rtdlm.config.errors import UserError
from rtdlm.disk import replace_file

TUNED = Path(__file__).with_name("tuned.json")
SIDE = "benchmarks.peer.side:train"
LEARNING_RATES = (1e-3, 2e-3, 4e-3)
BATCH_SIZES = (6, 12, 24)
ROWS = 12_000
SCHEDULES = (("cosine", 0.1), ("linear", 0.0))
LENGTHS = (7_000, 9_000, 12_000, 16_000)
SEED = 1234
"""Not one that the benchmark is run with: tuning on the seeds of the test would flatter."""

Options = dict[str, Any]


class Run(NamedTuple):
    """A recipe and how it fared."""

    recipe: Options
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
    runs = _try(first, text, target, shape=shape, at_once=at_once)
    best = sorted(runs, key=lambda run: run.rank)[:2]
    tried = [run.recipe for run in runs]
    second = [
        recipe(run.recipe["learning_rate"], run.recipe["batch_size"], rows, schedule, final)
        for run in best
        for schedule, final in SCHEDULES
        for rows in lengths
    ]
    new = [candidate for candidate in second if candidate not in tried]
    runs += _try(new, text, target, shape=shape, at_once=at_once)
    return sorted(runs, key=lambda run: run.rank)


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
    rows = [run.recipe | {f"found_{key}": run.answer[key] for key in kept} for run in runs]
    tree = {
        "date": datetime.now(UTC).date().isoformat(),
        "target": target,
        "best": runs[0].recipe,
        "runs": rows,
    }
    replace_file(path, (json.dumps(tree, indent=1) + "\n").encode())


def tuned_recipe(path: Path = TUNED) -> Options:
    """The best recipe of the kept grid.

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


def _try(
    recipes: Sequence[Mapping[str, Any]], text: Path, target: float, *, shape: Options, at_once: int
) -> list[Run]:
    cases = [
        Case(
            "benchmarks.sides.time_to_loss",
            {
                "side": SIDE,
                "text": str(text),
                "seed": SEED,
                "target": target,
                "options": {"recipe": dict(recipe), "shape": shape},
            },
        )
        for recipe in recipes
    ]
    answers = run_all(cases, at_once=at_once)
    return [Run(dict(r), answer) for r, answer in zip(recipes, answers, strict=True)]
