"""`python -m studies memory_text`: what each tier of memory is worth on long real text.

Characters in rows of segments, to which attention is confined; without memory each segment starts
with nothing. A side is a tier; all have the same number of parameters and are trained on the same
characters, and judged by the whole held-out part in rows twice as long. Told is the loss, that of
the segments behind the first, which alone have something to remember, and by how much the worst
seed of a side is below the best one without memory: above 0 is beyond the spread of the seeds.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.runner import tell
from benchmarks.text import CharacterText, read_characters
from rtdlm.evaluation.results import Bar, Result
from rtdlm.parallel import keep_compiled_programs
from rtdlm.training.allocator import keep_freed_memory
from studies import library_text
from studies import memory_side as side
from studies.memory_side import Run, Stage
from studies.memory_tasks import Text
from studies.recipe import named_with, text_file
from studies.variants import Tree, Variant, merged

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


WHOLE = Size(
    segment=256,
    base=merged(side.BASE, {"d_model": 128, "num_layers": 2, "num_heads": 4, "d_ff": 352}),
    stages=(Stage(8, 4, 400),), segments=16, rows=4,
)  # fmt: skip
SMOKE = Size(
    segment=32, base=side.SMALL,
    stages=(Stage(2, 2, 2),), segments=4, rows=2,
)  # fmt: skip

WINDOW: Tree = {"stm_window": 256}
TIERS: Mapping[str, Sequence[Tree]] = {
    "none": (),
    "STM": (WINDOW,),
    "recurrent": (side.RECURRENT,),
    "episodic": (side.EPISODIC,),
    "MTM": (side.TASK,),
    "all": (WINDOW, side.RECURRENT, side.EPISODIC, side.TASK),
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
    parser.add_argument(
        "--only", default="", metavar="WORD", help="sides with this in their name",
    )  # fmt: skip


def file_name(flags: Namespace) -> str | None:
    """Name of the result file, which says what was measured; None for a part of the study."""
    if flags.smoke or flags.only:
        return None
    other = "" if flags.text == library_text.NAME else f"-{Path(flags.text).stem}"
    return f"memory_text{other}"


def sides(size: Size, task: Text) -> dict[str, Tree]:
    """Each side's configuration, all of the same number of parameters."""
    every = {name: side.with_memory(size.base, *tiers) for name, tiers in TIERS.items()}
    return side.matched(every, task)


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: the text cannot be read, or no side has the word in its name.
    """
    keep_freed_memory()
    keep_compiled_programs()
    size = SMOKE if flags.smoke else WHOLE
    seeds = flags.seeds or (1 if flags.smoke else SEEDS)
    with text_file(flags.text) as path:
        train, held_out = tasks(size, read_characters(path))
    every = (Variant(name, tree) for name, tree in sides(size, train).items())
    chosen = named_with(flags.only, every)
    runs = {variant.name: Run(variant.change, train) for variant in chosen}
    ran: dict[str, list[Ran]] = {name: [] for name in runs}
    parameters = {name: run.parameters for name, run in runs.items()}
    for seed in range(seeds):
        for name, run in runs.items():
            ran[name].append(one(run, held_out, size, seed))
            tell(f"{name}, seed {seed}: {ran[name][-1].loss:.4f} nats a character")
            yield results(ran, parameters=parameters)


def tasks(size: Size, text: CharacterText) -> tuple[Text, Text]:
    """What is trained on and what is held out."""
    train, held_out = (
        Text(part, text.vocab_size, segment=size.segment)
        for part in (text.train_N, text.held_out_N)
    )
    return train, held_out


def one(run: Run, held_out: Text, size: Size, seed: int) -> Ran:
    """Trains and judges one side."""
    params, cpu = run.train(seed, size.stages)
    batches = held_out.whole(rows=size.rows, segments=size.segments)
    losses = run.losses(params, batches, segments=size.segments)
    return Ran(float(losses.mean()), float(losses[1:].mean()), cpu)


def results(ran: Mapping[str, Sequence[Ran]], *, parameters: Mapping[str, int]) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, runs in ran.items():
        if not runs:
            continue
        found += [
            Result.mean(f"{name}/loss", [run.loss for run in runs], "nats"),
            Result.mean(
                f"{name}/loss behind the first segment", [run.later for run in runs], "nats"
            ),
            Result.mean(f"{name}/CPU of training", [run.cpu for run in runs], "s"),
            Result(f"{name}/parameters", float(parameters[name]), ""),
        ]
        if name != "none" and ran.get("none"):
            gap = min(run.loss for run in ran["none"]) - max(run.loss for run in runs)
            bar: Bar | None = (">=", 0.0) if name == "all" else None
            found.append(Result(f"{name}/below every seed without memory", gap, "nats", bar=bar))
    return found
