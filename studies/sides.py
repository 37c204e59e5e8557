"""What studies with sides share: the flag that chooses some, and every side with every seed."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from benchmarks.runner import tell
from rtdlm.config.errors import UserError
from rtdlm.parallel import keep_compiled_programs
from rtdlm.training.allocator import keep_freed_memory
from studies.journal import Journal

Side = TypeVar("Side")
Ran = TypeVar("Ran")


def add_only(parser: ArgumentParser) -> None:
    """Adds the flag that chooses sides."""
    parser.add_argument(
        "--only", default="", metavar="WORDS",
        help="sides with one of these words, joined by commas, in their name; a word that is a "
        "side's name stands for that side alone",
    )  # fmt: skip


def whole_name(flags: Namespace, name: str) -> str | None:
    """`name`, of the result file; None for a part of the study."""
    return None if flags.smoke or flags.only else name


def chosen(flags: Namespace, every: Mapping[str, Side], *, smoke: Sequence[str]) -> dict[str, Side]:
    """The sides that the user chose; of a smoke run, unless he did, those named `smoke`.

    Raises:
        UserError: no side has a word in its name.
    """
    if flags.smoke and not flags.only:
        return {name: side for name, side in every.items() if name in smoke}
    # A name may hold commas itself.
    is_one = any(flags.only in name for name in every)
    found: set[str] = set()
    for word in [flags.only] if is_one else flags.only.split(","):
        named = {word} if word in every else {name for name in every if word in name}
        if not named:
            raise UserError(
                f"no side has {word!r} in its name; --only takes a word of one of: "
                f"{'; '.join(every)}"
            )
        found |= named
    return {name: side for name, side in every.items() if name in found}


def each(
    runs: Mapping[str, Side],
    one: Callable[[str, Side, int], Ran],
    told: Callable[[Ran], str],
    *,
    flags: Namespace,
    usual: int,
    first: int = 0,
) -> Iterator[dict[str, list[Ran]]]:
    """All that ran so far, after every side and seed; what an earlier run did is not done again.

    Args:
        runs: by the side's name.
        one: trains and judges a side, given its name and a seed.
        told: what to print of it.
        flags: of the study.
        usual: number of seeds unless the user chose.
        first: of the seeds.
    """
    keep_freed_memory()
    keep_compiled_programs()
    journal = Journal(flags.journal)
    ran: dict[str, list[Ran]] = {name: [] for name in runs}
    for seed in range(first, first + (flags.seeds or (1 if flags.smoke else usual))):
        for name, run in runs.items():
            key = (name, seed)
            if key not in journal:
                journal.add(key, one(name, run, seed))
            ran[name].append(journal[key])
            tell(f"{name}, seed {seed}: {told(ran[name][-1])}")
            yield {name: done for name, done in ran.items() if done}


def shares_told(right: Mapping[int, float] | Mapping[str, float]) -> str:
    """Shares by test, for `each` to print."""
    return ", ".join(f"{test}: {share:.1%}" for test, share in right.items())
