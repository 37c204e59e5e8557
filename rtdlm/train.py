"""`python -m rtdlm.train`: trains a model on text, goes on from another one, or resumes.

python -m rtdlm.train --preset tiny --text shakespeare.txt --out runs/shakespeare --steps 500
"""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rtdlm.config import AGIConfig
from rtdlm.config.command_line import (
    add_config_flags,
    config_from_flags,
    config_on_model,
    fields_help,
    leave,
    make_parser,
    path,
    run,
    tell,
)

if TYPE_CHECKING:
    from rtdlm.training.source import Source

DESCRIPTION = """Trains a language model: on text, which is prepared first, or on prepared shards.

  python -m rtdlm.train --preset tiny --text book.txt --out runs/book --steps 500
  python -m rtdlm.train --config configs/tiny.yaml --text python-library --out runs/tiny
  python -m rtdlm.train --data-dir shards --set optimizer.name=adamw --out runs/adamw --epochs 2
  python -m rtdlm.train --from runs/book --text letters.txt --out runs/letters --steps 100 --lr 1e-3

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
        "--from", dest="folder", type=path, metavar="DIR",
        help="start a new run from the model in DIR, with its architecture and tokenizer: a run, "
        "its checkpoints or one of them, or a folder of a Hugging Face model",
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
    source = _source(flags)
    if source is None:
        config = config_from_flags(flags)
    else:
        config = config_on_model(flags, source.config, source.folder)
    if flags.dry_run:
        _describe(config, source, resume=flags.resume)
    else:
        _train(config, source, flags.out, resume=flags.resume, arguments=arguments)


def _source(flags: Namespace) -> "Source | None":
    if flags.folder is None:
        return None
    from rtdlm.training.source import find_source

    return find_source(flags.folder, out=flags.out, resume=flags.resume, notice=tell)


def _describe(config: AGIConfig, source: "Source | None", *, resume: bool) -> None:
    from rtdlm.training.describe import describe
    from rtdlm.training.memory_use import check_memory

    if not resume:
        check_memory(config, inherits=source is not None)
    print(describe(config, source=source))


def _train(
    config: AGIConfig,
    source: "Source | None",
    out: Path,
    *,
    resume: bool,
    arguments: Sequence[str],
) -> None:
    from rtdlm.training.run import train

    command = shlex.join(["python", "-m", "rtdlm.train", *arguments])
    train(config, out, resume=resume, command=command, source=source)


if __name__ == "__main__":
    leave(main())
