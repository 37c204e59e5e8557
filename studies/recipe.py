"""`python -m studies recipe`: what each ingredient of the training recipe is worth.

One thing of the base recipe is removed, added or replaced at a time. Every variant gets the CPU
time of the base's run: its step is timed beside the base's, and it is trained for as many steps as
that time pays for, its learning-rate decay planned for that many. Told are the loss over the whole
held-out part and its difference to the base's, paired by seed. A difference above twice its
standard error decides; the standard error is at least the median one of the study, since three
seeds alone tell it badly.
"""

import os
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING

from benchmarks.runner import cores, tell
from benchmarks.text import DEFAULT_TEXT, read_characters
from rtdlm.config.errors import UserError
from rtdlm.evaluation.results import Result
from studies import library_text
from studies.variants import SIZES, Size, Variant, merged, variants

if TYPE_CHECKING:
    from studies.recipe_side import Answer

DESCRIPTION = "each ingredient of the training recipe at equal CPU time"
SEEDS = 3
BASE = "base"


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    sizes = [name for name in SIZES if name != "smoke"]
    parser.add_argument(
        "--size", choices=sizes, default="small",
        help="of the model (default: small; medium looks at the more important changes only, "
        "tiny is the preset as it was, on byte-pair tokens, preset is it now, trained longer)",
    )  # fmt: skip
    parser.add_argument(
        "--text", metavar="FILE",
        help=f"text to train on, or {library_text.NAME} (default: tinyshakespeare.txt in "
        f"../shared/data, for tiny and preset {library_text.NAME}); with another than the "
        "default, the more important changes only",
    )  # fmt: skip
    parser.add_argument(
        "--only", default="", metavar="WORD", help="changes with this in their name",
    )  # fmt: skip


def file_name(flags: Namespace) -> str | None:
    """Name of the result file, which says what was measured; None for a part of the study."""
    if flags.smoke or flags.only:
        return None
    other = "" if _is_default(flags) else f"-{Path(flags.text).stem}"
    return f"recipe-{flags.size}{other}"


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every change.

    Raises:
        UserError: the text cannot be read, or no change has the word in its name.
    """
    size = SIZES["smoke" if flags.smoke else flags.size]
    chosen = list(_chosen(flags, size))
    with text_file(flags.text or _default_text(flags)) as text:
        yield from compared(chosen, size, text, flags)


def compared(
    chosen: Sequence[Variant], size: Size, text: Path, flags: Namespace
) -> Iterator[list[Result]]:
    """The results so far of the base and of every change of it in `chosen`."""
    if not flags.smoke:
        _keep_to_one_core()
    seeds = list(range(flags.seeds or (1 if flags.smoke else SEEDS)))
    from studies.recipe_side import Bench  # JAX reads how many cores there are

    tell(f"{len(chosen)} changes, {len(seeds)} seeds each, one core")
    bench = Bench(text, size, seeds=seeds)
    base, answers = bench.base(), {}
    for number, variant in enumerate(chosen, start=1):
        answers[variant.name] = bench.variant(merged(size.config, variant.change))
        tell(f"{number}/{len(chosen)} {variant.name}: {_brief(answers[variant.name], base)}")
        yield results(base, answers)


def results(base: "Answer", answers: Mapping[str, "Answer"]) -> list[Result]:
    """Everything that is told of the base and of every change, the best first."""
    errors = {name: standard_error(differences(it, base)) for name, it in answers.items()}
    least = median(errors.values())
    found = _described(BASE, base)
    for name in sorted(answers, key=lambda name: mean(differences(answers[name], base))):
        answer, apart = answers[name], differences(answers[name], base)
        twice = 2 * max(errors[name], least)
        case = f"{name} ({verdict(mean(apart), twice)})"
        found += _described(case, answer)
        found.append(Result.mean(f"{case}/difference", apart, "nats"))
        found.append(Result(f"{case}/twice its standard error", twice, "nats", n=len(apart)))
    return found


def differences(answer: "Answer", base: "Answer") -> list[float]:
    """Loss above the base's, seed by seed [nats]."""
    return [own - other for own, other in zip(answer.losses, base.losses, strict=True)]


def standard_error(samples: Sequence[float]) -> float:
    """Of the mean; 0 with one sample."""
    return stdev(samples) / len(samples) ** 0.5 if len(samples) > 1 else 0.0


def verdict(difference: float, twice: float) -> str:
    """What a difference of losses says of the change."""
    if abs(difference) <= twice:
        return "not decided"
    return "better" if difference < 0 else "worse"


def _chosen(flags: Namespace, size: Size) -> Iterator[Variant]:
    """The changes to look at, in order of importance."""
    everything = flags.smoke or (flags.size != "medium" and _is_default(flags))
    named = named_with(flags.only, variants(size))
    looked_at = [v for v in named if everything or flags.only or v.widely]
    yield from sorted(looked_at, key=lambda variant: not variant.widely)


def named_with(word: str, among: Iterable[Variant]) -> list[Variant]:
    """The variants with `word` in their name; raises UserError if there is none."""
    everything = list(among)
    named = [variant for variant in everything if word in variant.name]
    if not named:
        raise UserError(
            f"no change has {word!r} in its name; --only takes a word such as "
            f"{everything[0].name.split(':')[0]!r}"
        )
    return named


def _keep_to_one_core() -> None:
    """CPU time then is that of one thread."""
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        os.sched_setaffinity(0, cores()[-1:])


@contextmanager
def text_file(named: str) -> Iterator[Path]:
    """The file with the text, checked."""
    if named != library_text.NAME:
        path = Path(named).resolve()
        read_characters(path)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rtdlm-study-") as directory:
        path = Path(directory) / "library.txt"
        path.write_text(library_text.library_text(), encoding="utf-8")
        yield path


def _default_text(flags: Namespace) -> str:
    return library_text.NAME if SIZES[flags.size].words and not flags.smoke else str(DEFAULT_TEXT)


def _is_default(flags: Namespace) -> bool:
    default = _default_text(flags)
    return flags.text in (None, default) or Path(flags.text).resolve() == Path(default).resolve()


def _described(case: str, answer: "Answer") -> list[Result]:
    cost = Result.median(f"{case}/CPU of a step over the base's", answer.relative_costs, "x")
    return [
        Result.mean(f"{case}/loss", answer.losses, "nats"),
        Result(f"{case}/steps", float(answer.steps), ""),
        cost,
        Result.mean(f"{case}/CPU", answer.cpu_seconds, "s"),
        Result(f"{case}/parameters", float(answer.parameters), ""),
    ]


def _brief(answer: "Answer", base: "Answer") -> str:
    return (
        f"{mean(answer.losses):.4f} ({mean(differences(answer, base)):+.4f}), "
        f"{answer.steps} steps at {median(answer.relative_costs):.2f}x"
    )
