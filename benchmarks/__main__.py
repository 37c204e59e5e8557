"""`python -m benchmarks`: lists the benchmarks; with a name, measures one, writes its results."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.command import count, find, listing, make_parser
from benchmarks.runner import Plan, cores, print_results, tell
from benchmarks.tables import update_tables
from rtdlm.config.command_line import leave, run
from rtdlm.config.errors import UserError
from rtdlm.evaluation.results import (
    add_results,
    render_bars,
    require_same_machine,
    stamped,
    write_results,
)

USAGE = """Times RT-DLM side by side with what people would use instead.

  python -m benchmarks                     what there is
  python -m benchmarks step                measures, prints, writes benchmarks/results/step.json
  python -m benchmarks step --help         its options
  python -m benchmarks step --smoke        tiny sizes, in seconds; writes nothing
  python -m benchmarks all                 every one of them
  python -m benchmarks tables              fills the tables of docs/ from the result files
"""
BENCHMARKS = {
    "attention": "benchmarks.attention",
    "sparse": "benchmarks.sparse",
    "ladder": "benchmarks.ladder",
    "step": "benchmarks.step",
    "profile": "benchmarks.profile",
    "time-to-loss": "benchmarks.time_to_loss",
    "decode": "benchmarks.decode",
    "speculative": "benchmarks.speculative",
    "start": "benchmarks.start",
    "core": "benchmarks.core",
    "chaos": "benchmarks.chaos",
    "quantum": "benchmarks.quantum",
    "quantum-overhead": "benchmarks.quantum_overhead",
    "scaling": "benchmarks.scaling",
}
"""Name -> a module with DESCRIPTION, REPEATS, `add_flags(parser)` and `measure(plan, flags)`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and measures; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    match arguments:
        case [] | ["-h" | "--help"]:
            print(listing(USAGE, BENCHMARKS))
        case ["tables"]:
            for path in update_tables(ROOT):
                print(f"{path.relative_to(ROOT)} is up to date")
        case ["all", *rest]:
            for name in BENCHMARKS:
                _measure(name, rest)
        case [name, *rest]:
            _measure(name, rest)


def _measure(name: str, arguments: Sequence[str]) -> None:
    module = find("benchmark", name, BENCHMARKS)
    flags = _parse(name, module, arguments)
    out = flags.out or (None if flags.smoke else ROOT / "benchmarks" / "results" / f"{name}.json")
    adds = _adds(flags, out)
    command = shlex.join(["python", "-m", "benchmarks", name, *arguments])
    results = stamped(module.measure(_plan(module, flags), flags), command=command, root=ROOT)
    print_results(results)
    if bars := render_bars(results):
        print(bars)
    if out is not None:
        (add_results if adds else write_results)(out, results)
        tell(f"written to {out}")


def _adds(flags: Namespace, out: Path | None) -> bool:
    """Whether the rest of the result file stays, where a benchmark can measure a part of its rows.

    Raises:
        UserError: that cannot be, or a part would replace the whole.
    """
    if not hasattr(flags, "add"):
        return False
    if flags.add and out is None:
        raise UserError("--add has no effect with --smoke, which writes nothing; give --out too")
    if flags.add and out is not None:
        require_same_machine(out)  # says now what it would say after an hour
    if flags.only and not (flags.add or flags.out or flags.smoke):
        raise UserError(
            f"--only {flags.only!r} is a part and would replace all of {out}; give --add to keep "
            "the other rows there, or --out to write elsewhere"
        )
    return bool(flags.add)


def _parse(name: str, module: Any, arguments: Sequence[str]) -> Namespace:
    out = f"default: benchmarks/results/{name}.json; none with --smoke"
    parser = make_parser(f"python -m benchmarks {name}", module, out=out)
    parser.add_argument(
        "--repeats", type=count, metavar="N",
        help=f"child processes (or seeds) a side (default: {module.REPEATS}; 1 with --smoke)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=count, nargs="+", metavar="N",
        help="cores a side is given, where the benchmark can choose (default: 1 and all)",
    )  # fmt: skip
    module.add_flags(parser)
    return parser.parse_args(arguments)


def _plan(module: Any, flags: Namespace) -> Plan:
    available = len(cores())
    threads = flags.threads or ([1] if flags.smoke else sorted({1, available}))
    if max(threads) > available:
        raise UserError(
            f"--threads {max(threads)} is more than the {available} cores that this process may "
            "use; ask for fewer"
        )
    return Plan(
        flags.smoke, flags.repeats or (1 if flags.smoke else module.REPEATS), tuple(threads)
    )


if __name__ == "__main__":
    leave(main())
