"""Writes a checkpoint's weights in few bits, and says what they take and what they lose.

    python scripts/quantize_model.py --checkpoint runs/tiny --kind int8 --out tiny-int8
    python -m rtdlm.generate --checkpoint tiny-int8 --prompt "def"

The folder holds the configuration, the tokenizer and, for matrices and tables, their codes and
scales (`rtdlm.interop.quantize.INPUTS` says which), with everything else as it is: norms, biases,
routers, gates and other small ones. With --measure the held-out perplexity is told before and
after.
"""

import sys
from collections.abc import Sequence

from rtdlm.config.command_line import add_checkpoint_flag, leave, make_parser, path, run, tell

DESCRIPTION = __doc__ or ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and quantizes; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    parser = make_parser("quantize", DESCRIPTION)
    add_checkpoint_flag(parser)
    parser.add_argument("--kind", choices=("int8", "int4", "nf4"), required=True)
    parser.add_argument("--out", type=path, metavar="DIR", help="where to write the model")
    parser.add_argument(
        "--measure", action="store_true", help="evaluate before and after, on the run's own text"
    )
    flags = parser.parse_args(arguments)
    from rtdlm.interop import write_quantized_model
    from rtdlm.interop.load import load_any_model
    from rtdlm.interop.quantize import nbytes, quantize_params

    loaded = load_any_model(flags.checkpoint, notice=tell)
    params = loaded.params
    small = quantize_params(params, flags.kind)
    whole = sum(leaf.nbytes for leaves in params.values() for leaf in leaves.values())
    print(f"{flags.kind}: {nbytes(small):,} bytes, {nbytes(small) / whole:.3f} of float32's")
    if flags.out is not None:
        write_quantized_model(flags.out, loaded.model.config, small, tokenizer=loaded.tokenizer)
        print(f"written to {flags.out}")
    if flags.measure:
        from rtdlm.evaluation import measure

        losses = [
            measure(flags.checkpoint, quantize=kind, notice=tell)["held_out"]["perplexity"]
            for kind in (None, flags.kind)
        ]
        change = 100 * (losses[1] / losses[0] - 1)
        print(f"perplexity {losses[0]:.4f} before, {losses[1]:.4f} after: {change:+.2f} %")


if __name__ == "__main__":
    leave(main())
