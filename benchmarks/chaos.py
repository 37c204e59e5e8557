"""`python -m benchmarks chaos` (`make chaos`): faults in a run of two processes; what is lost?

One run of two processes over loopback, four devices, goes from fault to fault: killed at a random
moment, killed in the middle of a save, told to end, stalled, out of disk. After each, all processes
must be gone within a stated time, and what was told to be saved must be there. At the end its
losses and parameters must be bitwise those of a run that nobody disturbed. Beside it: damaged
files, a coordinator that is not there, and a restart on half of the processes.
"""

import random
import shutil
import signal
import time
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.faults.cluster import PROCESSES, SILENT_SECONDS, STEP_SECONDS, Cluster, End
from benchmarks.runner import Plan, scratch, tell
from rtdlm.checkpoint import newest_complete
from rtdlm.checkpoint.store import WRITING
from rtdlm.config.command_line import UNFINISHED, USER_MISTAKE
from rtdlm.evaluation.results import Bar, Result

DESCRIPTION = "faults in a run of two processes: what is lost, and how long until all have ended"
REPEATS = 1
STEPS, SMOKE_STEPS = 800, 24
EXIT_SECONDS = SILENT_SECONDS + 5.0
"""From the death of one process to the end of all."""
STALL_SECONDS = STEP_SECONDS + SILENT_SECONDS + 5.0
START_SECONDS = 3.0
STALLED = "rows"
"""The function that `benchmarks.faults.child` makes wait, as a stack names it."""
SMALL_DISK = 60_000
"""Less than one process's part of the moments [bytes]."""
MOST_DIFFERENCE = 1e-6
COUNTS = {
    "kill -9 of one process": 60,
    "kill -9 during a save": 35,
    "SIGTERM to one process": 15,
    "a loader that stalls": 6,
    "a disk that is full": 12,
    "a truncated or flipped file": 60,
    "no coordinator": 6,
    "restart on half of the processes": 6,
}
DISTURBING = tuple(COUNTS)[:5]
SIGTERM, FULL_DISK = "SIGTERM to one process", "a disk that is full"
BETWEEN = ("a truncated or flipped file", "restart on half of the processes")
"""Tried on copies of the run, between its sessions."""


class Outcome(NamedTuple):
    """What came of one fault."""

    lost: float
    """Steps that were told to be saved and are not there [steps]."""
    seconds: float
    """From the fault to the end of all processes [seconds]."""
    wrong: bool
    """They ended otherwise than they should, or not by themselves."""


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this benchmark takes."""
    parser.add_argument("--seed", type=int, default=0, help="of kinds and moments (default: 0)")
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", default=[""],
        help="kinds of faults whose names contain one of these (default: all)",
    )  # fmt: skip


def measure(plan: Plan, flags: Namespace) -> list[Result]:
    """Outcomes by kind, and the comparison with the undisturbed run."""
    chosen = [kind for kind in COUNTS if any(text in kind for text in flags.only)]
    counts = {kind: (1 if plan.smoke else COUNTS[kind]) * (kind in chosen) for kind in COUNTS}
    steps = SMOKE_STEPS if plan.smoke else STEPS
    with scratch() as directory:
        work = Path(directory)
        text = _text(work / "text")
        whole = Cluster(work, text, steps=steps, name="whole")
        tell(f"the undisturbed run, {steps} steps")
        whole.start()
        _require_complete(whole, whole.wait(limit=600))
        disturbed = Cluster(work, text, steps=steps, name="disturbed")
        found = _disturb(disturbed, whole, counts, random.Random(flags.seed), steps, work)
        tell("the rest of the disturbed run")
        disturbed.start()
        _require_complete(disturbed, disturbed.wait(limit=600))
        differing = _differing(whole, disturbed, steps)
        found["no coordinator"] = [
            _no_coordinator(Cluster(work, text, steps=steps, name=f"alone-{number}"))
            for number in range(counts["no coordinator"])
        ]
    return [*_results(found), *_totals(found, differing)]


def _disturb(
    run: Cluster,
    whole: Cluster,
    counts: dict[str, int],
    moments: random.Random,
    steps: int,
    work: Path,
) -> dict[str, list[Outcome]]:
    kinds = [kind for kind in DISTURBING for _ in range(counts[kind])]
    # A session must come to save something, and one without a disk does not.
    if not any(counts[kind] for kind in DISTURBING if kind != FULL_DISK):
        kinds += [SIGTERM] * max(counts[kind] for kind in BETWEEN)
    moments.shuffle(kinds)
    between = dict(zip(BETWEEN, (_damage(moments), _half(whole)), strict=True))
    found: dict[str, list[Outcome]] = defaultdict(list)
    for turn, kind in enumerate(kinds):
        target = max(1, steps * (turn + 1) // (len(kinds) + 4))
        outcome = FAULTS[kind](run, target, moments)
        tell(f"{kind}, {turn + 1}/{len(kinds)}: {outcome}")
        found[kind].append(outcome)
        for other, act in between.items():
            due = counts[other] * (turn + 1) // len(kinds) - len(found[other])
            # Two checkpoints must be there: one to damage and one to fall back on.
            for _ in range(due if _committed(run) > 4 else 0):
                copy = work / "copy"
                shutil.copytree(run.out, copy / run.out.name)
                found[other].append(act(run, copy))
                shutil.rmtree(copy)
    return found


def _kill(run: Cluster, target: int, moments: random.Random) -> Outcome:
    run.start()
    run.reach(target)
    time.sleep(moments.uniform(0, 0.03))
    return _killed(run, moments)


def _kill_in_save(run: Cluster, target: int, moments: random.Random) -> Outcome:
    run.start()
    run.reach(target)
    checkpoints, deadline = run.out / "checkpoints", time.monotonic() + 60
    while run.alive() and not any(checkpoints.glob(f"{WRITING}*")):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no save began: {run.said()[-3000:]}")
        time.sleep(0.0005)
    time.sleep(moments.uniform(0, 0.006))
    return _killed(run, moments)


def _killed(run: Cluster, moments: random.Random) -> Outcome:
    if not run.alive():
        raise RuntimeError(f"the run ended before its fault: {run.said()[-3000:]}")
    victim = moments.randrange(PROCESSES)
    run.signal(victim, signal.SIGKILL)
    end = run.wait(limit=EXIT_SECONDS)
    others = [status for number, status in enumerate(end.statuses) if number != victim]
    return _outcome(run, end, any(s in (0, USER_MISTAKE, UNFINISHED) for s in others))


def _terminate(run: Cluster, target: int, moments: random.Random) -> Outcome:
    run.start()
    run.reach(target)
    run.signal(moments.randrange(PROCESSES), signal.SIGTERM)
    end = run.wait(limit=EXIT_SECONDS)
    # Not one step is lost, saved before or not.
    missed = run.last_step() - _committed(run)
    return _outcome(run, end, set(end.statuses) != {UNFINISHED} or missed != 0)


def _stall(run: Cluster, target: int, moments: random.Random) -> Outcome:
    at = max(target, _committed(run) + 1)
    run.start(faults={moments.randrange(PROCESSES): {"stall_at": at}})
    run.reach(at)
    end = run.wait(limit=STALL_SECONDS)
    # Every thread's stack, that of the one that reads rows too.
    told = all(part in run.said() for part in ("Timeout (", "Thread 0x", f" in {STALLED}\n"))
    wrong = any(s in (0, USER_MISTAKE, UNFINISHED) for s in end.statuses)
    return _outcome(run, end, wrong or not told)


def _full_disk(run: Cluster, target: int, moments: random.Random) -> Outcome:
    del target  # the first save of the session fails
    run.start(faults={moments.randrange(PROCESSES): {"file_bytes": SMALL_DISK}})
    while run.alive():
        time.sleep(0.01)
    end = run.wait(limit=EXIT_SECONDS)
    said = "could not be written" in run.said()
    return _outcome(run, end, not said or any(s in (0, USER_MISTAKE) for s in end.statuses))


FAULTS: dict[str, Callable[[Cluster, int, random.Random], Outcome]] = dict(
    zip(DISTURBING, (_kill, _kill_in_save, _terminate, _stall, _full_disk), strict=True)
)


def _damage(moments: random.Random) -> Callable[[Cluster, Path], Outcome]:
    """Truncates a random file of the newest checkpoint, or turns one of its bits."""

    def act(run: Cluster, copy: Path) -> Outcome:
        checkpoints = copy / run.out.name / "checkpoints"
        found = newest_complete(checkpoints).snapshot
        assert found is not None
        victim = moments.choice(sorted((checkpoints / f"step_{found.step:08d}").iterdir()))
        data = bytearray(victim.read_bytes())
        place = moments.randrange(len(data))
        if moments.random() < 0.5:
            del data[place:]
        else:
            data[place] ^= 1 << moments.randrange(8)
        victim.write_bytes(data)
        after = newest_complete(checkpoints)
        named = after.snapshot is not None and found.step in after.passed_over
        return Outcome(0.0, 0.0, not named)

    return act


def _half(whole: Cluster) -> Callable[[Cluster, Path], Outcome]:
    """Goes on with one process of all devices, and compares a few losses."""

    def act(run: Cluster, copy: Path) -> Outcome:
        half = Cluster(copy, run.text, steps=run.steps, name=run.out.name)
        half.share_cache(run)
        before = _committed(half)
        half.start(processes=1)
        half.reach(before + 4)
        half.signal(0, signal.SIGTERM)
        end = half.wait(limit=EXIT_SECONDS)
        ours, theirs = half.losses(), whole.losses()
        steps = [step for step in ours if before < step <= before + 4]
        far = max((abs(ours[s] / theirs[s] - 1) for s in steps), default=1.0)
        # It may have come to the end of the run before the signal.
        outcome = _outcome(half, end, not set(end.statuses) <= {UNFINISHED, 0})
        return outcome._replace(wrong=outcome.wrong or far > MOST_DIFFERENCE)

    return act


def _no_coordinator(run: Cluster) -> Outcome:
    run.start(only=(1,), start_seconds=START_SECONDS)
    end = run.wait(limit=START_SECONDS + EXIT_SECONDS)
    said = "found no coordinator" in run.said()
    wrong = end.hung or end.statuses != (USER_MISTAKE,) or not said or run.out.exists()
    return Outcome(0.0, end.seconds, wrong)


def _outcome(run: Cluster, end: End, wrong: bool) -> Outcome:
    told = max((e["step"] for e in run.events() if e["kind"] == "checkpoint"), default=0)
    return Outcome(max(0, told - _committed(run)), end.seconds, wrong or end.hung)


def _committed(run: Cluster) -> int:
    """Step of the newest checkpoint of which every byte is right."""
    found = newest_complete(run.out / "checkpoints").snapshot
    return 0 if found is None else found.step


def _differing(whole: Cluster, disturbed: Cluster, steps: int) -> int:
    """Losses and parameters that are not bitwise those of the undisturbed run."""
    ours, theirs = disturbed.losses(), whole.losses()
    differing = sum(ours.get(step) != theirs[step] for step in range(1, steps + 1))
    both = [newest_complete(run.out / "checkpoints").snapshot for run in (disturbed, whole)]
    assert both[0] is not None and both[1] is not None
    for mine, other in ((both[0].params, both[1].params), (both[0].optimizer, both[1].optimizer)):
        differing += sum(
            np.asarray(mine[name]).tobytes() != np.asarray(array).tobytes()
            for name, array in other.items()
        )
    return differing


def _results(found: dict[str, list[Outcome]]) -> list[Result]:
    results = []
    for kind in COUNTS:
        outcomes, limit = found[kind], EXIT_SECONDS
        if not outcomes:
            continue
        if kind == "a loader that stalls":
            limit = STALL_SECONDS
        elif kind == "no coordinator":
            limit = START_SECONDS + EXIT_SECONDS
        number = len(outcomes)
        least: Bar = ("<=", 0)
        results += [
            Result(f"{kind}/injected", number, "", n=1),
            Result(f"{kind}/steps lost", max((o.lost for o in outcomes), default=0), "", least),
            Result(f"{kind}/wrong ends", sum(o.wrong for o in outcomes), "", least),
        ]
        if kind != "a truncated or flipped file":
            seconds = max((o.seconds for o in outcomes), default=0.0)
            results.append(Result(f"{kind}/slowest end", seconds, "s", ("<=", limit)))
    return results


def _totals(found: dict[str, list[Outcome]], differing: int) -> list[Result]:
    smoke = sum(map(len, found.values())) < sum(COUNTS.values())
    total: Bar | None = None if smoke else (">=", 200)
    return [
        Result("all/injected", sum(map(len, found.values())), "", total),
        Result("all/losses and arrays that differ at the end", differing, "", ("<=", 0)),
    ]


def _require_complete(run: Cluster, end: End) -> None:
    if end.hung or set(end.statuses) != {0}:
        raise RuntimeError(f"{run.out.name} ended with {end}: {run.said()[-3000:]}")


def _text(directory: Path) -> Path:
    """Forty documents of numbered sentences."""
    directory.mkdir()
    for number in range(40):
        lines = [f"Line {line} of document {number} is {line * number}." for line in range(60)]
        (directory / f"{number:02}.txt").write_text("\n".join(lines), encoding="utf-8")
    return directory
