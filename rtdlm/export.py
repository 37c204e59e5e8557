"""`python -m rtdlm.export`: writes a trained model in a form that others read.

python -m rtdlm.export --checkpoint runs/tiny --to hf --out exported
"""

import sys
from collections.abc import Sequence

from rtdlm.config.command_line import add_checkpoint_flag, leave, make_parser, path, run, tell

DESCRIPTION = """Writes a trained model in a form that other programs read.

  python -m rtdlm.export --checkpoint runs/tiny --to hf --out exported
  python -m rtdlm.export --checkpoint runs/tiny --to gguf --dtype float16 --out exported

  hf     config.json, model.safetensors and tokenizer.json for Hugging Face's transformers
  onnx   model.onnx (input_ids -> logits, batch and length free) and tokenizer.json
  gguf   model.gguf for llama.cpp, the tokenizer within

The model has to be one of the families that transformers knows: a preset trained with
--set short_conv=0 value_residual=false is a Qwen3, with qk_norm=false too a Llama."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and exports; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    parser = make_parser("export", DESCRIPTION)
    add_checkpoint_flag(parser)
    parser.add_argument(
        "--to", choices=("hf", "onnx", "gguf"), required=True, help="the form to write"
    )
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="where to write it")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"),
        help="format of the weights (default: that of all weights of a Hugging Face folder, else "
        "float32; ONNX is float32)",
    )  # fmt: skip
    flags = parser.parse_args(arguments)
    from rtdlm.interop import export_checkpoint

    family, dtype = export_checkpoint(
        flags.checkpoint, flags.out, form=flags.to, dtype=flags.dtype, notice=tell
    )
    print(f"{flags.out}: a {family.model_type} model in {dtype}")


if __name__ == "__main__":
    leave(main())
