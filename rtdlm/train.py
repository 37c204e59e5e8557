"""`python -m rtdlm.train`: trains a model on text, or resumes.

python -m rtdlm.train --preset tiny --text shakespeare.txt --out runs/shakespeare --steps 500
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rtdlm.config import AGIConfig
from rtdlm.config.command_line import (
    add_config_flags,
    config_from_flags,
    fields_help,
    leave,
    make_parser,
    path,
    run,
)

DESCRIPTION = """Trains a language model: on text, which is prepared first, or on prepared shards.

  python -m rtdlm.train --preset tiny --text book.txt --out runs/book --steps 500
  python -m rtdlm.train --config configs/tiny.yaml --text python-library --out runs/tiny
  python -m rtdlm.train --data-dir shards --set optimizer.name=adamw --out runs/adamw --epochs 2

OUT receives checkpoints, metrics.jsonl, curves.png and report.md."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and trains; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    parser = make_parser("train", DESCRIPTION, epilog=fields_help())
    add_config_flags(parser)
    parser.add_argument(
        "--out", type=path, default=Path("runs/latest"), metavar="DIR",
        help="output directory, one run each (default: runs/latest)",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true",
        help="go on from the newest complete checkpoint in OUT, if there is one",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="print the resolved config, parameter counts and memory, and stop",
    )  # fmt: skip
    flags = parser.parse_args(arguments)
    config = config_from_flags(flags)
    if flags.dry_run:
        _describe(config)
    else:
        _train(config, flags.out, resume=flags.resume, arguments=arguments)


def _describe(config: AGIConfig) -> None:
    from rtdlm.training.describe import describe

    print(describe(config))


def _train(config: AGIConfig, out: Path, *, resume: bool, arguments: Sequence[str]) -> None:
    from rtdlm.training.run import train

    command = shlex.join(["python", "-m", "rtdlm.train", *arguments])
    train(config, out, resume=resume, command=command)


if __name__ == "__main__":
    leave(main())
