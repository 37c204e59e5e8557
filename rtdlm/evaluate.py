"""`python -m rtdlm.evaluate`: measures a checkpoint on held-out text.

python -m rtdlm.evaluate --checkpoint runs/tiny
"""

import json
import sys
from collections.abc import Sequence

from rtdlm.config.command_line import (
    add_checkpoint_flag,
    add_strategy_flag,
    leave,
    make_parser,
    run,
    tell,
)
from rtdlm.config.effect import require

DESCRIPTION = """Measures a checkpoint on held-out text: loss, perplexity, accuracy, bits a byte and
the gradient of every layer.

  python -m rtdlm.evaluate --checkpoint runs/tiny
  python -m rtdlm.evaluate --checkpoint runs/tiny --data-dir other_shards --json"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and evaluates; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    parser = make_parser("evaluate", DESCRIPTION)
    add_checkpoint_flag(parser)
    parser.add_argument(
        "--data-dir", nargs="+", metavar="DIR",
        help="shards to evaluate on (default: those of the run)",
    )  # fmt: skip
    parser.add_argument(
        "--batches", type=int, default=0, metavar="N",
        help="held-out batches, spread evenly; 0 is all held-out text (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--quantize", choices=("int8", "int4", "nf4"),
        help="round the weights to few bits first; see scripts/quantize_model.py",
    )  # fmt: skip
    add_strategy_flag(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args(arguments)
    require(flags.batches >= 0, f"--batches {flags.batches} must not be negative; 0 is all")
    from rtdlm.evaluation import measure, render

    report = measure(
        flags.checkpoint,
        data=flags.data_dir,
        num_batches=flags.batches,
        quantize=flags.quantize,
        strategy=flags.strategy,
        notice=tell,
    )
    print(json.dumps(report) if flags.json else render(report))


if __name__ == "__main__":
    leave(main())
