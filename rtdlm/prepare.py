"""`python -m rtdlm.prepare`: turns text into checksummed shards of tokens.

python -m rtdlm.prepare --text books/ notes.jsonl --out shards --tokenizer bpe
"""

import sys
from collections.abc import Sequence

from rtdlm.config import DataConfig
from rtdlm.config.command_line import leave, make_parser, path, run
from rtdlm.config.fields import field_docs

DESCRIPTION = """Turns text into a directory of shards that `rtdlm.train --data-dir` reads.

  python -m rtdlm.prepare --text books/ notes.jsonl --out shards --tokenizer bpe
  python -m rtdlm.prepare --text python-library --out shards --tokenizer byte

A second call goes on where the first was interrupted, or returns at once if it had finished."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and prepares; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    docs = {doc.name: doc.doc for doc in field_docs()}
    parser = make_parser("prepare", DESCRIPTION)
    parser.add_argument("--text", nargs="+", required=True, metavar="PATH", help=docs["data.text"])
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="made if absent")
    parser.add_argument(
        "--tokenizer", default=DataConfig.tokenizer, metavar="KIND",
        help=docs["data.tokenizer"] + " (default: bpe)",
    )  # fmt: skip
    parser.add_argument(
        "--vocab-size", type=int, default=8192, metavar="N",
        help="most ids that the tokenizer may have [tokens] (default: 8192)",
    )  # fmt: skip
    parser.add_argument(
        "--held-out-fraction", type=float, default=DataConfig.held_out_fraction, metavar="SHARE",
        help=docs["data.held_out_fraction"] + f" (default: {DataConfig.held_out_fraction})",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S",
        help="salt of the split: another seed holds other text out (default: 0)",
    )  # fmt: skip
    flags = parser.parse_args(arguments)
    from rtdlm.data import prepare
    from rtdlm.monitoring import PrepareBar

    with PrepareBar() as bar:
        manifest = prepare(
            flags.text,
            flags.out,
            tokenizer=flags.tokenizer,
            vocab_size=flags.vocab_size,
            held_out_fraction=flags.held_out_fraction,
            seed=flags.seed,
            progress=bar,
        )
    for split, totals in manifest.totals.items():
        print(
            f"{split:8} {totals.tokens:>12,} tokens of {totals.documents:,} documents, "
            f"{totals.text_bytes / 1e6:,.1f} MB of text"
        )
    for reason, count in manifest.passed_over.items():
        print(f"passed over {count:,} files: {reason}")
    print(f"train on it: python -m rtdlm.train --data-dir {flags.out} --out runs/NAME")


if __name__ == "__main__":
    leave(main())
