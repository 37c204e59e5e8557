"""`python -m studies`: lists the studies; with a name, runs one, writes its results."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.command import count, find, listing, make_parser
from benchmarks.runner import print_results, tell
from rtdlm.config.command_line import leave, run
from rtdlm.evaluation.results import Result, stamped, write_results

USAGE = """Measures what each ingredient is worth.

  python -m studies                       what there is
  python -m studies recipe                runs, prints, writes studies/results/recipe-small.json
  python -m studies recipe --help         its options
  python -m studies recipe --smoke        tiny sizes; writes nothing
  python -m benchmarks tables             fills the tables of docs/ from the result files
"""
STUDIES = {
    "recipe": "studies.recipe",
    "kinds": "studies.kinds",
    "needle": "studies.needle",
    "memory_facts": "studies.memory_facts",
    "formats": "studies.formats",
    "quantize": "studies.quantize",
    "memory_forgetting": "studies.memory_forgetting",
    "memory_recall": "studies.memory_recall",
    "memory_rule": "studies.memory_rule",
    "memory_passkey": "studies.memory_passkey",
    "memory_text": "studies.memory_text",
    "memory_heads": "studies.memory_heads",
    "memory_carried": "studies.memory_carried",
    "memory_forms": "studies.memory_forms",
    "memory_turns": "studies.memory_turns",
    "graph_hops": "studies.graph_hops",
    "graph_reach": "studies.graph_reach",
    "graph_text": "studies.graph_text",
    "controller_text": "studies.controller_text",
    "controller_modules": "studies.controller_modules",
    "controller_calls": "studies.controller_calls",
    "controller": "studies.controller_tasks",
    "quantum_digits": "studies.quantum_digits",
    "quantum_text": "studies.quantum_text",
    "quantum_ising": "studies.quantum_ising",
}
"""Name -> a module with DESCRIPTION, SEEDS, `add_flags(parser)`, `file_name(flags)`, which is None
where nothing is written unasked, and `measure(flags)`, which yields all results so far, growing;
`flags.journal` is a file for what it may go on from (see `studies.journal`), or None."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and runs the study; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    match arguments:
        case [] | ["-h" | "--help"]:
            print(listing(USAGE, STUDIES))
        case [name, *rest]:
            _study(name, rest)


def _study(name: str, arguments: Sequence[str]) -> None:
    module = find("study", name, STUDIES)
    flags = _parse(name, module, arguments)
    out = flags.out or _place(module.file_name(flags))
    command = shlex.join(["python", "-m", "studies", name, *arguments])
    flags.journal = None if out is None else out.with_suffix(".journal")
    results: list[Result] = []
    for found in module.measure(flags):
        results = stamped(found, command=command, root=ROOT)
        if out is not None:
            write_results(_partial(out), results)
    print_results(results)
    if out is not None:
        _partial(out).replace(out)
        flags.journal.unlink(missing_ok=True)
        tell(f"written to {out}")


def _place(name: str | None) -> Path | None:
    return None if name is None else ROOT / "studies" / "results" / f"{name}.json"


def _partial(out: Path) -> Path:
    """Where results are while more are to come, so that a long study may be looked at."""
    return out.with_suffix(".partial")


def _parse(name: str, module: Any, arguments: Sequence[str]) -> Namespace:
    out = "default: below studies/results; nowhere if smaller than usual"
    parser = make_parser(f"python -m studies {name}", module, out=out)
    parser.add_argument(
        "--seeds", type=count, metavar="N",
        help=f"runs of each variant (default: {module.SEEDS}; 1 with --smoke)",
    )  # fmt: skip
    module.add_flags(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    leave(main())
