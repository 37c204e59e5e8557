"""`python -m studies memory_text`: what each tier of memory is worth on long real text.

Characters in rows of segments, to which attention is confined; without memory each segment starts
with nothing. A side is a tier; all have the same number of parameters and are trained on the same
characters, and judged by the whole held-out part in rows four times as long. Told is the loss, that
of the segments behind the first, which alone have something to remember, and by how much the worst
seed of a side is below the best one without memory: above 0 is beyond the spread of the seeds. A
seed also chooses what is read, in which order, and the first weights, the same for all sides; so
told is, too, by how much a side is below the one without memory that had the same.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.command import count
from benchmarks.text import CharacterText, read_characters
from rtdlm.evaluation.results import Bar, Result
from studies import library_text, memory_study
from studies import memory_side as side
from studies.memory_side import Run, Stage
from studies.memory_tasks import Text
from studies.recipe import text_file
from studies.sides import add_only, each, whole_name
from studies.variants import Tree, merged

DESCRIPTION = "held-out loss on long text: no memory, each tier alone, all"
SEEDS = 3


class Size(NamedTuple):
    """A model that all sides share, how it is trained and by what it is judged."""

    segment: int
    base: Tree
    stages: Sequence[Stage]
    segments: int
    """Of the rows of the held-out part."""
    rows: int
    """Judged at once."""
    characters: int | None = None
    """Of either part of the text, from its start; None is all."""


WHOLE = Size(
    segment=256,
    base=merged(
        side.BASE,
        {
            "d_model": 128, "num_layers": 2, "num_heads": 4, "d_ff": 352,
            "position_encoding": "rope",
        },
    ),
    stages=(Stage(4, 8, 400),), segments=16, rows=4,
)  # fmt: skip
SMOKE = Size(
    segment=32, base=merged(side.SMALL, {"num_layers": 2}),
    stages=(Stage(2, 2, 2),), segments=4, rows=2, characters=2_000,
)  # fmt: skip

PLACE: Tree = {"every": 2, "heads": 2}
"""Where memory stands: it has queries, keys and values of its own, and what they take of the
parameters the side without memory has in its feed-forward layers. In both layers and with all four
heads that is 1.7 times their width, more than memory is worth in so few steps."""
WINDOW: Tree = {"stm_window": 256, "stm_form": "attention"}
APART: Tree = {"stm_window": 256}
TIERS: Mapping[str, Sequence[Tree]] = {
    "none": (),
    "STM": (WINDOW,),
    "STM with heads of its own": (PLACE, APART),
    "recurrent": (PLACE, side.RECURRENT),
    "episodic": (PLACE, side.EPISODIC),
    "MTM": (PLACE, side.TASK),
    "all": (PLACE, WINDOW, side.RECURRENT, side.EPISODIC, side.TASK),
}


class Ran(NamedTuple):
    """One side with one seed; losses over the whole held-out part [nats a character]."""

    loss: float
    later: float
    """Of all segments but the first of a row."""
    cpu: float
    """Of training alone [seconds]."""


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    parser.add_argument(
        "--text", default=library_text.NAME, metavar="FILE",
        help=f"text to train on (default: {library_text.NAME})",
    )  # fmt: skip
    [stage] = WHOLE.stages
    parser.add_argument(
        "--steps", type=count, default=None, metavar="N",
        help=f"steps of training (default: {stage.steps})",
    )  # fmt: skip
    add_only(parser)


def file_name(flags: Namespace, study: str = "memory_text") -> str | None:
    """Name of the result file, which says what was measured; None for a part of the study."""
    other = "" if flags.text == library_text.NAME else f"-{Path(flags.text).stem}"
    steps = "" if flags.steps is None else f"-{flags.steps}"
    return whole_name(flags, f"{study}{other}{steps}")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: the text cannot be read, or no side has the word in its name.
    """
    yield from compared(flags, TIERS, judged=("all",))


def compared(
    flags: Namespace, tiers: Mapping[str, Sequence[Tree]], *, judged: Sequence[str], first: int = 0
) -> Iterator[list[Result]]:
    """`measure` of these sides, of which `none` has no memory and bars are on those `judged`.

    `first` is the first seed.
    """
    size = _size(flags)
    with text_file(flags.text) as path:
        train, held_out = tasks(size, read_characters(path))
    sides = memory_study.equal_sides(size.base, tiers, train)
    runs = memory_study.runs_of(flags, sides, train, smoke=("none", judged[-1]), plain="none")
    one = partial(trained, size, held_out)
    told = "{0.loss:.4f} nats".format
    for ran in each(runs, one, told, flags=flags, usual=SEEDS, first=first):
        yield results(ran, runs, judged=judged)


def _size(flags: Namespace) -> Size:
    size = SMOKE if flags.smoke else WHOLE
    if flags.steps is None:
        return size
    return size._replace(stages=[stage._replace(steps=flags.steps) for stage in size.stages])


def tasks(size: Size, text: CharacterText) -> tuple[Text, Text]:
    """What is trained on and what is held out."""
    train, held_out = (
        Text(part[: size.characters], text.vocab_size, segment=size.segment)
        for part in (text.train_N, text.held_out_N)
    )
    return train, held_out


def trained(size: Size, held_out: Text, name: str, run: Run, seed: int) -> Ran:
    """Trains and judges one side."""
    del name
    params, cpu = run.train(seed, size.stages)
    batches = held_out.whole(rows=size.rows, segments=size.segments)
    losses = run.losses(params, batches, segments=size.segments)
    return Ran(float(losses.mean()), float(losses[1:].mean()), cpu)


def results(
    ran: Mapping[str, Sequence[Ran]], runs: Mapping[str, Run], *, judged: Sequence[str]
) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, own in ran.items():
        later = [one.later for one in own]
        found += [
            Result.mean(f"{name}/loss", [one.loss for one in own], "nats"),
            Result.mean(f"{name}/loss behind the first segment", later, "nats"),
            *memory_study.costs(name, own, runs[name]),
        ]
        if name != "none" and ran.get("none"):
            bar: Bar | None = (">=", 0.0) if name in judged else None
            gap = min(one.loss for one in ran["none"]) - max(one.loss for one in own)
            found.append(Result(f"{name}/below every seed without memory", gap, "nats", bar=bar))
            pairs = zip(ran["none"], own, strict=False)
            gains = [without.loss - having.loss for without, having in pairs]
            found.append(Result.mean(f"{name}/below none with the same seed", gains, "nats"))
            least = f"{name}/below none with the same seed, least"
            found.append(Result(least, min(gains), "nats", bar=bar))
    return found
