"""`python -m studies memory_carried`: what it is worth that memory goes on from step to step.

A language model whose attention reads a window of what stood before its segment
(`memory.stm_form=attention`) is trained on text in its order, in as many lanes as a step has rows.
Either every row begins with an empty memory, or with what that row of the step before left
(`memory.across_steps`), where gradients end; and rows are of one segment or of four, at equal
tokens a step. All have the same parameters and first weights, those with equally long rows read the
same lanes, and they are judged by held-out rows of many segments, in which memory goes on, and by
segments alone.

Axes: B rows, T time.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import Timer
from benchmarks.text import read_characters
from rtdlm.evaluation.results import Bar, Result
from rtdlm.training.knobs import Knobs
from rtdlm.training.loss import loss_terms
from rtdlm.training.optimizer import Progress, make_optimizer
from studies import library_text, memory_study, memory_text
from studies.memory_side import Run, Stage, Trained, update, with_memory
from studies.memory_tasks import Asked, Text
from studies.memory_text import Size
from studies.recipe import text_file
from studies.sides import add_only, chosen, each, whole_name

DESCRIPTION = "text in its order: memory from step to step, or empty in every row"
SEEDS = 3
LONGER = 4
"""Segments of the longer rows."""


class Side(NamedTuple):
    """How rows are read in training."""

    segments: int
    carried: bool


SIDES: Mapping[str, Side] = {
    "rows of 1 segment": Side(1, carried=False),
    "rows of 1 segment, carried": Side(1, carried=True),
    f"rows of {LONGER} segments": Side(LONGER, carried=False),
    f"rows of {LONGER} segments, carried": Side(LONGER, carried=True),
}


class Ran(NamedTuple):
    """One side with one seed; losses over the whole held-out part [nats a character]."""

    loss: float
    """In rows in which memory goes on."""
    apart: float
    """In segments alone, each with an empty memory."""
    cpu: float
    """Of training alone [seconds]."""


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "memory_carried")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name.
    """
    size = memory_text.SMOKE if flags.smoke else memory_text.WHOLE
    with text_file(library_text.NAME) as path:
        train, held_out = memory_text.tasks(size, read_characters(path))
    run = Run(with_memory(size.base, memory_text.WINDOW), train)
    sides = chosen(flags, SIDES, smoke=list(SIDES)[:2])
    one = partial(judged, size, train, held_out, run)
    for ran in each(sides, one, lambda ran: f"{ran.loss:.4f} nats", flags=flags, usual=SEEDS):
        yield results(ran, run)


def judged(
    size: Size, train: Text, held_out: Text, run: Run, name: str, side: Side, seed: int
) -> Ran:
    """Trains and judges one side."""
    del name
    params, cpu = trained(run, train, side, size.stages[0], seed)
    found = [
        run.losses(params, held_out.whole(rows=rows, segments=segments), segments=segments)
        for rows, segments in ((size.rows, size.segments), (size.rows * size.segments, 1))
    ]
    whole, apart = (float(losses.mean()) for losses in found)
    return Ran(whole, apart, cpu)


def trained(run: Run, train: Text, side: Side, stage: Stage, seed: int) -> Trained:
    """Trains fresh weights on the text in its order; a step has the tokens of one of `stage`."""
    rows = stage.rows * stage.segments // side.segments
    params, step = run.first(seed), jitted_step(run, side.segments)
    moved = jax.jit(make_optimizer(run.config.optimizer).init)(params)
    memory = empty = run.model(side.segments).empty_memory(rows)
    timer = Timer()
    lanes = in_order(train, rows=rows, segments=side.segments, steps=stage.steps, seed=seed)
    for number, drawn in enumerate(lanes):
        progress = Progress(jnp.int32(number), jnp.float32(number / stage.steps))
        given = memory if side.carried else empty
        params, moved, memory = step(params, moved, given, drawn, progress)
    jax.block_until_ready(params)
    return Trained(params, timer.read().cpu)


@cache
def jitted_step(run: Run, segments: int) -> Callable[..., tuple[Any, Any, Any]]:
    """Of parameters, moments, memory, rows and progress: the first three after a step."""
    model, optimizer = run.model(segments), make_optimizer(run.config.optimizer)
    knobs = Knobs.from_config(run.config)

    @jax.jit
    def step(
        params: Any, moved: Any, memory: Any, drawn: Asked, progress: Progress
    ) -> tuple[Any, Any, Any]:
        weight = jnp.sum(drawn.weights_BT)
        terms = loss_terms(drawn.weights_BT, knobs, scale=1.0 / weight)

        def loss(params: Any) -> tuple[jax.Array, Any]:
            ids_BT, labels_BT = jnp.asarray(drawn.ids_BT), jnp.asarray(drawn.labels_BT)
            scores = model.scores(params, ids_BT, labels_BT, terms=terms, memory=memory)
            assert scores.objective is not None
            return scores.objective / weight, scores.memory

        grads, after = jax.grad(loss, has_aux=True)(params)
        return *update(optimizer, knobs, progress, params, moved, grads), after

    return step


def in_order(text: Text, *, rows: int, segments: int, steps: int, seed: int) -> Iterator[Asked]:
    """Steps in which row b goes on where row b of the step before ended.

    Where the lanes begin is drawn by the seed, the same for the same number of tokens a step.
    """
    length = segments * text.segment
    lane = (len(text.ids_N) - 1) // rows
    room = lane - steps * length
    assert room >= 0, "the text is too short for lanes of so many steps"
    first = round(np.random.default_rng(seed).random() * room)
    for number in range(steps):
        yield text.rows(np.arange(rows) * lane + first + number * length, length)


def results(ran: Mapping[str, Sequence[Ran]], run: Run) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, own in ran.items():
        found += [
            Result.mean(f"{name}/loss", [one.loss for one in own], "nats"),
            Result.mean(f"{name}/loss of segments alone", [one.apart for one in own], "nats"),
            *memory_study.costs(name, own, run),
        ]
        plain = name.removesuffix(", carried")
        if name != plain and ran.get(plain):
            pairs = zip(ran[plain], own, strict=False)
            gains = [empty.loss - carried.loss for empty, carried in pairs]
            # Rows of one segment teach nothing of memory unless it is carried.
            bar: Bar | None = (">=", 0.0) if SIDES[name].segments == 1 else None
            least = f"{name}/below the same not carried, least"
            found += [
                Result.mean(f"{name}/below the same not carried", gains, "nats"),
                Result(least, min(gains), "nats", bar=bar),
            ]
    return found
