"""`python -m rtdlm.memory`: looks into a memory that was saved to a file, and makes it forget.

python -m rtdlm.memory show ada.memory --checkpoint runs/tiny
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rtdlm.config.command_line import leave, make_parser, path, run, tell
from rtdlm.config.effect import require

if TYPE_CHECKING:
    from rtdlm.checkpoint.bank import MemoryBank
    from rtdlm.data import Tokenizer

DESCRIPTION = """Looks into a memory that was saved to a file, and makes it forget.

  python -m rtdlm.memory list ada.memory
  python -m rtdlm.memory show ada.memory --layer 1 --checkpoint runs/tiny
  python -m rtdlm.memory show ada.memory --text Paris --tokenizer runs/tiny/data/tokenizer.json
  python -m rtdlm.memory forget ada.memory --text Paris --checkpoint runs/tiny
  python -m rtdlm.memory forget ada.memory --older-than 100000
  python -m rtdlm.memory forget ada.memory --layer 1 --slots 3 17 18"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and does as told; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    flags = _parser().parse_args(arguments)
    from rtdlm.checkpoint.bank import MemoryBank

    bank = MemoryBank.load(flags.file)
    {"list": _list, "show": _show, "forget": _forget}[flags.action](bank, flags)


def _parser() -> ArgumentParser:
    parser = make_parser("memory", DESCRIPTION)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    helps = {
        "list": "how full each layer is, how old its tokens are, how much they are read",
        "show": "the tokens of a layer in order of birth",
        "forget": "empties slots and saves the file; with several conditions, where all hold",
    }
    for action, text in helps.items():
        own = actions.add_parser(
            action, help=text, description=text,
            formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        own.add_argument("file", type=path, metavar="FILE", help="a memory")
        if action == "list":
            continue
        default = "0" if action == "show" else "all"
        own.add_argument("--layer", type=int, metavar="N", help=f"one layer (default: {default})")
        own.add_argument("--text", metavar="TEXT", help="tokens that this text is made of")
        own.add_argument(
            "--checkpoint", type=path, metavar="DIR", help="of the model, for its tokenizer"
        )
        own.add_argument("--tokenizer", metavar="KIND", help="`byte` or a tokenizer.json instead")
    forget = actions.choices["forget"]
    forget.add_argument("--slots", type=int, nargs="+", metavar="M", help="numbers, of a --layer")
    forget.add_argument(
        "--older-than", type=int, metavar="N", help="more than N tokens were offered since"
    )
    return parser


def _list(bank: "MemoryBank", flags: Namespace) -> None:
    from rtdlm.checkpoint.bank_text import overview

    del flags
    print(overview(bank))


def _show(bank: "MemoryBank", flags: Namespace) -> None:
    from rtdlm.checkpoint.bank_text import listing

    tokenizer = _tokenizer(bank, flags)
    (layer,) = _layers(bank, 0 if flags.layer is None else flags.layer)
    print(listing(bank, layer, tokenizer, text=flags.text))


def _forget(bank: "MemoryBank", flags: Namespace) -> None:
    from rtdlm.checkpoint.bank_text import chosen

    require(
        any(given is not None for given in (flags.text, flags.slots, flags.older_than)),
        "forget was not told what; give --text, --slots or --older-than",
    )
    require(
        flags.slots is None or flags.layer is not None,
        "--slots needs --layer: the same slot holds another token in another layer",
    )
    tokenizer = _tokenizer(bank, flags)
    gone = chosen(
        bank,
        _layers(bank, flags.layer),
        tokenizer,
        text=flags.text,
        slots=flags.slots,
        older_than=flags.older_than,
    )
    if gone.any():
        bank.forget(gone).save(flags.file)
    print(f"{flags.file}: {gone.sum():,} of {(bank.label_LM > 0).sum():,} filled slots forgotten")


def _layers(bank: "MemoryBank", layer: int | None) -> Sequence[int]:
    layers = len(bank.key_LMHE)
    require(
        layer is None or 0 <= layer < layers,
        f"--layer {layer} is not there: the memory has layers 0 to {layers - 1}",
    )
    return range(layers) if layer is None else (layer,)


def _tokenizer(bank: "MemoryBank", flags: Namespace) -> "Tokenizer | None":
    from rtdlm.checkpoint import load_model
    from rtdlm.data import Tokenizer, byte_tokenizer, read_tokenizer

    both = flags.checkpoint is not None and flags.tokenizer is not None
    require(not both, "--checkpoint and --tokenizer both name a tokenizer; keep one")
    if flags.checkpoint is not None:
        saved = load_model(flags.checkpoint, notice=tell)
        require(
            saved.tokenizer is not None,
            f"checkpoint {flags.checkpoint} brings no tokenizer; name one with --tokenizer",
        )
        assert saved.tokenizer is not None
        tokenizer = Tokenizer(saved.tokenizer, name=str(saved.directory))
    elif flags.tokenizer is not None:
        byte = flags.tokenizer == "byte"
        tokenizer = byte_tokenizer() if byte else read_tokenizer(flags.tokenizer)
    else:
        require(
            flags.text is None,
            f"--text {flags.text!r} cannot be looked for without a tokenizer; give the model's "
            "--checkpoint or a --tokenizer",
        )
        return None
    bank.require_tokenizer(tokenizer.hash)
    return tokenizer


if __name__ == "__main__":
    leave(main())
